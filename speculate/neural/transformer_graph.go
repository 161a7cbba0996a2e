package neural

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// rotation is the base of the angles of rotary position embedding (Su et al.
// 2021). rmsEps is added to the mean square in RMSNorm.
const (
	rotation = 1e4
	rmsEps   = 1e-6
)

// transformerParams returns a transformer's parameters, without values.
func transformerParams(c TransformerConfig, z extent) []*param {
	var ps []*param
	add := func(name string, decay bool, dims ...int) {
		ps = append(ps, &param{name: name, dims: dims, decay: decay})
	}
	w, h := c.Width, c.HeadWidth
	add("embed", true, z.v+1, w)
	add("read", true, z.p, w)
	for i := range c.Blocks {
		at := func(name string) string { return fmt.Sprintf("block.%d.%s", i, name) }
		add(at("attention.norm"), false, w)
		add(at("attention.qkv"), true, w, 3*w)
		add(at("attention.out"), true, w, w)
		add(at("mlp.norm"), false, w)
		add(at("mlp.up"), true, w, 4*w)
		add(at("mlp.down"), true, 4*w, w)
	}
	add("norm", false, w)
	add("linear", true, z.g, z.f, z.e)
	add("linear.context", true, z.g, w, z.e)
	add("out.bias", false, z.g, z.e)
	add("first", true, z.g, z.f, h)
	add("first.context", true, z.g, w, h)
	add("first.bias", false, z.g, h)
	if m := c.ExpertWidth; m > 0 {
		add("experts.up", true, z.g, z.d, z.e*m)
		add("experts.bias", false, z.g, z.e*m)
		add("experts.down", true, z.g, z.e*m, h)
	}
	for i := range c.HeadDepth - 1 {
		add(fmt.Sprintf("hidden.%d", i), true, z.g, h, h)
		add(fmt.Sprintf("hidden.%d.bias", i), false, z.g, h)
	}
	add("last", true, z.g, h, z.e)
	return ps
}

// transformerArrays returns the stored arrays: the parameters, and the
// standardisation of router inputs.
func transformerArrays(c TransformerConfig, z extent) []*param {
	ps := transformerParams(c, z)
	if c.Inputs {
		ps = append(ps, &param{name: "mean", dims: []int{z.l, z.d}}, &param{name: "inv", dims: []int{z.l, z.d}})
	}
	return ps
}

// newTransformerParams draws the initial values. What leads to the logits is 0,
// so that a gated network starts as the gates. What is added to a residual stream
// starts at half its size.
func newTransformerParams(c TransformerConfig, z extent, seed uint64) []*param {
	rng := rand.New(rand.NewPCG(seed, 0x2545f4914f6cdd1d))
	ps := transformerParams(c, z)
	for _, p := range ps {
		p.value = make([]float32, p.size())
		in := float64(p.dims[max(0, len(p.dims)-2)])
		std, start := 0.0, float32(0)
		switch {
		case strings.HasSuffix(p.name, "norm"):
			start = 1
		case !p.decay || strings.HasPrefix(p.name, "linear") || p.name == "last":
		case p.name == "embed":
			std = .5
		case strings.HasPrefix(p.name, "first"):
			std = math.Sqrt(2 / float64(z.f+c.Width))
		case p.name == "read", strings.HasSuffix(p.name, "qkv"):
			std = 1 / math.Sqrt(in)
		case strings.HasSuffix(p.name, ".up"):
			std = math.Sqrt(2 / in)
		case strings.HasSuffix(p.name, "attention.out"):
			std = .5 / math.Sqrt(in)
		case p.name == "experts.down":
			std = .5 * math.Sqrt(2/float64(c.ExpertWidth))
		default: // mlp.down, hidden
			std = .5 * math.Sqrt(2/in)
		}
		for i := range p.value {
			if p.value[i] = start; std > 0 {
				p.value[i] = float32(rng.NormFloat64() * std)
			}
		}
	}
	return ps
}

// passages holds the graph's inputs: B sequences of T tokens.
type passages struct {
	ids   *Node // [B,T] rows of the embedding
	count *Node // [B,T] 1 for tokens, 0 for padding after them
	route *Node // [B,T,L,E] routing weights of the chosen experts, above 0
	x     *Node // [B,T,L,D] standardised router inputs; nil if not read
	z     *Node // [B,T,L,E] router logits; nil if targets are the chosen experts
}

