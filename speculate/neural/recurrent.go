package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/expertspec/expertspec/speculate"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// RecurrentConfig is the form of an LSTM over the latest known layers of a
// token, the earlier work's network; see [LSTM].
//
// For target layer l at distance h it reads the layers l-h-Context+1..l-h, one
// a step, zeros where there is none: the mean of the embeddings of the experts
// chosen there, plus an embedding of that layer, both Width wide. Depth layers
// of Width cells follow (Hochreiter and Schmidhuber 1997, with the forget gate
// of Gers, Schmidhuber and Cummins 2000). To the last step's output an
// embedding of l is added, and a linear map gives the logits of the E experts.
// Each horizon has parameters of its own, shared by all its target layers.
type RecurrentConfig struct {
	Name    string `json:"name"`
	Width   int    `json:"width"`
	Depth   int    `json:"depth"`
	Context int    `json:"context"`
}

// LSTM is the earlier work's configuration: context 3, 4 layers of 256.
func LSTM() RecurrentConfig { return RecurrentConfig{Name: "lstm", Width: 256, Depth: 4, Context: 3} }

// Validate reports a configuration that means no network.
func (c RecurrentConfig) Validate() error {
	if c.Name == "" {
		return errors.New("neural: a configuration without a name")
	}
	if c.Width < 1 || c.Width > 1<<13 || c.Depth < 1 || c.Depth > 64 || c.Context < 1 || c.Context > 1<<10 {
		return fmt.Errorf("neural: %s: %d layers of %d, context %d", c.Name, c.Depth, c.Width, c.Context)
	}
	return nil
}

// TrainRecurrent fits a recurrent network as [Train] fits others, towards the
// chosen set (binary cross-entropy of each expert). Horizons must be distances
// in layers; Gates and Statistics are not used.
func TrainRecurrent(ctx context.Context, cfg RecurrentConfig, train, valid speculate.Data, o Options) (*Recurrent, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	if err := errors.Join(cfg.Validate(), shape.Validate()); err != nil {
		return nil, err
	}
	if err := o.validate(shape); err != nil {
		return nil, err
	}
	for _, h := range o.Horizons {
		if h.Layers == 0 {
			return nil, fmt.Errorf("neural: %s reads layers of the token alone, nothing of which is known at horizon %v", cfg.Name, h)
		}
	}
	if err := suits(cfg.Name, speculate.Requirements{}, train, valid); err != nil {
		return nil, err
	}
	t, err := newRecurrentTrainer(ctx, cfg, train, valid, o.withDefaults())
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.loop.run(ctx); err != nil {
		return nil, err
	}
	return assembleRecurrent(cfg, shape, o.Horizons, t.loop.weights(), t.loop.info), nil
}

// recurrentShapes lists the arrays for N horizons, without values. Gates are in
// the order input, forget, cell, output.
func recurrentShapes(c RecurrentConfig, s speculate.Shape, n int) []*param {
	var ps []*param
	add := func(name string, decay bool, dims ...int) {
		ps = append(ps, &param{name: name, dims: append([]int{n}, dims...), decay: decay})
	}
	w := c.Width
	add("experts", true, s.Experts, w)
	add("layers", true, s.Layers, w)
	add("targets", true, s.Layers, w)
	for i := range c.Depth {
		add(fmt.Sprintf("lstm.%d.in", i), true, w, 4*w)
		add(fmt.Sprintf("lstm.%d.state", i), true, w, 4*w)
		add(fmt.Sprintf("lstm.%d.bias", i), false, 4*w)
	}
	add("out", true, w, s.Experts)
	add("out.bias", false, s.Experts)
	return ps
}

