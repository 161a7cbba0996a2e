package mixtral

import (
	"context"
	"math"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// batched computes one step, two programs a layer: attention, up to the router, and
// the experts that the host chose.
func (r *run) batched(ctx context.Context, s *step) error {
	m := r.m
	out, err := m.start(s)
	if err != nil {
		return err
	}
	x, cos, sin := out[0], out[1], out[2]
	defer func() { xla.Free(x, cos, sin) }()
	for i := range m.w.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if x, err = r.batchedLayer(ctx, s, i, x, cos, sin, nil); err != nil {
			return err
		}
	}
	return r.logits(s, x)
}

// start returns the tokens' embeddings x [N,D] float32, and cos and sin of their
// positions' angles, [N,hd/2].
func (m *Model) start(s *step) ([]compute.Buffer, error) {
	n := s.rowsTotal()
	ints := append([]int32(nil), s.tokens...)
	for row := range n {
		ints = append(ints, int32(s.first[row/s.t]+row%s.t))
	}
	args, err := xla.Upload(m.d.Device, ints, 2*n)
	if err != nil {
		return nil, err
	}
	defer xla.Free(args)
	return m.run(programKey{"start", n, 0, 0, 0}, func(in []*Node) []*Node {
		ints := in[0]
		x := embedding(takeInts(&ints, n), in[1])
		cos, sin := rope(&m.cfg, ints)
		return []*Node{x, cos, sin}
	}, args, m.w.embed)
}

// batchedLayer computes one block, with the routing rt, or if that is nil the one
// of its router and the hooks. It frees x and returns the next; nil on an error.
func (r *run) batchedLayer(ctx context.Context, s *step, i int, x, cos, sin compute.Buffer, rt *Routing) (compute.Buffer, error) {
	m, p := r.m, s.part
	out, err := m.batchedAttention(s, i, x, cos, sin, r.req.RouterInput)
	xla.Free(x)
	if err != nil {
		return nil, err
	}
	x, h, logits := out[0], out[1], out[2]
	defer xla.Free(x, h, logits)
	if p != nil {
		xla.Free(p.k[i], p.v[i])
		p.k[i], p.v[i] = out[3], out[4]
	}
	if rt == nil {
		if rt, err = r.route(ctx, s, i, h, logits); err != nil {
			return nil, err
		}
	}
	if m.stacked() {
		return m.batchedExperts(s, i, x, h, rt)
	}
	return m.separateExperts(ctx, s, i, x, h, rt)
}

// batchedAttention runs layer i up to its router: x [N,D], h [N,D] (float32 if
// asInput), router logits [N,E], and with a cache its keys and values.
func (m *Model) batchedAttention(s *step, i int, x, cos, sin compute.Buffer, asInput bool) ([]compute.Buffer, error) {
	l := newBatchedShape(s, asInput)
	key := programKey{"batched attention", l.b, l.t, l.past, 2 * l.size}
	if asInput {
		key.d++
	}
	args := append([]compute.Buffer{x, cos, sin, s.starts}, m.attentionArgs(s, i)...)
	return m.run(key, func(in []*Node) []*Node {
		rest := in[4:]
		x, h, logits, kv := m.attentionNodes(in[0], in[1], in[2], in[3], &rest, l)
		return append([]*Node{x, h, logits}, kv...)
	}, args...)
}

// batchedShape is what attention is compiled for.
type batchedShape struct {
	b, t, past, size int  // size is that of the cache; 0: none
	asInput          bool // h is float32
}

func newBatchedShape(s *step, asInput bool) batchedShape {
	l := batchedShape{b: s.b, t: s.t, past: s.pastLen(), asInput: asInput}
	if s.part != nil {
		l.size = s.part.c
	}
	return l
}

// attentionArgs returns the parameters that attentionNodes takes.
func (m *Model) attentionArgs(s *step, i int) []compute.Buffer {
	args := m.w.layers[i].dense()
	if s.pastLen() > 0 {
		args = append(args, s.part.k[i], s.part.v[i])
	}
	return args
}