// net builds a transformer's graph.
type net struct {
	c TransformerConfig
	z extent
	// horizons in the order of heads.
	horizons []speculate.Horizon
	p        map[string]*Node
	// mixed computes products in bfloat16, which backends accumulate in float32, and
	// keeps what only products read in bfloat16. All else is in float32.
	mixed bool
}

// product is Einsum of x and the parameter or activations w, in float32.
func (t net) product(equation string, x, w *Node) *Node {
	return ConvertDType(Einsum(equation, t.brief(x), t.brief(w)), dtypes.Float32)
}

// brief returns x in the type of products.
func (t net) brief(x *Node) *Node {
	if t.mixed {
		return ConvertDType(x, dtypes.BFloat16)
	}
	return x
}

// logits returns [G,n,E], n = B*T.
func (t net) logits(in passages) *Node {
	b, n := in.ids.Shape().Dimensions[0], in.ids.Shape().Size()
	var now *Node // [n,L,*]
	if t.c.Inputs {
		now = Reshape(in.x, n, t.z.l, t.z.d)
	} else {
		now = Reshape(chosen(in.route), n, t.z.l, t.z.e)
		if t.c.Logits {
			z := Reshape(in.z, n, t.z.l, t.z.e)
			now = Concatenate([]*Node{now, Sub(z, ReduceAndKeep(z, ReduceMean, -1))}, -1)
		}
	}
	now = Reshape(t.brief(now), b, n/b, t.z.p)
	state := Reshape(t.context(in.ids, later(now)), b, n/b, t.c.Width)
	p := t.p
	y := t.each("nc,gce->gne", state, p["linear.context"])
	h := t.each("nc,gch->gnh", state, p["first.context"])
	if t.c.Inputs {
		now = Reshape(now, b, n/b, t.z.l, t.z.d)
		latest := t.sources(now, 0)                              // [G,n,D]
		f := Concatenate([]*Node{latest, t.sources(now, 1)}, -1) // [G,n,2D]
		y = Add(y, t.product("gnf,gfe->gne", f, p["linear"]))
		h = Add(h, t.product("gnf,gfh->gnh", f, p["first"]))
		if t.c.ExpertWidth > 0 {
			h = Add(h, t.experts(latest, in.route))
		}
	} else {
		known := t.known(now.Graph()) // [G,F,1]
		y = Add(y, t.each("nf,gfe->gne", now, Mul(p["linear"], known)))
		h = Add(h, t.each("nf,gfh->gnh", now, Mul(p["first"], known)))
	}
	h = t.brief(relus(Add(h, ExpandAxes(p["first.bias"], 1))))
	for i := range t.c.HeadDepth - 1 {
		r := t.product("gnh,ghk->gnk", h, p[fmt.Sprintf("hidden.%d", i)])
		r = relus(Add(r, ExpandAxes(p[fmt.Sprintf("hidden.%d.bias", i)], 1)))
		h = t.brief(Add(ConvertDType(h, dtypes.Float32), r))
	}
	y = Add(y, t.product("gnh,ghe->gne", h, p["last"]))
	return Add(y, ExpandAxes(p["out.bias"], 1))
}

// each is product of x, [B,T,*] of the current token, or at horizon unknown that of the
// token before, and each head's w, [G,*,*].
func (t net) each(equation string, x, w *Node) *Node {
	d := x.Shape().Dimensions
	flat := func(x *Node) *Node { return Reshape(x, d[0]*d[1], d[2]) }
	i := slices.Index(t.horizons, unknown)
	if i < 0 {
		return t.product(equation, flat(x), w)
	}
	from := len(heads(speculate.Shape{Layers: t.z.l}, t.horizons[:i])) // the first of its heads
	var parts []*Node
	for _, part := range []struct {
		x        *Node
		from, to int
	}{{x, 0, from}, {later(x), from, from + t.z.l}, {x, from + t.z.l, t.z.g}} {
		if part.from < part.to {
			parts = append(parts, t.product(equation, flat(part.x), SliceAxis(w, 0, AxisRange(part.from, part.to))))
		}
	}
	return Concatenate(parts, 0)
}