// newRecurrentParams draws the initial values: uniform within 1/sqrt(W), the
// usual choice; embeddings normal; the forget gate open (Jozefowicz, Zaremba
// and Sutskever 2015).
func newRecurrentParams(c RecurrentConfig, s speculate.Shape, n int, seed uint64) []*param {
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	ps := recurrentShapes(c, s, n)
	bound := 1 / math.Sqrt(float64(c.Width))
	for _, p := range ps {
		p.value = make([]float32, p.size())
		for i := range p.value {
			switch {
			case p.name == "experts" || p.name == "layers":
				p.value[i] = float32(rng.NormFloat64())
			case p.name == "targets":
			case p.decay:
				p.value[i] = float32((2*rng.Float64() - 1) * bound)
			case strings.HasPrefix(p.name, "lstm.") && i/c.Width%4 == 1:
				p.value[i] = 1
			}
		}
	}
	return ps
}

// recurrentTrainer is the job of training a recurrent network.
type recurrentTrainer struct {
	*points
	cfg      RecurrentConfig
	horizons []speculate.Horizon
	rows     int // R: known layers 0..R-1 are read for some target
	loop     *loop[*choices]
}

// choices is a batch: 1 for each chosen expert, else 0, [L,B,E].
type choices struct {
	tokens int
	chosen []float32
}

func newRecurrentTrainer(ctx context.Context, cfg RecurrentConfig, train, valid speculate.Data, o Options) (t *recurrentTrainer, err error) {
	started := time.Now()
	t = &recurrentTrainer{cfg: cfg, horizons: o.Horizons}
	if t.points, err = newPoints(ctx, train, valid, o); err != nil {
		return nil, err
	}
	for _, h := range o.Horizons {
		t.rows = max(t.rows, t.shape.Layers-h.Layers)
	}
	p := plan{name: cfg.Name, heads: len(t.heads), steps: t.steps, params: newRecurrentParams(cfg, t.shape, len(o.Horizons), o.Seed), started: started}
	if o.Resume != "" {
		c := t.choices(len(t.valid))
		t.read(t.valid, c)
		var shown digest
		shown.floats(c.chosen)
		p.identity = t.identity(cfg, shown)
	}
	if t.loop, err = newLoop(p, t, o); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *recurrentTrainer) close() {
	t.points.close()
	if t.loop != nil {
		t.loop.close()
	}
}

func (t *recurrentTrainer) choices(tokens int) *choices {
	return &choices{tokens, make([]float32, t.shape.Layers*tokens*t.shape.Experts)}
}

func (t *recurrentTrainer) read(ps []point, c *choices) {
	for l := range t.shape.Layers {
		for b, p := range ps {
			t.chosen(p, l, c.chosen[(l*len(ps)+b)*t.shape.Experts:][:t.shape.Experts])
		}
	}
}

// batch implements job, as do the methods below.
func (t *recurrentTrainer) batch() *choices { return t.choices(len(t.drawn)) }

func (t *recurrentTrainer) fill(c *choices) (position, error) {
	at, err := t.skip()
	if err == nil {
		t.read(t.drawn, c)
	}
	return at, err
}

func (t *recurrentTrainer) inputs(c *choices) []any {
	return []any{tensors.FromFlatDataAndDimensions(c.chosen, t.shape.Layers, c.tokens, t.shape.Experts)}
}

func (t *recurrentTrainer) check(forward func(*choices) (losses, out []float32, err error)) (loss, recall float64, err error) {
	c := t.choices(min(len(t.drawn), len(t.valid)))
	return t.points.check(func(ps []point) ([]float32, []float32, error) {
		t.read(ps, c)
		losses, y, err := forward(c)
		if err != nil {
			return nil, nil, err
		}
		// [N,R,B,E] to [G,B,E]: the rows of each horizon that have a target.
		width, out := len(ps)*t.shape.Experts, []float32{}
		for n, h := range t.horizons {
			out = append(out, y[n*t.rows*width:][:(t.shape.Layers-h.Layers)*width]...)
		}
		return losses, out, nil
	})
}

