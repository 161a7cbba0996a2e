package mixtral

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// The graph-building functions below follow transformers'
// models/mixtral/modeling_mixtral.py; N = B*T rows.

// layerNodes are a layer's weights outside of its experts, in a graph.
type layerNodes struct {
	attnNorm      *Node
	qkv, o        weight
	ffnNorm, gate *Node
}

// takeNodes removes from the front of parameters the weights of which dense
// returned the buffers.
func takeNodes(in *[]*Node) layerNodes {
	w := layerNodes{attnNorm: (*in)[0]}
	*in = (*in)[1:]
	w.qkv, w.o = takeWeight(in), takeWeight(in)
	w.ffnNorm, w.gate = (*in)[0], (*in)[1]
	*in = (*in)[2:]
	return w
}

// embedding returns the embeddings [N,D] of tokens [N]. embed: [V,D].
func embedding(tokens, embed *Node) *Node { return float(Gather(embed, InsertAxes(tokens, -1))) }

// block is a layer up to its router. x: [N,D]; cos, sin: see projectQKV; cache:
// keys and values of earlier tokens, or nil. It returns x after attention [N,D],
// the router's input h [N,D], router logits [N,E], and the step's k and v
// [B,KV,T,hd].
func (m *Model) block(x *Node, w layerNodes, cos, sin *Node, cache *split, mask *graphMask, b, t int) (y, h, logits, k, v *Node) {
	c := &m.cfg
	h = rmsNorm(x, w.attnNorm, c.RMSNormEps)         // [N,D]
	s := m.d.projectQKV(c, h, w.qkv, cos, sin, b, t) // q, k and v of each head
	y = m.d.attend(s, cache, mask)                   // [N,H*hd]
	y = Add(x, m.d.linear(y, w.o))                   // [N,D]
	h = rmsNorm(y, w.ffnNorm, c.RMSNormEps)          // [N,D]
	logits = m.d.linear(h, weight{w: w.gate})        // [N,E]
	return y, h, logits, s.k, s.v
}

// head returns the next-token logits [R,V] of some rows of x [N,D]. rows: [R];
// norm: [D]; head: [V,D].
func (m *Model) head(x, rows, norm, head *Node) *Node {
	x = Gather(x, InsertAxes(rows, -1))    // [R,D]
	x = rmsNorm(x, norm, m.cfg.RMSNormEps) // [R,D]
	return m.d.linear(x, weight{w: head})  // [R,V]
}

// rmsNorm returns x / sqrt(mean(x^2) + eps) * w. x: [N,D] float32; w: [D].
func rmsNorm(x, w *Node, eps float64) *Node {
	ms := ReduceAndKeep(Square(x), ReduceMean, -1) // [N,1]
	x = Mul(x, Rsqrt(AddScalar(ms, eps)))          // [N,D]
	return Mul(x, InsertAxes(w, 0))                // [N,D]
}

// linear returns x W^T in float32. x: [N,I]; w: [O,I]. x is rounded to w's type, since XLA CPU has no mixed
// products. int8 is converted to the type of products, which it fits, and the
// product is scaled.
func (d *device) linear(x *Node, w weight) *Node {
	if w.scale != nil {
		w8 := ConvertDType(w.w, d.dtype)
		y := float(DotGeneral(ConvertDType(x, d.dtype), []int{1}, nil, w8, []int{1}, nil))
		return Mul(y, InsertAxes(w.scale, 0))
	}
	return float(DotGeneral(ConvertDType(x, w.w.DType()), []int{1}, nil, w.w, []int{1}, nil))
}

// swiglu returns (silu(x W1^T) * (x W3^T)) W2^T. x: [M,D]; w13: W1 over W3,
// [2F,D]; w2: [D,F]; result: [M,D] float32.
func (d *device) swiglu(x *Node, w13, w2 weight) *Node {
	h := d.linear(x, w13) // [M,2F]
	f := h.Shape().Dimensions[1] / 2
	gate := SliceAxis(h, 1, AxisRange(0, f)) // [M,F]
	up := SliceAxis(h, 1, AxisRange(f))      // [M,F]
	return d.linear(Mul(d.silu(gate), up), w2)
}

