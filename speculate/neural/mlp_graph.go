package neural

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	. "github.com/gomlx/gomlx/core/graph"
)

// sizes are those of an MLP's arrays: G heads, F features, H width, W width of an
// embedding, n ids, S statistics, E experts, V vocabulary. B is the number of tokens
// of a batch.
type sizes struct{ g, f, h, w, n, s, e, v int }

func sizesOf(c MLPConfig, s speculate.Shape, heads, stats int) sizes {
	return sizes{g: heads, f: c.Features.width(s), h: c.Width, w: c.Embed, n: c.Features.IDs, s: stats, e: s.Experts, v: s.Vocabulary}
}

// param is a trained array.
type param struct {
	name  string
	dims  []int
	value []float32
	decay bool // weight decay applies
}

func (p *param) size() int {
	n := 1
	for _, d := range p.dims {
		n *= d
	}
	return n
}

// mlpParams lists a network's arrays, without values.
func mlpParams(c MLPConfig, z sizes) []*param {
	var ps []*param
	add := func(name string, decay bool, dims ...int) {
		ps = append(ps, &param{name: name, dims: dims, decay: decay})
	}
	add("out.bias", false, z.g, z.e)
	if c.Linear && z.f > 0 {
		add("linear", true, z.g, z.f, z.e)
	}
	if c.Depth == 0 {
		return ps
	}
	if z.f > 0 { // not token ids alone
		add("first", true, z.g, z.f, z.h)
	}
	add("first.bias", false, z.g, z.h)
	if z.n > 0 {
		add("embed", true, z.v+1, z.w)
		add("first.embed", true, z.g, z.n*z.w, z.h)
	}
	for i := range c.Depth - 1 {
		add(fmt.Sprintf("hidden.%d", i), true, z.g, z.h, z.h)
		add(fmt.Sprintf("hidden.%d.bias", i), false, z.g, z.h)
	}
	add("last", true, z.g, z.h, z.e)
	if z.s > 0 {
		add("gate", true, z.g, z.h+z.s, z.s)
		add("gate.bias", false, z.g, z.s)
	}
	return ps
}

// newMLPParams draws the initial values: those of He et al. (2015) for the hidden
// layers, and zero for what leads to the logits, so that training starts from the
// linear path.
func newMLPParams(c MLPConfig, z sizes, seed uint64) []*param {
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	in := math.Sqrt(2 / float64(z.f+z.n*z.w))
	ps := mlpParams(c, z)
	for _, p := range ps {
		p.value = make([]float32, p.size())
		std, start := 0.0, float32(0)
		switch {
		case p.name == "first" || p.name == "first.embed":
			std = in
		case p.name == "embed":
			std = 1
		case p.name == "gate.bias":
			start = -1.5 // each statistic starts with a weight of .36
		case strings.HasPrefix(p.name, "hidden.") && p.decay:
			std = .5 * math.Sqrt(2/float64(z.h))
		}
		for i := range p.value {
			if p.value[i] = start; std > 0 {
				p.value[i] = float32(rng.NormFloat64() * std)
			}
		}
	}
	return ps
}

// batch holds the graph's inputs for B tokens.
type batch struct {
	x     *Node // [G,B,F] standardised features
	ids   *Node // [U,B,n] rows of the embedding; nil when n is 0
	knows []int // [G] row of ids that a head reads
	odds  *Node // [G,B,S,E] log odds of the statistics; nil when S is 0
	ent   *Node // [G,B,S] their entropies
	want  *Node // [G,B,E] the router's softmax, or 1 for the chosen
}

