package switchtransformer

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	g "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers/activation"
)

// graphs builds the programs of a model.
type graphs struct {
	cfg   *Config
	dtype dtypes.DType // of products, keys and values
	isGo  bool
	gpu   bool
}

// span is the blocks of a stack that one program computes: dense ones, and of the
// sparse one that follows, if one does, what precedes its experts.
type span struct {
	first, dense int
	sparse       bool
}

// spans divides a stack's blocks. The last has no sparse block, and may have no
// blocks.
func (c *Config) spans(s Stack) []span {
	out := []span{{}}
	for i := range c.Blocks(s) {
		last := &out[len(out)-1]
		if !c.sparse(s, i) {
			last.dense++
			continue
		}
		last.sparse = true
		out = append(out, span{first: i + 1})
	}
	return out
}

func (p span) blocks() int {
	if p.sparse {
		return p.dense + 1
	}
	return p.dense
}

// layout is what a program of blocks is compiled for.
type layout struct {
	stack    Stack
	b, t     int  // documents, tokens of each
	capacity int  // of the cache, in tokens; 0: none
	cross    int  // tokens of each document's encoder
	few      bool // the experts of the sparse block before are in it
	dense    int
	sparse   bool
}

func (l layout) String() string {
	return fmt.Sprintf("blocks{%s, %d x %d, capacity %d, cross %d, few %t, dense %d, sparse %t}",
		l.stack, l.b, l.t, l.capacity, l.cross, l.few, l.dense, l.sparse)
}

// view is what the attentions of a stack's blocks share.
type view struct {
	bias   *g.Node // added to scores of self-attention, [B or 1,H,T,S]
	hidden *g.Node // added to scores of keys of the encoder, [B,1,1,S]
	starts *g.Node // positions of the step's first tokens, [B]; nil in the encoder
}

// take removes the first of nodes.
func take(in *[]*g.Node) *g.Node {
	x := (*in)[0]
	*in = (*in)[1:]
	return x
}

// blocks is a span. Its parameters, in order: for few, h [N,D], choice [2N] (see
// fewExperts), wi and wo; x [N,D]; bias; lens [B] of the encoder's tokens; in the
// decoder starts [B]; and for each block its weights (see block). It returns x [N,D],
// for a sparse block h [N,D] and router logits [N,E], and for each block keys and
// values of the cache, if any.
func (b *graphs) blocks(in []*g.Node, l layout) []*g.Node {
	var x *g.Node
	if l.few {
		h, choice, wi, wo := take(&in), take(&in), take(&in), take(&in)
		x = b.fewExperts(take(&in), h, choice, wi, wo)
	} else {
		x = take(&in)
	}
	v := view{bias: take(&in)}
	lens := take(&in)
	size := l.t
	if l.stack == Decoder {
		v.starts, size = take(&in), l.cross
	}
	v.hidden = padding(lens, size)
	var h, logits *g.Node
	var kv []*g.Node
	n := l.dense
	if l.sparse {
		n++
	}
	for i := range n {
		x = b.attention(x, &in, &v, l, &kv)
		h = rmsNorm(x, take(&in), b.cfg.NormEps) // [N,D]
		if i < l.dense {
			x = g.Add(x, b.dense(h, take(&in), take(&in)))
			continue
		}
		logits = b.router(h, &in)
	}
	outs := []*g.Node{x}
	if l.sparse {
		outs = append(outs, h, logits)
	}
	return append(outs, kv...)
}

// attention returns x [N,D] after a block's attentions. From the parameters it takes
// norm [D], qkv [3*H*hd,D], o [D,H*hd], with a cache k and v [B,H,C,hd], and in the
// decoder norm [D], q [H*hd,D], o [D,H*hd], and k and v [B,H,S,hd] of the encoder.
func (b *graphs) attention(x *g.Node, in *[]*g.Node, v *view, l layout, kv *[]*g.Node) *g.Node {
	c := b.cfg
	h := rmsNorm(x, take(in), c.NormEps)
	qkv := heads(linear(h, take(in)), 3, l.b, l.t, c.Heads, b.dtype)
	o := take(in)
	q, key, value := qkv[0], qkv[1], qkv[2]
	if l.capacity > 0 {
		key, value = appended(take(in), key, v.starts), appended(take(in), value, v.starts)
		*kv = append(*kv, key, value)
	}
	add := []*g.Node{v.bias}
	if l.stack == Encoder {
		add = append(add, v.hidden)
	}
	x = g.Add(x, linear(attend(q, key, value, add...), o)) // [N,D]
	if l.stack == Encoder {
		return x
	}
	h = rmsNorm(x, take(in), c.NormEps)
	q = heads(linear(h, take(in)), 1, l.b, l.t, c.Heads, b.dtype)[0]
	o = take(in)
	return g.Add(x, linear(attend(q, take(in), take(in), v.hidden), o))
}

