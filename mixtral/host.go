package mixtral

import (
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
	"golang.org/x/sync/errgroup"
)

// On the Go backend a step of the stepped executor is one document. GoMLX computes
// the products, in programs. The host computes softmax and SwiGLU in between, in
// the same memory, and runs blocks of queries and experts concurrently: the Go
// backend computes elementwise operations one scalar at a time, several passes
// each, and its Logistic calls math.Exp, which takes .7 us after AVX-512 code.

// attentionOnHost is attention for the Go backend, with the same results.
func (m *Model) attentionOnHost(s *step, i int, x compute.Buffer, rope []compute.Buffer) ([]compute.Buffer, error) {
	w := &m.w.layers[i]
	qkv, err := m.qkv(s, w, x, rope)
	if err != nil {
		return nil, err
	}
	defer free(qkv[0])
	attended, err := m.attendBlocks(s, i, qkv)
	defer free(attended...)
	var out []compute.Buffer
	if err == nil {
		out, err = m.router(s, x, attended, w)
	}
	if err != nil {
		free(qkv[1:]...)
		return nil, err
	}
	return append(out, qkv[1:]...), nil
}

// qkv computes norm and projectQKV: q, k and v.
func (m *Model) qkv(s *step, w *layerWeights, x compute.Buffer, rope []compute.Buffer) ([]compute.Buffer, error) {
	c := &m.cfg
	if w.qkv.scale == nil {
		return m.run(programKey{"qkv", s.t, 0, 0, 0}, func(in []*Node) []*Node {
			x, norm, qkv, cos, sin := in[0], in[1], in[2], in[3], in[4]
			s := m.d.projectQKV(c, rmsNorm(x, norm, c.RMSNormEps), weight{w: qkv}, cos, sin, 1, s.t)
			return []*Node{s.q, s.k, s.v}
		}, x, w.attnNorm, w.qkv.w, rope[0], rope[1])
	}
	h, err := one(m.run(programKey{"norm", s.t, 0, 0, 0}, func(in []*Node) []*Node {
		return []*Node{rmsNorm(in[0], in[1], c.RMSNormEps)}
	}, x, w.attnNorm))
	if err != nil {
		return nil, err
	}
	defer free(h)
	y, err := m.int8Linear(h, w.qkv, s.t, s.lanes)
	if err != nil {
		return nil, err
	}
	defer free(y)
	return m.run(programKey{"rotate", s.t, 0, 0, 0}, func(in []*Node) []*Node {
		s := m.d.rotate(c, in[0], in[1], in[2], 1, s.t)
		return []*Node{s.q, s.k, s.v}
	}, y, rope[0], rope[1])
}

// router adds the attention's output, blocks of [1,H,r,hd], to x [T,D] and
// computes norm and router: block's y, h and logits.
func (m *Model) router(s *step, x compute.Buffer, attended []compute.Buffer, w *layerWeights) ([]compute.Buffer, error) {
	c := &m.cfg
	join := func(blocks []*Node) *Node { // to [T,H*hd]
		a := blocks[0]
		if len(blocks) > 1 {
			a = Concatenate(blocks, 2) // [1,H,T,hd]
		}
		return Reshape(TransposeAllAxes(a, 0, 2, 1, 3), s.t, c.Heads*c.HeadDim)
	}
	route := func(x, norm, gate *Node) []*Node {
		h := rmsNorm(x, norm, c.RMSNormEps)                  // [T,D]
		return []*Node{x, h, m.d.linear(h, weight{w: gate})} // and [T,E]
	}
	if w.o.scale == nil {
		return m.run(programKey{"router", s.t, 0, 0, 0}, func(in []*Node) []*Node {
			x, o, norm, gate := in[0], in[1], in[2], in[3]
			x = Add(x, m.d.linear(join(in[4:]), weight{w: o})) // [T,D]
			return route(x, norm, gate)
		}, append([]compute.Buffer{x, w.o.w, w.ffnNorm, w.gate}, attended...)...)
	}
	a, err := one(m.run(programKey{"join", s.t, 0, 0, 0}, func(in []*Node) []*Node { return []*Node{join(in)} }, attended...))
	if err != nil {
		return nil, err
	}
	defer free(a)
	y, err := m.int8Linear(a, w.o, s.t, s.lanes)
	if err != nil {
		return nil, err
	}
	defer free(y)
	return m.run(programKey{"router8", s.t, 0, 0, 0}, func(in []*Node) []*Node {
		return route(Add(in[0], in[1]), in[2], in[3])
	}, x, y, w.ffnNorm, w.gate)
}