// logits builds the network: [G,B,E].
func logits(c MLPConfig, z sizes, p map[string]*Node, b batch) *Node {
	out := ExpandAxes(p["out.bias"], 1) // [G,1,E]
	var y *Node
	if c.Linear && z.f > 0 {
		y = product(b.x, p["linear"])
	}
	if c.Depth > 0 {
		var h *Node
		if z.f > 0 {
			h = product(b.x, p["first"])
		}
		if z.n > 0 {
			h = sum(h, embedded(z, p, b))
		}
		h = relus(Add(h, ExpandAxes(p["first.bias"], 1)))
		for i := range c.Depth - 1 {
			r := product(h, p[fmt.Sprintf("hidden.%d", i)])
			h = Add(h, relus(Add(r, ExpandAxes(p[fmt.Sprintf("hidden.%d.bias", i)], 1))))
		}
		y = sum(y, product(h, p["last"]))
		if z.s > 0 {
			g := product(Concatenate([]*Node{h, b.ent}, -1), p["gate"])
			g = MulScalar(Sigmoid(Add(g, ExpandAxes(p["gate.bias"], 1))), 2)
			y = Add(y, ReduceSum(Mul(ExpandAxes(g, -1), b.odds), 2))
		}
	}
	return Add(y, out)
}

// product returns x w, [G,B,O], of x [G,B,I] and a parameter w [G,I,O]. The gradient of
// w is dy^T x, transposed, in GoMLX, of which XLA computes the product that it says on
// a CPU: in 1.3 to 1.7 times the time of x^T dy where I < O, and in as little as a
// quarter where I > O.
func product(x, w *Node) *Node {
	y := func(w *Node) *Node { return Einsum("gbi,gio->gbo", x, w) }
	if d := w.Shape().Dimensions; d[1] >= d[2] {
		return y(w)
	}
	var dy *Node
	w = IdentityWithCustomGradient(w, func(*Node, *Node) *Node { return Einsum("gbi,gbo->gio", x, dy) }) // after that of y
	return IdentityWithCustomGradient(y(w), func(_, v *Node) *Node { dy = v; return v })
}

// embedded returns what token ids add to the first hidden layer, [G,B,H].
func embedded(z sizes, p map[string]*Node, b batch) *Node {
	tokens, w := b.x.Shape().Dimensions[1], p["first.embed"]
	e := Gather(p["embed"], ExpandAxes(b.ids, -1)) // [U,B,n,W]
	if b.ids.Shape().Dimensions[0] == 1 {
		return Transpose(Einsum("bw,gwh->bgh", Reshape(e, tokens, z.n*z.w), w), 0, 1)
	}
	var parts []*Node
	for g := 0; g < z.g; { // heads g..to-1 read the same row
		to := g + 1
		for to < z.g && b.knows[to] == b.knows[g] {
			to++
		}
		row := Reshape(Slice(e, AxisElem(b.knows[g])), tokens, z.n*z.w)
		parts = append(parts, Transpose(Einsum("bw,gwh->bgh", row, Slice(w, AxisRange(g, to))), 0, 1))
		g = to
	}
	return Concatenate(parts, 0)
}

// sum returns a+b, or b if a is nil.
func sum(a, b *Node) *Node {
	if a == nil {
		return b
	}
	return Add(a, b)
}

func relus(x *Node) *Node { return Max(x, ZerosLike(x)) }

// losses returns each head's mean loss over the batch, [G].
func losses(soft bool, y, want *Node) *Node {
	return ReduceMean(ReduceSum(lossTerms(soft, y, want), 2), 1)
}

// lossTerms returns what each expert adds to the loss of logits y [G,B,E]: the
// cross-entropy of softmaxes if soft, else of each expert's own probability.
func lossTerms(soft bool, y, want *Node) *Node {
	if soft {
		return Neg(Mul(want, LogSoftmax(y)))
	}
	// max(y,0) - y want + log(1+exp(-|y|)), which does not overflow.
	return Add(Sub(relus(y), Mul(y, want)), Log1P(Exp(Neg(Abs(y)))))
}

// adamW returns the new value and moments of one parameter at step t. rate is
// the learning rate over 1-beta1^t, c2 is 1/(1-beta2^t), and decay is the learning
// rate times the weight decay.
func adamW(p *param, x, m, v, grad, rate, decay, c2 *Node) (nx, nm, nv *Node) {
	nm = Add(MulScalar(m, beta1), MulScalar(grad, 1-beta1))
	nv = Add(MulScalar(v, beta2), MulScalar(Square(grad), 1-beta2))
	step := Div(Mul(nm, rate), AddScalar(Sqrt(Mul(nv, c2)), adamEps))
	if p.decay {
		step = Add(step, Mul(x, decay))
	}
	return Sub(x, step), nm, nv
}