// silu returns x * sigmoid(x). The Go backend's Logistic calls math.Exp, which
// takes .7 us an element after AVX-512 code; its softmax has an exponential of its
// own, and sigmoid(x) is the first of softmax(x, 0).
func (d *device) silu(x *Node) *Node {
	if !d.IsGo {
		return Mul(x, Sigmoid(x))
	}
	pair := Softmax(Stack([]*Node{x, ZerosLike(x)}, -1), -1)
	return Mul(x, Reshape(SliceAxis(pair, -1, AxisRange(0, 1)), x.Shape().Dimensions...))
}

// split is q, k and v of one step: q [B,KV,G,T,hd], k and v [B,KV,T,hd], with
// G = H/KV queries a key head; rotated by their positions, q scaled.
type split struct{ q, k, v *Node }

// projectQKV projects and rotates. h: [N,D]; w: [(H+2KV)*hd, D] in the order
// that weights.go gives it: first halves of all heads of q and k, then second
// halves, then v; so that RoPE is four products of whole matrices. cos and sin:
// [N,(H+KV)*hd/2], with the queries' scale folded in.
func (d *device) projectQKV(c *Config, h *Node, w weight, cos, sin *Node, b, t int) split {
	return d.rotate(c, d.linear(h, w), cos, sin, b, t)
}

// rotate is projectQKV after its product, y [N,(H+2KV)*hd].
func (d *device) rotate(c *Config, y, cos, sin *Node, b, t int) split {
	hd, half := c.HeadDim, c.HeadDim/2
	heads, kv := c.Heads, c.KVHeads
	rot := (heads + kv) * half
	lo := SliceAxis(y, 1, AxisRange(0, rot))     // [N,(H+KV)*hd/2]
	hi := SliceAxis(y, 1, AxisRange(rot, 2*rot)) // [N,(H+KV)*hd/2]
	v := SliceAxis(y, 1, AxisRange(2*rot))       // [N,KV*hd]
	lo, hi = Sub(Mul(lo, cos), Mul(hi, sin)), Add(Mul(hi, cos), Mul(lo, sin))
	lo = Reshape(lo, b, t, heads+kv, half)
	hi = Reshape(hi, b, t, heads+kv, half)
	qk := Concatenate([]*Node{lo, hi}, -1)                                   // [B,T,H+KV,hd]
	q := TransposeAllAxes(SliceAxis(qk, 2, AxisRange(0, heads)), 0, 2, 1, 3) // [B,H,T,hd]
	k := TransposeAllAxes(SliceAxis(qk, 2, AxisRange(heads)), 0, 2, 1, 3)    // [B,KV,T,hd]
	v = TransposeAllAxes(Reshape(v, b, t, kv, hd), 0, 2, 1, 3)               // [B,KV,T,hd]
	return split{
		q: ConvertDType(Reshape(q, b, kv, heads/kv, t, hd), d.dtype),
		k: ConvertDType(k, d.dtype),
		v: ConvertDType(v, d.dtype),
	}
}

// attentionBlock is the number of queries whose scores are computed at a time: a
// block of queries needs no keys after its last, and its scores stay in the
// processor's cache. XLA compiles each block separately, in the whole graph for
// each layer: there blocks are larger.
const (
	attentionBlock = 128
	wholeBlock     = 256
)

// keyRun is a run of keys that a block of queries sees, with their values,
// [B,KV,S,hd]. sees tells which of them, bool [B or 1,1,1,r,S]; nil means all.
type keyRun struct{ k, v, sees *Node }

