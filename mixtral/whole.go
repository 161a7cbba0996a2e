package mixtral

import (
	"context"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// wholeShape is what a whole-graph program is compiled for.
type wholeShape struct {
	b, t, past       int
	store            bool // the step's keys and values are wanted
	headRows         int  // rows whose logits are wanted, bucketed
	observe, asInput bool // router logits, router inputs are wanted
}

func (w wholeShape) key() programKey {
	bits := 0
	for i, on := range []bool{w.store, w.observe, w.asInput} {
		if on {
			bits |= 1 << i
		}
	}
	return programKey{"whole", w.b, w.t, w.past, w.headRows<<3 | bits}
}

// runWhole computes one step as one program.
func (r *run) runWhole(ctx context.Context, s *step) error {
	m, req := r.m, r.req
	rows, docs := r.headRows(s)
	shape := wholeShape{b: s.b, t: s.t, past: s.pastLen(), store: s.part != nil, observe: req.Observe != nil,
		asInput: req.Observe != nil && req.RouterInput}
	if len(rows) > 0 {
		shape.headRows = m.bucket(len(rows))
	}
	if shape.headRows == 0 && !shape.observe && !shape.store {
		return nil // nothing of it is used
	}
	p, err := m.programs.get(m.d, shape.key(), func() []param { return m.wholeParams(s, shape) },
		func(in []*Node) []*Node { return m.wholeGraph(in, shape) })
	if err != nil {
		return err
	}
	args, own, err := m.wholeArgs(s, shape, rows)
	defer free(own...)
	if err != nil {
		return err
	}
	out, err := p.run(args...)
	if err != nil {
		return err
	}
	defer func() { free(out...) }()
	if shape.headRows > 0 {
		logits, err := m.d.floats(out[0])
		if err != nil {
			return err
		}
		r.takeLogits(logits, docs)
		free(out[0])
		out = out[1:]
	}
	if shape.observe {
		if err := r.observed(ctx, s, shape, out); err != nil {
			return err
		}
	}
	if shape.store {
		kv := out[len(out)-2*m.cfg.Layers:]
		return m.keep(s, kv)
	}
	return nil
}

// keep takes over the caches that a step returns: updated ones, or where memory
// is shared the step's keys and values alone. What it takes it sets to nil in kv.
func (m *Model) keep(s *step, kv []compute.Buffer) error {
	for i := range m.w.layers {
		if m.d.shared {
			if err := m.store(s, i, kv[2*i], kv[2*i+1]); err != nil {
				return err
			}
			continue
		}
		free(s.part.k[i], s.part.v[i])
		s.part.k[i], s.part.v[i] = kv[2*i], kv[2*i+1]
		kv[2*i], kv[2*i+1] = nil, nil
	}
	return nil
}

// observed tells the hooks of all layers, after the step.
func (r *run) observed(ctx context.Context, s *step, shape wholeShape, out []compute.Buffer) error {
	c, n := &r.m.cfg, s.rowsTotal()
	logits, err := r.m.d.floats(out[0]) // [L,N,E]
	if err != nil {
		return err
	}
	var inputs []float32 // [L,N,D]
	if shape.asInput {
		if inputs, err = r.m.d.floats(out[1]); err != nil {
			return err
		}
	}
	for i := range c.Layers {
		var input []float32
		if inputs != nil {
			input = inputs[i*n*c.HiddenSize:][:n*c.HiddenSize]
		}
		rt := r.routing(s, i, logits[i*n*c.Experts:][:n*c.Experts], input)
		if err := r.hooks(ctx, rt); err != nil {
			return err
		}
	}
	return nil
}

// wholeArgs returns the program's arguments, and those of them to free after.
func (m *Model) wholeArgs(s *step, shape wholeShape, rows []int32) (args, own []compute.Buffer, err error) {
	n := s.rowsTotal()
	tokens, err := upload(m.d, s.tokens, n)
	if err != nil {
		return nil, own, err
	}
	own = append(own, tokens)
	in, err := m.stepInputs(s)
	own = append(own, in...)
	if err != nil {
		return nil, own, err
	}
	args = append(append(args, own...), s.starts)
	if shape.headRows > 0 {
		index, err := upload(m.d, append(rows, make([]int32, shape.headRows-len(rows))...), shape.headRows)
		if err != nil {
			return nil, own, err
		}
		own = append(own, index)
		args = append(args, index)
	}
	args = append(args, m.w.embed, m.w.norm, m.w.head)
	for i := range m.w.layers {
		w := &m.w.layers[i]
		args = append(args, w.attnNorm, w.qkv, w.o, w.ffnNorm, w.gate, w.w13[0], w.w2[0])
		if shape.readsCache(m) {
			args = append(args, s.part.k[i], s.part.v[i])
		}
	}
	return args, own, nil
}

// readsCache reports whether the caches are inputs: to look at, or (where they
// are not written in place) to write to.
func (w wholeShape) readsCache(m *Model) bool { return w.past > 0 || w.store && !m.d.shared }

func (m *Model) wholeParams(s *step, shape wholeShape) []param {
	c, n := &m.cfg, s.rowsTotal()
	dim, hd := c.HiddenSize, c.HeadDim
	heads := c.Heads + c.KVHeads
	ps := []param{i32("tokens", n), f32("cos", n, heads*hd/2), f32("sin", n, heads*hd/2), i32("starts", s.b)}
	if shape.headRows > 0 {
		ps = append(ps, i32("rows", shape.headRows))
	}
	ps = append(ps, param{"embed", shapes.Make(m.dtype, c.VocabSize, dim)}, f32("norm", dim), m.headParam())
	for range c.Layers {
		ps = append(ps, f32("attn_norm", dim), m.matrix("qkv", (heads+c.KVHeads)*hd, dim), m.matrix("o", dim, c.Heads*hd),
			f32("ffn_norm", dim), m.gateParam(),
			m.matrix("w13", c.Experts, 2*c.IntermediateSize, dim), m.matrix("w2", c.Experts, dim, c.IntermediateSize))
		if shape.readsCache(m) {
			ps = append(ps, m.cacheParams(s.b, s.part.c)...)
		}
	}
	return ps
}

func (m *Model) wholeGraph(in []*Node, shape wholeShape) []*Node {
	c := &m.cfg
	next := func() *Node { n := in[0]; in = in[1:]; return n }
	tokens, cos, sin, starts := next(), next(), next(), next()
	mask := newGraphMask(c, starts, shape.b, shape.past, wholeBlock)
	var rows *Node
	if shape.headRows > 0 {
		rows = next()
	}
	embed, norm, head := next(), next(), next()
	x := float(Gather(embed, InsertAxes(tokens, -1))) // [N,D]
	var logits, inputs, kv []*Node
	for range c.Layers {
		attnNorm, qkv, o, ffnNorm, gate, w13, w2 := next(), next(), next(), next(), next(), next(), next()
		var part, cache *split
		if shape.readsCache(m) {
			part = &split{k: next(), v: next()}
		}
		if shape.past > 0 {
			cache = part
		}
		out := m.block(x, attnNorm, qkv, o, ffnNorm, gate, cos, sin, cache, mask, shape.b, shape.t)
		x = Add(out[0], m.moe(out[1], out[2], w13, w2))
		inputs, logits = append(inputs, out[1]), append(logits, out[2])
		switch {
		case shape.store && m.d.shared:
			kv = append(kv, out[3], out[4])
		case shape.store:
			kv = append(kv, appendKV(part.k, out[3], starts), appendKV(part.v, out[4], starts))
		}
	}
	var outs []*Node
	if rows != nil {
		x := Gather(x, InsertAxes(rows, -1)) // [R,D]
		outs = append(outs, m.project(x, norm, head))
	}
	if shape.observe {
		outs = append(outs, Stack(logits, 0))
	}
	if shape.asInput {
		outs = append(outs, Stack(inputs, 0))
	}
	return append(outs, kv...)
}

// moe returns the sparse mixture's output, [N,D]. h: [N,D]; logits: [N,E]; w13:
// [E,2F,D]; w2: [E,D,F]. With few rows each reads its experts alone, by slices
// chosen on the device; with many, all experts run on all rows.
func (m *Model) moe(h, logits, w13, w2 *Node) *Node {
	c := &m.cfg
	index, weights := topKGraph(logits, c.TopK) // K of [N] int32, [N,K]
	n := h.Shape().Dimensions[0]
	if n*c.TopK > max(c.Experts, c.TopK) {
		return m.d.denseMoE(h, combine(index, weights, c.Experts), w13, w2)
	}
	product := m.d.linear
	if m.d.gpu {
		product = vecLinear
	}
	var outs []*Node
	for row := range n {
		x := SliceAxis(h, 0, AxisRange(row, row+1)) // [1,D]
		var y *Node
		for k := range c.TopK {
			e := Reshape(SliceAxis(index[k], 0, AxisRange(row, row+1)))
			w := Slice(weights, AxisRange(row, row+1), AxisRange(k, k+1)) // [1,1]
			out := Mul(m.d.swiglu(x, m.sliceExpert(w13, e), m.sliceExpert(w2, e), product), w)
			if y == nil {
				y = out
			} else {
				y = Add(y, out)
			}
		}
		outs = append(outs, y)
	}
	if len(outs) == 1 {
		return outs[0]
	}
	return Concatenate(outs, 0)
}

// topKGraph is topK in the graph: of logits [N,E] the k largest in turn, on
// ties the lower index, and the softmax over them.
func topKGraph(logits *Node, k int) (index []*Node, weights *Node) {
	g := logits.Graph()
	shape := logits.Shape()
	experts := Iota(g, shapes.Make(dtypes.Int32, shape.Dimensions...), 1)
	gone := AddScalar(ZerosLike(logits), -3e38)
	var values []*Node
	for range k {
		values = append(values, ReduceAndKeep(logits, ReduceMax, 1)) // [N,1]
		e := ArgMax(logits, 1, dtypes.Int32)                         // [N]
		index = append(index, e)
		this := BroadcastToDims(InsertAxes(e, -1), shape.Dimensions...)
		logits = Where(Equal(experts, this), gone, logits)
	}
	return index, Softmax(Concatenate(values, 1), -1)
}

// combine spreads the routing weights over all experts: [N,E], 0 where not chosen.
func combine(index []*Node, weights *Node, numExperts int) *Node {
	var sum *Node
	for k, e := range index {
		w := Mul(OneHot(e, numExperts, dtypes.Float32), SliceAxis(weights, 1, AxisRange(k, k+1)))
		if sum == nil {
			sum = w
		} else {
			sum = Add(sum, w)
		}
	}
	return sum
}

// denseMoE runs every expert on every row. h: [N,D]; weights: [N,E].
func (d *device) denseMoE(h, weights, w13, w2 *Node) *Node {
	dims := w13.Shape().Dimensions
	in, f := 2, dims[1]/2
	if d.isGo { // [E,D,2F], [E,F,D]
		in, f = 1, dims[2]/2
	}
	dtype := w13.DType()
	y := float(DotGeneral(ConvertDType(h, dtype), []int{1}, nil, w13, []int{in}, nil)) // [N,E,2F]
	gate, up := SliceAxis(y, 2, AxisRange(0, f)), SliceAxis(y, 2, AxisRange(f))
	y = Mul(Mul(d.silu(gate), up), InsertAxes(weights, -1)) // [N,E,F], weighted
	// Contract E and F at once: the sum over experts is the product's own.
	return float(DotGeneral(ConvertDType(y, dtype), []int{1, 2}, nil, w2, []int{0, in}, nil))
}