// graph runs the network for all horizons N and known layers R at once, the
// target of row r at horizon n being layer r+h. Rows without a target have no
// loss. losses: [N*R]; out: [N*R,B,E].
func (t *recurrentTrainer) graph(p map[string]*Node, in []*Node) (loss, out *Node) {
	n, r, e, w := len(t.horizons), t.rows, t.shape.Experts, t.cfg.Width
	chosen := in[0] // [L,B,E]
	b := chosen.Shape().Dimensions[1]
	known := Slice(chosen, AxisRange(0, r))
	known = Div(known, MaxScalar(ReduceAndKeep(known, ReduceSum, -1), 1)) // mean over the chosen
	x := Einsum("rbe,new->nrbw", known, p["experts"])
	x = Add(x, ExpandAxes(Slice(p["layers"], AxisRange(), AxisRange(0, r)), 2))
	h := t.unroll(p, x) // [N,R*B,W]
	h = Add(Reshape(h, n, r, b, w), ExpandAxes(t.targets(p["targets"]), 2))
	y := Add(Einsum("nbw,nwe->nbe", Reshape(h, n, r*b, w), p["out"]), ExpandAxes(p["out.bias"], 1))
	y = Reshape(y, n*r, b, e)
	want := Reshape(t.targets(InsertAxes(chosen, 0)), n*r, b, e)
	has := make([]float32, n*r)
	for i, h := range t.horizons {
		for j := range t.shape.Layers - h.Layers {
			has[i*r+j] = 1
		}
	}
	return Mul(losses(false, y, want), Const(y.Graph(), has)), y
}

// targets takes from x [N or 1,L,...] for each horizon and row what belongs to
// its target layer, zeros where there is none: [N,R,...].
func (t *recurrentTrainer) targets(x *Node) *Node {
	var all []*Node
	for i, h := range t.horizons {
		row := Slice(x, AxisElem(min(i, x.Shape().Dimensions[0]-1)), AxisRange(h.Layers, t.shape.Layers))
		all = append(all, padded(row, 0, t.rows-(t.shape.Layers-h.Layers)))
	}
	return Concatenate(all, 0)
}

// padded puts zeros before and behind x along axis 1.
func padded(x *Node, before, behind int) *Node {
	parts := []*Node{x}
	zeros := func(n int) *Node {
		s := x.Shape().Clone()
		s.Dimensions[1] = n
		return Zeros(x.Graph(), s)
	}
	if before > 0 {
		parts = append([]*Node{zeros(before)}, parts...)
	}
	if behind > 0 {
		parts = append(parts, zeros(behind))
	}
	return Concatenate(parts, 1)
}

// unroll takes the steps of all layers of cells over x [N,R,B,W], row r reading
// rows r-C+1..r, and returns the last one's output, [N,R*B,W].
func (t *recurrentTrainer) unroll(p map[string]*Node, x *Node) *Node {
	d := x.Shape().Dimensions
	n, r, rb, w := d[0], d[1], d[1]*d[2], t.cfg.Width
	times := func(x *Node, name string) *Node { return Einsum("nbw,nwj->nbj", x, p[name]) }
	// The first layer's input at a layer is the same for all rows that read it.
	first := times(Reshape(x, n, rb, w), "lstm.0.in")
	first = padded(Reshape(first, n, r, d[2], 4*w), t.cfg.Context-1, 0)
	h, c := make([]*Node, t.cfg.Depth), make([]*Node, t.cfg.Depth)
	for s := range t.cfg.Context {
		z := Reshape(Slice(first, AxisRange(), AxisRange(s, s+r)), n, rb, 4*w)
		for i := range t.cfg.Depth {
			if i > 0 {
				z = times(h[i-1], fmt.Sprintf("lstm.%d.in", i))
			}
			z = Add(z, ExpandAxes(p[fmt.Sprintf("lstm.%d.bias", i)], 1))
			if s > 0 {
				z = Add(z, times(h[i], fmt.Sprintf("lstm.%d.state", i)))
			}
			gate := func(k int) *Node { return Slice(z, AxisRange(), AxisRange(), AxisRange(k*w, (k+1)*w)) }
			cell := Mul(Sigmoid(gate(0)), Tanh(gate(2)))
			if s > 0 {
				cell = Add(cell, Mul(Sigmoid(gate(1)), c[i]))
			}
			c[i], h[i] = cell, Mul(Sigmoid(gate(3)), Tanh(cell))
		}
	}
	return h[t.cfg.Depth-1]
}