// attend returns the attention's output [N,H*hd], float32. past, if not nil, is the
// keys and values of a cache, [B,KV,C,hd].
func (d *device) attend(s split, past *split, mask *graphMask) *Node {
	dims := s.q.Shape().Dimensions
	b, kv, g, t, hd := dims[0], dims[1], dims[2], dims[3], dims[4]
	const keys = 2
	var outs []*Node
	for q0 := 0; q0 < t; q0 += mask.size {
		q1 := min(q0+mask.size, t)
		q := s.q
		if t > mask.size {
			q = SliceAxis(q, 3, AxisRange(q0, q1))
		}
		var runs []keyRun
		if past != nil {
			runs = append(runs, keyRun{past.k, past.v, mask.past(q0, q1)})
		}
		// Without a window, of the step's keys only the block's own need a mask.
		if q0 > 0 {
			before := AxisRange(0, q0)
			runs = append(runs, keyRun{SliceAxis(s.k, keys, before), SliceAxis(s.v, keys, before), mask.before(q0, q1)})
		}
		now := AxisRange(q0, q1)
		runs = append(runs, keyRun{SliceAxis(s.k, keys, now), SliceAxis(s.v, keys, now), mask.block(q0, q1)})
		out := d.attendRuns(Reshape(q, b, kv, g*(q1-q0), hd), runs, g, keys)
		outs = append(outs, Reshape(out, b, kv*g, q1-q0, hd))
	}
	out := outs[0]
	if len(outs) > 1 {
		out = Concatenate(outs, 2) // [B,H,T,hd]
	}
	return Reshape(TransposeAllAxes(out, 0, 2, 1, 3), b*t, kv*g*hd)
}

// attendRuns returns the attention of queries [B,KV,G*r,hd] over runs of keys,
// same shape, float32.
func (d *device) attendRuns(q *Node, runs []keyRun, g, keys int) *Node {
	dims := q.Shape().Dimensions
	b, kv, r := dims[0], dims[1], dims[2]/g
	scores := make([]*Node, len(runs)) // [B,KV,G*r,S]
	for i, run := range runs {
		x := float(scoresOf(q, run.k, keys))
		if run.sees != nil {
			n := x.Shape().Dimensions[3]
			sees := Reshape(BroadcastToDims(run.sees, b, kv, g, r, n), b, kv, g*r, n)
			x = Where(sees, x, AddScalar(ZerosLike(x), masked))
		}
		scores[i] = x
	}
	probs, sum := d.softmaxRuns(scores)
	var out *Node
	for i, run := range runs {
		out = fold(Add, out, float(valuesOf(ConvertDType(probs[i], run.v.DType()), run.v, keys)))
	}
	return Div(out, sum)
}

// softmaxRuns returns the softmax over all runs of scores, before its division
// by sum [B,KV,G*r,1]: who divides the output divides fewer numbers.
func (d *device) softmaxRuns(scores []*Node) (probs []*Node, sum *Node) {
	if d.IsGo { // whose Exp is slow, see silu
		p := Softmax(Concatenate(scores, -1), -1)
		at := 0
		for _, x := range scores {
			n := x.Shape().Dimensions[3]
			probs = append(probs, SliceAxis(p, 3, AxisRange(at, at+n)))
			at += n
		}
		return probs, ScalarOne(p.Graph(), p.DType())
	}
	var top *Node
	for _, x := range scores {
		top = fold(Max, top, ReduceAndKeep(x, ReduceMax, 3))
	}
	for _, x := range scores {
		p := Exp(Sub(x, top))
		sum = fold(Add, sum, ReduceAndKeep(p, ReduceSum, 3))
		probs = append(probs, p)
	}
	return probs, sum
}

// fold returns op(a, b), or b if a is nil.
func fold(op func(a, b *Node) *Node, a, b *Node) *Node {
	if a == nil {
		return b
	}
	return op(a, b)
}

func float(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }

// scoresOf: q [B,KV,R,hd], k [B,KV,S,hd], its S on the axis keys -> [B,KV,R,S].
func scoresOf(q, k *Node, keys int) *Node {
	return DotGeneral(q, []int{3}, []int{0, 1}, k, []int{5 - keys}, []int{0, 1})
}

// valuesOf: p [B,KV,R,S], v [B,KV,S,hd], its S on the axis keys -> [B,KV,R,hd].
func valuesOf(p, v *Node, keys int) *Node {
	return DotGeneral(p, []int{3}, []int{0, 1}, v, []int{keys}, []int{0, 1})
}

// masked replaces scores that a query does not see. It is finite, so that a row of
// padding stays finite, and its exponential is 0 relative to any other score.
const masked = -1e30