// chosen raises the weights of chosen experts by a half; see spread.
func chosen(route *Node) *Node {
	return Add(route, MulScalar(ConvertDType(GreaterThan(route, ZerosLike(route)), route.DType()), .5))
}

// later shifts x [B,T,*] by a token: each gets the row of the one before, the
// first zeros.
func later(x *Node) *Node {
	last := x.Shape().Dimensions[1] - 1
	first := ZerosLike(SliceAxis(x, 1, AxisRange(0, 1)))
	return Concatenate([]*Node{first, SliceAxis(x, 1, AxisRange(0, last))}, 1)
}

// context is the transformer. ids: [B,T]; before, what is read of the token
// before: [B,T,P]. It returns the states, [n,C].
func (t net) context(ids, before *Node) *Node {
	g, b, n, c := ids.Graph(), ids.Shape().Dimensions[0], ids.Shape().Size(), t.c.Width
	tokens := n / b
	x := Gather(t.p["embed"], ExpandAxes(ids, -1)) // [B,T,C]
	x = Add(Reshape(x, n, c), t.product("np,pc->nc", Reshape(before, n, t.z.p), t.p["read"]))
	hidden := ConvertDType(LessThan(Iota(g, shapes.Make(dtypes.Int32, tokens, tokens), 0), Iota(g, shapes.Make(dtypes.Int32, tokens, tokens), 1)), x.DType())
	hidden = ExpandAxes(MulScalar(hidden, -1e9), 0, 1) // [1,1,T,T]
	for i := range t.c.Blocks {
		at := func(name string) *Node { return t.p[fmt.Sprintf("block.%d.%s", i, name)] }
		qkv := t.product("nc,cd->nd", rms(x, at("attention.norm")), at("attention.qkv"))
		a := t.attend(Reshape(qkv, b, tokens, 3, t.c.Heads, c/t.c.Heads), hidden)
		x = Add(x, t.product("nc,cd->nd", Reshape(a, n, c), at("attention.out")))
		u := t.brief(relus(t.product("nc,cd->nd", rms(x, at("mlp.norm")), at("mlp.up"))))
		x = Add(x, t.product("nd,dc->nc", u, at("mlp.down")))
	}
	return rms(x, t.p["norm"])
}

// rms is RMSNorm (Zhang and Sennrich 2019). x: [n,C]; w: [C].
func rms(x, w *Node) *Node {
	x = Div(x, Sqrt(AddScalar(ReduceAndKeep(Square(x), ReduceMean, -1), rmsEps)))
	return Mul(x, ExpandAxes(w, 0))
}

// attend is causal attention. qkv: [B,T,3,heads,hd]; hidden: [1,1,T,T], -1e9 where
// a key is later than the query. It returns [B,T,heads,hd].
func (t net) attend(qkv, hidden *Node) *Node {
	d := qkv.Shape().Dimensions
	part := func(i int) *Node { // [B,heads,T,hd]
		x := Reshape(SliceAxis(qkv, 2, AxisRange(i, i+1)), d[0], d[1], d[3], d[4])
		return TransposeAllAxes(x, 0, 2, 1, 3)
	}
	cos, sin := angles(d[1], d[4])
	turn := func(x *Node) *Node {
		half := d[4] / 2
		lo, hi := SliceAxis(x, 3, AxisRange(0, half)), SliceAxis(x, 3, AxisRange(half))
		c, s := ExpandAxes(Const(x.Graph(), cos), 0, 1), ExpandAxes(Const(x.Graph(), sin), 0, 1) // [1,1,T,hd/2]
		return Concatenate([]*Node{Sub(Mul(lo, c), Mul(hi, s)), Add(Mul(hi, c), Mul(lo, s))}, 3)
	}
	scores := t.product("bhtd,bhsd->bhts", turn(part(0)), turn(part(1)))
	scores = Add(MulScalar(scores, 1/math.Sqrt(float64(d[4]))), hidden)
	a := t.product("bhts,bhsd->bhtd", Softmax(scores, -1), part(2))
	return TransposeAllAxes(a, 0, 2, 1, 3)
}

// angles returns the cosines and sines of positions 0..tokens-1, [T,hd/2].
func angles(tokens, width int) (cos, sin [][]float32) {
	for t := range tokens {
		c, s := make([]float32, width/2), make([]float32, width/2)
		turns(t, c, s)
		cos, sin = append(cos, c), append(sin, s)
	}
	return cos, sin
}