// hostBlock is the number of queries in a block on the Go backend: small enough
// that its scores stay in the processor's cache and that there are blocks for all
// cores.
const hostBlock = 64

// attendBlocks returns the attention's output of each block of queries, [1,H,r,hd].
func (m *Model) attendBlocks(s *step, i int, qkv []compute.Buffer) ([]compute.Buffer, error) {
	outs := make([]compute.Buffer, (s.t+hostBlock-1)/hostBlock)
	if len(outs) == 1 {
		var err error
		outs[0], err = m.attendBlock(s, i, 0, s.t, qkv)
		return outs, err
	}
	var g errgroup.Group
	g.SetLimit(s.lanes)
	for j := len(outs) - 1; j >= 0; j-- { // the longest first
		g.Go(func() (err error) {
			outs[j], err = m.attendBlock(s, i, j*hostBlock, min((j+1)*hostBlock, s.t), qkv)
			return err
		})
	}
	return outs, g.Wait()
}

// attendBlock returns the attention's output of queries [q0,q1) of the step,
// [1,H,r,hd] with r = q1-q0. qkv: q [1,KV,G,T,hd], k and v [1,KV,hd,T].
func (m *Model) attendBlock(s *step, i, q0, q1 int, qkv []compute.Buffer) (compute.Buffer, error) {
	c := &m.cfg
	past, kv, hd := s.pastLen(), c.KVHeads, c.HeadDim
	rows := c.Heads / kv * (q1 - q0) // G*r
	args := qkv[:2:2]
	if past > 0 {
		args = append(args, s.part.k[i])
	}
	scores, err := m.run(programKey{"scores", s.t, q0, past, 0}, func(in []*Node) []*Node {
		q, k := in[0], in[1]
		if q1-q0 < s.t {
			q, k = SliceAxis(q, 3, AxisRange(q0, q1)), SliceAxis(k, 3, AxisRange(0, q1))
		}
		q = Reshape(q, 1, kv, rows, hd)           // [1,KV,G*r,hd]
		outs := []*Node{float(scoresOf(q, k, 3))} // [1,KV,G*r,q1]
		if past > 0 {
			outs = append(outs, float(scoresOf(q, in[2], 3))) // [1,KV,G*r,C]
		}
		return outs
	}, args...)
	if err != nil {
		return nil, err
	}
	defer free(scores...)
	if err := m.softmaxBlock(s, q0, q1, scores); err != nil {
		return nil, err
	}
	args = []compute.Buffer{scores[0], qkv[2]}
	if past > 0 {
		args = append(args, scores[1], s.part.v[i])
	}
	return one(m.run(programKey{"values", s.t, q0, past, 0}, func(in []*Node) []*Node {
		probs, v := ConvertDType(in[0], m.dtype), in[1]
		if q1 < s.t {
			v = SliceAxis(v, 3, AxisRange(0, q1))
		}
		out := float(valuesOf(probs, v, 3)) // [1,KV,G*r,hd]
		if past > 0 {
			out = Add(out, float(valuesOf(ConvertDType(in[2], m.dtype), in[3], 3)))
		}
		return []*Node{Reshape(out, 1, c.Heads, q1-q0, hd)}
	}, args...))
}

// softmaxBlock replaces a block's scores by probabilities, 0 where a query does
// not see: later tokens, padding, and tokens outside its window.
func (m *Model) softmaxBlock(s *step, q0, q1 int, scores []compute.Buffer) error {
	c := &m.cfg
	start, past := s.first[0], s.pastLen()
	now, err := m.d.floats(scores[0])
	if err != nil {
		return err
	}
	var before []float32
	if past > 0 {
		if before, err = m.d.floats(scores[1]); err != nil {
			return err
		}
	}
	for row := range c.Heads * (q1 - q0) {
		q := q0 + row%(q1-q0)
		lowest := 0 // first position seen
		if c.SlidingWindow > 0 {
			lowest = max(0, start+q-c.SlidingWindow+1)
		}
		line := now[row*q1:][:q1]
		seen := line[min(max(lowest-start, 0), q) : q+1]
		clear(line[:q+1-len(seen)])
		clear(line[q+1:])
		var old []float32
		if past > 0 {
			line := before[row*past:][:past]
			from := min(lowest, start)
			clear(line[:from])
			clear(line[start:])
			old = line[from:start]
		}
		seenSoftmax(old, seen)
	}
	return nil
}