// graphMask makes masks of the keys that queries see, in a graph. Positions in the
// step are relative to its start, which only masks of the past depend on.
type graphMask struct {
	starts *Node // the step's first positions, int32 [B]
	b, c   int   // B; the length of the past's cache
	size   int   // queries of a block
	window int   // number of keys, its own included, that a query sees; 0: all
	made   map[[3]int]*Node
}

func newGraphMask(cfg *Config, starts *Node, b, c, size int) *graphMask {
	return &graphMask{starts: starts, b: b, c: c, size: size, window: cfg.SlidingWindow, made: make(map[[3]int]*Node)}
}

// once returns the mask of a kind and a block, shared by all layers of a graph.
func (m *graphMask) once(kind, q0, q1 int, build func() *Node) *Node {
	key := [3]int{kind, q0, q1}
	if m.made[key] == nil {
		m.made[key] = build()
	}
	return m.made[key]
}

// past returns which keys of the cache queries [q0,q1) see, [B,1,1,r,C].
func (m *graphMask) past(q0, q1 int) *Node {
	return m.once(0, q0, q1, func() *Node {
		g := m.starts.Graph()
		shape := shapes.Make(dtypes.Int32, m.b, 1, 1, q1-q0, m.c)
		first := BroadcastToDims(Reshape(m.starts, m.b, 1, 1, 1, 1), shape.Dimensions...)
		key := Iota(g, shape, 4)
		sees := LessThan(key, first)
		if m.window > 0 {
			query := Add(AddScalar(Iota(g, shape, 3), int32(q0)), first)
			sees = LogicalAnd(sees, GreaterThan(key, AddScalar(query, int32(-m.window))))
		}
		return sees
	})
}

// before returns which of the step's keys [0,q0) queries [q0,q1) see,
// [1,1,1,r,q0]; nil means all.
func (m *graphMask) before(q0, q1 int) *Node {
	if m.window == 0 || m.window >= q1 {
		return nil
	}
	return m.once(1, q0, q1, func() *Node {
		shape := shapes.Make(dtypes.Int32, 1, 1, 1, q1-q0, q0)
		query := AddScalar(Iota(m.starts.Graph(), shape, 3), int32(q0-m.window))
		return GreaterThan(Iota(m.starts.Graph(), shape, 4), query)
	})
}

// block returns which of the step's keys [q0,q1) queries [q0,q1) see,
// [1,1,1,r,r]; nil means all.
func (m *graphMask) block(q0, q1 int) *Node {
	r := q1 - q0
	if r == 1 {
		return nil
	}
	return m.once(2, 0, r, func() *Node {
		shape := shapes.Make(dtypes.Int32, 1, 1, 1, r, r)
		query, key := Iota(m.starts.Graph(), shape, 3), Iota(m.starts.Graph(), shape, 4)
		sees := LessOrEqual(key, query)
		if m.window > 0 && m.window < r {
			sees = LogicalAnd(sees, GreaterThan(key, AddScalar(query, int32(-m.window))))
		}
		return sees
	})
}

// ropeTables returns cos and sin for projectQKV, [N,(H+KV)*hd/2], of positions
// [N]. As transformers does, angles are products of float32. The scale
// 1/sqrt(hd) is folded into the queries' part.
func ropeTables(cfg *Config, positions []int32) (cos, sin []float32) {
	half := cfg.HeadDim / 2
	heads := cfg.Heads + cfg.KVHeads
	scale := 1 / math.Sqrt(float64(cfg.HeadDim))
	inv := make([]float32, half)
	for i := range inv {
		inv[i] = float32(1 / math.Pow(cfg.RopeTheta, float64(2*i)/float64(cfg.HeadDim)))
	}
	cos = make([]float32, len(positions)*heads*half)
	sin = make([]float32, len(positions)*heads*half)
	for n, pos := range positions {
		for i := range half {
			s, c := math.Sincos(float64(float32(pos) * inv[i]))
			for head := range heads {
				at := (n*heads+head)*half + i
				if head < cfg.Heads {
					cos[at], sin[at] = float32(c*scale), float32(s*scale)
				} else {
					cos[at], sin[at] = float32(c), float32(s)
				}
			}
		}
	}
	return cos, sin
}
