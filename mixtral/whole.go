package mixtral

import (
	"context"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// wholeShape is what a whole-graph program is compiled for.
type wholeShape struct {
	b, t, past       int
	store            bool // return the step's keys and values
	headRows         int  // rows whose logits to return, bucketed
	observe, asInput bool // return router logits, router inputs
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
		return nil // there is nothing to return
	}
	args, own, err := m.wholeArgs(s, shape, rows)
	defer xla.Free(own...)
	if err != nil {
		return err
	}
	out, err := m.run(shape.key(), func(in []*Node) []*Node { return m.wholeGraph(in, shape) }, args...)
	if err != nil {
		return err
	}
	defer func() { xla.Free(out...) }()
	if shape.headRows > 0 {
		if err := r.readLogits(out[0], docs); err != nil {
			return err
		}
		xla.Free(out[0])
		out = out[1:]
	}
	if shape.observe {
		if err := r.observed(ctx, s, shape, out); err != nil {
			return err
		}
	}
	if shape.store {
		kv := out[len(out)-2*m.cfg.Layers:]
		for i := range m.w.layers {
			if err := m.store(s, i, kv[2*i], kv[2*i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// observed calls the hooks of all layers, after the step.
func (r *run) observed(ctx context.Context, s *step, shape wholeShape, out []compute.Buffer) error {
	c, n := &r.m.cfg, s.rowsTotal()
	logits, err := r.m.d.Floats(out[0]) // [L,N,E]
	if err != nil {
		return err
	}
	var inputs []float32 // [L,N,D]
	if shape.asInput {
		if inputs, err = r.m.d.Floats(out[1]); err != nil {
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

// wholeArgs returns the program's arguments, in the order in which wholeGraph
// takes them, and those of them to free afterwards.
func (m *Model) wholeArgs(s *step, shape wholeShape, rows []int32) (args, own []compute.Buffer, err error) {
	tokens, err := xla.Upload(m.d.Device, s.tokens, s.rowsTotal())
	if err != nil {
		return nil, nil, err
	}
	own = append(own, tokens)
	rope, err := m.uploadRope(s)
	if err != nil {
		return nil, own, err
	}
	own = append(own, rope...)
	args = append(append(args, own...), s.starts, m.w.embed)
	for i := range m.w.layers {
		w := &m.w.layers[i]
		args = append(append(args, w.dense()...), w.w13[0].buffers()...)
		args = append(args, w.w2[0].buffers()...)
		if shape.past > 0 {
			args = append(args, s.part.k[i], s.part.v[i])
		}
	}
	if shape.headRows > 0 {
		index, _, err := m.uploadRows(rows)
		if err != nil {
			return nil, own, err
		}
		own = append(own, index)
		args = append(args, index, m.w.norm, m.w.head)
	}
	return args, own, nil
}

// wholeGraph is the model: tokens [N] to logits [R,V], router logits [L,N,E],
// router inputs [L,N,D], and keys and values, of which the step requires some.
func (m *Model) wholeGraph(in []*Node, shape wholeShape) []*Node {
	take := func(n int) []*Node { head := in[:n]; in = in[n:]; return head }
	first := take(5)
	tokens, cos, sin, starts := first[0], first[1], first[2], first[3]
	mask := newGraphMask(&m.cfg, starts, shape.b, shape.past, wholeBlock)
	x := embedding(tokens, first[4]) // [N,D]
	var allLogits, inputs, kv []*Node
	for range m.cfg.Layers {
		w := takeNodes(&in)
		w13, w2 := takeWeight(&in), takeWeight(&in)
		var cache *split
		if shape.past > 0 {
			both := take(2)
			cache = &split{k: both[0], v: both[1]}
		}
		y, h, logits, k, v := m.block(x, w, cos, sin, cache, mask, shape.b, shape.t) // [N,D], [N,D], [N,E]
		x = Add(y, m.moe(h, logits, w13, w2))                                        // [N,D]
		inputs, allLogits = append(inputs, h), append(allLogits, logits)
		if shape.store {
			kv = append(kv, k, v)
		}
	}
	var outs []*Node
	if shape.headRows > 0 {
		last := take(3)
		outs = append(outs, m.head(x, last[0], last[1], last[2])) // [R,V]
	}
	if shape.observe {
		outs = append(outs, Stack(allLogits, 0)) // [L,N,E]
	}
	if shape.asInput {
		outs = append(outs, Stack(inputs, 0)) // [L,N,D]
	}
	return append(outs, kv...)
}

// moe returns the sparse mixture's output, [N,D]. h: [N,D]; logits: [N,E]; w13:
// [E,2F,D]; w2: [E,D,F]. With few rows each reads only its experts, by slices
// selected on the device; with many, all experts run on all rows.
func (m *Model) moe(h, logits *Node, w13, w2 weight) *Node {
	c := &m.cfg
	index, weights := topKGraph(logits, c.TopK) // K of [N] int32, [N,K]
	n := h.Shape().Dimensions[0]
	if n*c.TopK > max(c.Experts, c.TopK) {
		return m.d.denseMoE(h, combine(index, weights, c.Experts), w13, w2)
	}
	var outs []*Node
	for row := range n {
		x := SliceAxis(h, 0, AxisRange(row, row+1)) // [1,D]
		var y *Node
		for k := range c.TopK {
			e := Reshape(SliceAxis(index[k], 0, AxisRange(row, row+1)))
			w := Slice(weights, AxisRange(row, row+1), AxisRange(k, k+1)) // [1,1]
			out := Mul(m.d.swiglu(x, m.sliceExpert(w13, e), m.sliceExpert(w2, e)), w)
			y = fold(Add, y, out)
		}
		outs = append(outs, y)
	}
	if len(outs) == 1 {
		return outs[0]
	}
	return Concatenate(outs, 0)
}

// topKGraph is topK in a graph: the k largest of logits [N,E], largest first and on
// ties the lower index, K of [N] int32, and the softmax over them, [N,K].
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

// combine returns the routing weights of all experts, [N,E], 0 if not selected.
func combine(index []*Node, weights *Node, numExperts int) *Node {
	var sum *Node
	for k, e := range index {
		w := Mul(OneHot(e, numExperts, dtypes.Float32), SliceAxis(weights, 1, AxisRange(k, k+1)))
		sum = fold(Add, sum, w)
	}
	return sum
}

// denseMoE runs every expert on every row. h: [N,D]; weights: [N,E].
func (d *device) denseMoE(h, weights *Node, w13, w2 weight) *Node {
	if w13.scale != nil {
		return d.denseInt8(h, weights, w13, w2)
	}
	return d.denseFloat(h, weights, w13.w, w2.w)
}

// denseInt8 is denseMoE of int8 experts, whose products are scaled before they are
// added.
func (d *device) denseInt8(h, weights *Node, w13, w2 weight) *Node {
	experts, f := w13.w.Shape().Dimensions[0], w13.w.Shape().Dimensions[1]/2
	y := DotGeneral(ConvertDType(h, d.dtype), []int{1}, nil, ConvertDType(w13.w, d.dtype), []int{2}, nil)
	y = Mul(float(y), InsertAxes(w13.scale, 0)) // [N,E,2F]
	gate, up := SliceAxis(y, 2, AxisRange(0, f)), SliceAxis(y, 2, AxisRange(f))
	y = ConvertDType(Mul(Mul(d.silu(gate), up), InsertAxes(weights, -1)), d.dtype) // [N,E,F], weighted
	y = DotGeneral(y, []int{2}, []int{1}, ConvertDType(w2.w, d.dtype), []int{2}, []int{0})
	y = Mul(float(y), Reshape(w2.scale, experts, 1, -1)) // [E,N,D]
	return ReduceSum(y, 0)
}

func (d *device) denseFloat(h, weights, w13, w2 *Node) *Node {
	f := w13.Shape().Dimensions[1] / 2
	dtype := w13.DType()
	y := float(DotGeneral(ConvertDType(h, dtype), []int{1}, nil, w13, []int{2}, nil)) // [N,E,2F]
	gate, up := SliceAxis(y, 2, AxisRange(0, f)), SliceAxis(y, 2, AxisRange(f))
	y = Mul(Mul(d.silu(gate), up), InsertAxes(weights, -1)) // [N,E,F], weighted
	// Contracting E and F at once sums over the experts.
	return float(DotGeneral(ConvertDType(y, dtype), []int{1, 2}, nil, w2, []int{0, 2}, nil))
}