// dense returns a dense block's feed-forward output. h: [N,D]; wi: [F,D]; wo: [D,F].
func (b *graphs) dense(h, wi, wo *g.Node) *g.Node { return linear(b.act(linear(h, wi)), wo) }

// act is the configuration's activation function.
func (b *graphs) act(x *g.Node) *g.Node {
	switch b.cfg.Activation {
	case "gelu":
		return g.MulScalar(g.Mul(x, g.AddScalar(g.Erf(g.MulScalar(x, 1/math.Sqrt2)), 1)), .5)
	case "gelu_new":
		return activation.GeluApproximate(x)
	case "silu":
		return g.Mul(x, g.Sigmoid(x))
	}
	return g.Max(x, g.ZerosLike(x))
}

// router returns the router logits [N,E] of h [N,D], with weights from the
// parameters: [E,D], and if there is one, a bias [E].
func (b *graphs) router(h *g.Node, in *[]*g.Node) *g.Node {
	logits := linear(h, take(in))
	if b.cfg.RouterBias {
		logits = g.Add(logits, g.InsertAxes(take(in), 0))
	}
	return logits
}

// experts returns x [N,D] plus the experts' outputs of rows of h [N,D]. rows [E*C,1]:
// the rows of h that each expert computes; back [N,1]: the result that a row adds,
// times its weight of weights [N,1], if that is not 0. wi: [E,F,D]; wo: [E,D,F].
func (b *graphs) experts(x, h, rows, back, weights, wi, wo *g.Node) *g.Node {
	dims := wi.Shape().Dimensions
	h = g.Reshape(g.Gather(h, rows), dims[0], -1, dims[2]) // [E,C,D]
	y := batchedLinear(b.act(batchedLinear(h, wi)), wo)    // [E,C,D]
	y = g.Gather(g.Reshape(y, -1, dims[2]), back)          // [N,D]
	return g.Add(x, weighed(y, weights))
}

// weighed returns y [N,D] times w [N,1], and 0 where w is 0, whatever y.
func weighed(y, w *g.Node) *g.Node {
	used := g.BroadcastToDims(g.NotEqual(w, g.ZerosLike(w)), y.Shape().Dimensions...)
	return g.Where(used, g.Mul(y, w), g.ZerosLike(y))
}

// fewExperts is experts for few rows, each of which selects its expert: choice has the
// experts of the rows [N], and the bits of weights [N].
func (b *graphs) fewExperts(x, h, choice, wi, wo *g.Node) *g.Node {
	n := x.Shape().Dimensions[0]
	experts := g.SliceAxis(choice, 0, g.AxisRange(0, n))
	weights := g.Reshape(g.Bitcast(g.SliceAxis(choice, 0, g.AxisRange(n)), dtypes.Float32), n, 1)
	return g.Add(x, weighed(b.chosen(h, experts, wi, wo), weights))
}

// chosen returns the outputs of rows h [N,D] of their experts [N].
func (b *graphs) chosen(h, experts, wi, wo *g.Node) *g.Node {
	rows := make([]*g.Node, h.Shape().Dimensions[0])
	for i := range rows {
		e := g.Reshape(g.SliceAxis(experts, 0, g.AxisRange(i, i+1)))
		x := g.SliceAxis(h, 0, g.AxisRange(i, i+1)) // [1,D]
		rows[i] = b.oneLinear(b.act(b.oneLinear(x, b.pick(wi, e))), b.pick(wo, e))
	}
	return g.Concatenate(rows, 0)
}

// oneLinear is linear for one row and a matrix that pick returned. XLA on a GPU fuses
// Mul and ReduceSum with the selection; for a product it would copy that first. On CPU
// the copy costs less than its loops over sums.
func (b *graphs) oneLinear(x, w *g.Node) *g.Node {
	if !b.gpu {
		return linear(x, w)
	}
	return g.InsertAxes(g.ReduceSum(g.Mul(float(w), x), -1), 0)
}

// pick returns x[e] of x [E,O,I].
func (b *graphs) pick(x, e *g.Node) *g.Node {
	dims := x.Shape().Dimensions
	if b.isGo { // which has no DynamicSlice
		return g.Reshape(g.Gather(x, g.Reshape(e, 1, 1)), dims[1:]...)
	}
	zero := g.Scalar(x.Graph(), dtypes.Int32, int32(0))
	return g.Reshape(g.DynamicSlice(x, []*g.Node{e, zero, zero}, []int{1, dims[1], dims[2]}), dims[1:]...)
}

// headNodes returns the next-token logits [R,V] of rows x [R,D]. A tied head is
// scaled, as transformers does.
func (b *graphs) headNodes(x, norm, head *g.Node) *g.Node {
	x = rmsNorm(x, norm, b.cfg.NormEps)
	if b.cfg.TieEmbeddings {
		x = g.MulScalar(x, 1/math.Sqrt(float64(b.cfg.HiddenSize)))
	}
	return linear(x, head)
}