// attentionNodes is a layer up to its router, with weights and cache from the front
// of parameters: x [N,D], h [N,D], router logits [N,E], and with a cache its keys
// and values.
func (m *Model) attentionNodes(x, cos, sin, starts *Node, in *[]*Node, l batchedShape) (y, h, logits *Node, kv []*Node) {
	c := &m.cfg
	w := takeNodes(in)
	h = rmsNorm(x, w.attnNorm, c.RMSNormEps) // [N,D]
	now := m.batchedRotate(m.d.linear(h, w.qkv), cos, sin, l.b, l.t)
	var old *split
	if l.past > 0 {
		old = &split{k: (*in)[0], v: (*in)[1]}
		*in = (*in)[2:]
	}
	if old == nil && m.d.GPU && m.dtype == dtypes.BFloat16 && c.SlidingWindow == 0 && c.HeadDim%8 == 0 {
		y = flash(now)
	} else {
		y = m.d.attend(now, old, newGraphMask(c, starts, l.b, l.past, wholeBlock))
	}
	y = Add(x, m.d.Sum(m.d.linear(y, w.o)))   // [N,D]
	h = rmsNorm(y, w.ffnNorm, c.RMSNormEps)   // [N,D]
	logits = m.d.linear(h, weight{w: w.gate}) // [N,E]
	if !l.asInput {
		h = ConvertDType(h, m.dtype)
	}
	switch {
	case old != nil:
		kv = []*Node{appendKV(old.k, now.k, starts), appendKV(old.v, now.v, starts)}
	case l.size > 0:
		kv = []*Node{lengthen(now.k, l.size), lengthen(now.v, l.size)}
	}
	return y, h, logits, kv
}

// lengthen appends zeros to keys or values [B,KV,T,hd] up to a capacity.
func lengthen(x *Node, size int) *Node {
	end := compute.PadAxis{End: size - x.Shape().Dimensions[2]}
	return Pad(x, ScalarZero(x.Graph(), x.DType()), compute.PadAxis{}, compute.PadAxis{}, end)
}

// batchedRotate is rotate with cos and sin [N,hd/2].
func (m *Model) batchedRotate(y, cos, sin *Node, b, t int) split {
	c := &m.cfg
	hd, half := c.HeadDim, c.HeadDim/2
	heads, kv := m.share.heads, m.share.kvHeads
	rot := (heads + kv) * half
	cos, sin = Reshape(cos, b, t, 1, half), Reshape(sin, b, t, 1, half)
	lo := Reshape(SliceAxis(y, 1, AxisRange(0, rot)), b, t, heads+kv, half)
	hi := Reshape(SliceAxis(y, 1, AxisRange(rot, 2*rot)), b, t, heads+kv, half)
	v := Reshape(SliceAxis(y, 1, AxisRange(2*rot)), b, t, kv, hd)
	lo, hi = Sub(Mul(lo, cos), Mul(hi, sin)), Add(Mul(hi, cos), Mul(lo, sin))
	qk := Concatenate([]*Node{lo, hi}, -1) // [B,T,H+KV,hd]
	q := MulScalar(SliceAxis(qk, 2, AxisRange(0, heads)), 1/math.Sqrt(float64(hd)))
	turn := func(x *Node) *Node { return ConvertDType(TransposeAllAxes(x, 0, 2, 1, 3), m.dtype) }
	return split{
		q: Reshape(turn(q), b, kv, heads/kv, t, hd),
		k: turn(SliceAxis(qk, 2, AxisRange(heads))),
		v: turn(v),
	}
}

// flash is attend without a past, by cuDNN: causal attention in one kernel.
func flash(s split) *Node {
	dims := s.q.Shape().Dimensions
	b, kv, g, t, hd := dims[0], dims[1], dims[2], dims[3], dims[4]
	out, _ := BackendFusedScaledDotProductAttention(Reshape(s.q, b, kv*g, t, hd), s.k, s.v, compute.AttentionAxesLayoutBHSD,
		&compute.ScaledDotProductAttentionConfig{Causal: true, Scale: 1})
	return Reshape(TransposeAllAxes(out, 0, 2, 1, 3), b*t, kv*g*hd)
}

// batch is a step's routing as indices: row i of expert slot m is the step's row
// rows[m*size+i], and the k-th expert of row n computed row back[n*K+k] of those.
type batch struct {
	size       int // rows of a slot
	rows, back []int32
	weights    []float32 // [N*K], 0: not computed
}