// expertOnHost is swiglu for the Go backend: h [n,D], w13 and w2 as there.
func (m *Model) expertOnHost(h compute.Buffer, w13, w2 matrix, n, lanes int) (compute.Buffer, error) {
	product := func(kind string, x compute.Buffer, w matrix) (compute.Buffer, error) {
		if w.scale != nil {
			return m.int8Linear(x, w, n, lanes)
		}
		return one(m.run(programKey{kind, n, 0, 0, 0}, func(in []*Node) []*Node {
			return []*Node{m.d.linear(in[0], weight{w: in[1]})}
		}, x, w.w))
	}
	up, err := product("w13", h, w13) // [n,2F]
	if err != nil {
		return nil, err
	}
	defer free(up)
	values, err := m.d.floats(up)
	if err != nil {
		return nil, err
	}
	act, flat, err := m.floatBuffer(n, m.cfg.IntermediateSize)
	if err != nil {
		return nil, err
	}
	defer free(act)
	hostSwiglu(flat, values, m.cfg.IntermediateSize)
	return product("w2", act, w2) // [n,D]
}

// floatBuffer returns an uninitialized float32 buffer and its memory.
func (m *Model) floatBuffer(dims ...int) (compute.Buffer, []float32, error) {
	b, flat, err := m.d.backend.NewSharedBuffer(0, shapes.Make(dtypes.Float32, dims...))
	if err != nil {
		return nil, nil, err
	}
	return b, flat.([]float32), nil
}

// exp32 returns e^x within 2 units in the last place for -87 <= x <= 88; below
// that 0, above +Inf. Cephes' expf (S. Moshier): x = n ln 2 + g, e^g by a
// polynomial.
func exp32(x float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2Hi = 0.693359375
		ln2Lo = -2.12194440e-4
	)
	switch {
	case x < -87:
		return 0
	case x > 88:
		return float32(math.Inf(1))
	}
	n := int32(x*log2e+128.5) - 128 // round to nearest; x*log2e > -126
	z := float32(n)
	g := x - z*ln2Hi - z*ln2Lo
	p := ((((1.9875691500e-4*g+1.3981999507e-3)*g+8.3334519073e-3)*g+4.1665795894e-2)*g+1.6666665459e-1)*g + 5.0000001201e-1
	return (p*(g*g) + g + 1) * math.Float32frombits(uint32(n+127)<<23)
}

// seenSoftmax replaces a query's scores, in two runs, by their softmax over both.
// One of them may be empty.
func seenSoftmax(past, now []float32) {
	top := largest(now, largest(past, float32(math.Inf(-1))))
	sum := expSum(past, top) + expSum(now, top)
	scale := 1 / sum
	for i := range past {
		past[i] *= scale
	}
	for i := range now {
		now[i] *= scale
	}
}

// largest returns the maximum of x and top. The built-in max takes three times as
// long, since it orders NaN and signed zeros.
func largest(x []float32, top float32) float32 {
	for _, v := range x {
		if v > top {
			top = v
		}
	}
	return top
}

// expSum replaces x by e^(x-top) and returns the sum.
func expSum(x []float32, top float32) float32 {
	// Four independent sums can be computed in parallel.
	var a, b, c, d float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		y := x[i : i+4 : i+4]
		y[0], y[1], y[2], y[3] = exp32(y[0]-top), exp32(y[1]-top), exp32(y[2]-top), exp32(y[3]-top)
		a, b, c, d = a+y[0], b+y[1], c+y[2], d+y[3]
	}
	for ; i < len(x); i++ {
		x[i] = exp32(x[i] - top)
		a += x[i]
	}
	return (a + b) + (c + d)
}

// hostSwiglu returns silu(gate)*up in act [M,F] of h [M,2F], gate before up.
func hostSwiglu(act, h []float32, f int) {
	for len(act) > 0 {
		gate, up, out := h[:f:f], h[f:2*f:2*f], act[:f:f]
		for i, g := range gate {
			out[i] = g / (1 + exp32(-g)) * up[i]
		}
		h, act = h[2*f:], act[f:]
	}
}