// turns writes the cosines and sines of a position, [hd/2].
func turns(position int, cos, sin []float32) {
	for i := range cos {
		a := float64(position) * math.Pow(rotation, -float64(i)/float64(len(cos)))
		cos[i], sin[i] = float32(math.Cos(a)), float32(math.Sin(a))
	}
}

// sources returns for each head the row of x [B,T,L,*] of its latest known layer
// less back, zeros for a layer below 0: [G,n,*]. At horizon unknown that is one of the
// token before.
func (t net) sources(x *Node, back int) *Node {
	d := x.Shape().Dimensions
	layerFirst := func(x *Node) *Node { return TransposeAllAxes(Reshape(x, d[0]*d[1], -1, d[3]), 1, 0, 2) }
	tokens, x := x, layerFirst(x)
	var parts []*Node
	for _, h := range t.horizons {
		from := h.FirstLayer() - h.Layers - back // for the first target layer
		to := t.z.l - h.Layers - back            // after that for the last
		if h == unknown && to > 0 {
			last := layerFirst(later(SliceAxis(tokens, 2, AxisRange(to-1, to)))) // [1,n,*]
			parts = append(parts, BroadcastToDims(last, x.Shape().Dimensions...))
			continue
		}
		if h.Layers == 0 {
			parts = append(parts, ZerosLike(x))
			continue
		}
		if from < 0 {
			parts = append(parts, ZerosLike(SliceAxis(x, 0, AxisRange(0, min(-from, to-from)))))
		}
		if to > 0 {
			parts = append(parts, SliceAxis(x, 0, AxisRange(max(from, 0), to)))
		}
	}
	return Concatenate(parts, 0)
}

// targets returns the row of x [L,n,*] of each head's target layer: [G,n,*].
func (t net) targets(x *Node) *Node {
	var parts []*Node
	for _, h := range t.horizons {
		parts = append(parts, SliceAxis(x, 0, AxisRange(h.FirstLayer(), t.z.l)))
	}
	return Concatenate(parts, 0)
}

// known returns 1 for the features of the token that each head knows, all of them at
// horizon unknown, else 0: [G,F,1].
func (t net) known(g *Graph) *Node {
	ones := make([][][]float32, 0, t.z.g)
	for _, hd := range heads(speculate.Shape{Layers: t.z.l}, t.horizons) {
		row := make([][]float32, t.z.f)
		for i := range row {
			row[i] = []float32{0}
			if hd.h == unknown || hd.h.Layers > 0 && i/(t.z.f/t.z.l) <= hd.l-hd.h.Layers {
				row[i][0] = 1
			}
		}
		ones = append(ones, row)
	}
	return Const(g, ones)
}

// experts returns the sum over chosen experts of their weight times the output of
// their perceptron, [G,n,H]. x: [G,n,D]; route: [B,T,L,E].
func (t net) experts(x, route *Node) *Node {
	m := t.c.ExpertWidth
	n := x.Shape().Dimensions[1]
	u := relus(Add(t.product("gnd,gdm->gnm", x, t.p["experts.up"]), ExpandAxes(t.p["experts.bias"], 1)))
	w := ExpandAxes(t.sources(route, 0), -1) // [G,n,E,1]
	u = Reshape(Mul(Reshape(u, t.z.g, n, t.z.e, m), w), t.z.g, n, t.z.e*m)
	return t.product("gnm,gmh->gnh", t.brief(u), t.p["experts.down"])
}

// losses returns the loss of each head, [G]: the mean over all tokens, where that
// of padding is 0. y: [G,n,E].
func (t net) losses(in passages, y *Node) *Node {
	n := in.ids.Shape().Size()
	layerFirst := func(x *Node) *Node { return TransposeAllAxes(Reshape(x, n, t.z.l, t.z.e), 1, 0, 2) }
	var want *Node // [B,T,L,E]
	if in.z != nil {
		want = Softmax(in.z, -1)
	} else {
		want = ConvertDType(GreaterThan(in.route, ZerosLike(in.route)), y.DType())
	}
	l := ReduceSum(lossTerms(in.z != nil, y, t.targets(layerFirst(want))), 2) // [G,n]
	return ReduceMean(Mul(l, Reshape(in.count, 1, n)), 1)
}