// newBatch makes a step's batch, where expert e has slot e.
func (m *Model) newBatch(s *step, rt *Routing) *batch {
	n, k := s.rowsTotal(), m.cfg.TopK
	b := &batch{back: make([]int32, n*k), weights: make([]float32, n*k)}
	counts := make([]int, m.cfg.Experts)
	for i, e := range rt.Experts {
		if rt.Weights[i] != 0 {
			counts[e]++
			b.size = max(b.size, counts[e])
		}
	}
	b.size = bucketEighths(b.size)
	b.rows = make([]int32, m.mesh.slots(&m.cfg)*b.size)
	clear(counts)
	for t, row := range s.rows {
		for i := range k {
			e, w := rt.Experts[t*k+i], rt.Weights[t*k+i]
			if w == 0 {
				continue
			}
			at := int(e)*b.size + counts[e]
			counts[e]++
			b.rows[at] = int32(row)
			b.back[row*k+i], b.weights[row*k+i] = int32(at), w
		}
	}
	return b
}

// bucketEighths rounds up to a multiple of an eighth of the next power of two, at
// least 8: at most a quarter more, in four sizes for each power of two.
func bucketEighths(n int) int {
	step := max(8, powerOfTwo(n)/8)
	return max(1, (n+step-1)/step) * step
}

// batchedExperts returns x plus the chosen experts' outputs.
func (m *Model) batchedExperts(s *step, i int, x, h compute.Buffer, rt *Routing) (compute.Buffer, error) {
	n, k := s.rowsTotal(), m.cfg.TopK
	b := m.newBatch(s, rt)
	ints := append(append(b.rows, b.back...), bits(b.weights)...)
	index, err := xla.Upload(m.d.Device, ints, len(ints))
	if err != nil {
		return nil, err
	}
	defer xla.Free(index)
	slots := m.mesh.slots(&m.cfg)
	w13, w2 := m.expertWeights(i, 0)
	args := append(append([]compute.Buffer{x, h, index}, w13.buffers()...), w2.buffers()...)
	shape, err := h.Shape()
	if err != nil {
		return nil, err
	}
	return xla.One(m.run(programKey{"batched experts", n, b.size, slots, shape.DType.Size()}, func(in []*Node) []*Node {
		x, h, ints := in[0], ConvertDType(in[1], m.dtype), in[2]
		in = in[3:]
		rows, back := takeInts(&ints, slots*b.size, 1), takeInts(&ints, n*k, 1)
		weights := Bitcast(Reshape(ints, n, k, 1), dtypes.Float32)
		return []*Node{m.batchedMoE(x, h, rows, back, weights, slots, &in)}
	}, args...))
}

// batchedMoE returns x plus the experts' outputs, [N,D]. rows [M*C,1] of h [N,D] are
// those of M experts; back [N*K,1]: the results that each row adds, times weights
// [N,K,1].
func (m *Model) batchedMoE(x, h, rows, back, weights *Node, slots int, in *[]*Node) *Node {
	w13, w2 := takeWeight(in), takeWeight(in)
	if w13.first != nil {
		rows, back, weights = w13.ownRows(rows, back, weights, slots)
		slots = m.share.experts
	}
	h = Reshape(Gather(h, rows), slots, -1, m.cfg.HiddenSize)
	y := Reshape(m.batchedExpert(h, w13, w2), -1, m.cfg.HiddenSize) // [M*C,D]
	dims := weights.Shape().Dimensions
	y = float(Reshape(Gather(y, back), dims[0], dims[1], m.cfg.HiddenSize)) // [N,K,D]
	return Add(x, m.d.Sum(ReduceSum(weighed(y, weights), 1)))
}

// batchedExpert returns the outputs of M experts, [M,C,D], of the type of
// products. h: [M,C,D]; w13: [M,2F,D]; w2: [M,D,F].
func (m *Model) batchedExpert(h *Node, w13, w2 weight) *Node {
	y := m.batchedLinear(h, w13) // [M,C,2F]
	f := y.Shape().Dimensions[2] / 2
	gate, up := float(SliceAxis(y, 2, AxisRange(0, f))), float(SliceAxis(y, 2, AxisRange(f)))
	return m.batchedLinear(ConvertDType(Mul(m.d.silu(gate), up), m.dtype), w2)
}

// batchedLinear is linear for M matrices: x [M,C,I], w [M,O,I], result [M,C,O].
func (m *Model) batchedLinear(x *Node, w weight) *Node {
	y := DotGeneral(x, []int{2}, []int{0}, ConvertDType(w.w, m.dtype), []int{2}, []int{0})
	if w.scale != nil {
		y = ConvertDType(Mul(float(y), InsertAxes(w.scale, 1)), m.dtype)
	}
	return y
}
