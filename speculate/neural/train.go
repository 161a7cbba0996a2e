package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// TrainMLP fits one network for all o.Horizons on train, keeping the state that
// does best on valid. The figures depend on the seed and the backend alone. A
// training that was interrupted continues where TrainOptions.Resume says.
func TrainMLP(ctx context.Context, cfg MLPConfig, train, valid speculate.Data, o TrainOptions) (*MLP, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	if err := errors.Join(cfg.Validate(), shape.Validate()); err != nil {
		return nil, err
	}
	if err := o.Validate(cfg, shape); err != nil {
		return nil, err
	}
	if err := suits(cfg.Name, cfg.Requires(), train, valid); err != nil {
		return nil, err
	}
	t, err := newTrainer(ctx, cfg, train, valid, o.withDefaults())
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.loop.run(ctx); err != nil {
		return nil, err
	}
	return t.predictor(), nil
}

// suits reports documents that do not fit each other, or lack what is read.
func suits(name string, r speculate.Requirements, train, valid speculate.Data) error {
	if a, b := speculate.ShapeOf(train.Header.Model), speculate.ShapeOf(valid.Header.Model); a != b {
		return fmt.Errorf("neural: training documents of %+v, validation documents of %+v", a, b)
	}
	for _, d := range []speculate.Data{train, valid} {
		if err := r.Check(d.Header); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// trainer is the job of training a network of a [MLPConfig].
type trainer struct {
	*points
	r      *reader
	params []*param
	loop   *loop[*arrays]
}

func newTrainer(ctx context.Context, cfg MLPConfig, train, valid speculate.Data, o TrainOptions) (t *trainer, err error) {
	started := time.Now()
	t = &trainer{}
	if t.points, err = newPoints(ctx, train, valid, o); err != nil {
		return nil, err
	}
	defer func(t *trainer) { // a return of nil changes the named result
		if err != nil {
			t.close()
		}
	}(t)
	t.r = &reader{points: t.points, cfg: cfg, soft: cfg.Soft && len(train.Header.LogitLayers) == t.shape.Layers}
	if cfg.Statistics {
		t.r.stats = o.Statistics
	}
	t.r.z = sizesOf(cfg, t.shape, len(t.heads), len(t.r.stats))
	t.r.ids, t.r.knows = knowledge(t.heads)
	if err := t.standardise(); err != nil {
		return nil, err
	}
	t.params = newParams(cfg, t.r.z, o.Seed)
	if cfg.Gate {
		t.startAsGate(o.Gates)
	}
	p := plan{name: cfg.Name, heads: len(t.heads), steps: t.steps, params: t.params, started: started}
	if o.Resume != "" {
		if p.identity, err = t.identity(); err != nil {
			return nil, err
		}
	}
	t.loop, err = newLoop(p, t, o)
	return t, err
}

func (t *trainer) close() {
	t.points.close()
	if t.loop != nil {
		t.loop.close()
	}
}

// identity is what a resumed training must have in common; see plan.
func (t *trainer) identity() (map[string]any, error) {
	b := min(len(t.drawn), len(t.valid))
	a := t.r.arrays(b)
	if err := t.r.read(t.valid[:b], a); err != nil {
		return nil, err
	}
	// What the network is shown of validation tokens stands for the documents,
	// the standardisation and the fitted statistics.
	var d digest
	for _, x := range [][]float32{a.x, a.odds, a.ent, a.want} {
		d.floats(x)
	}
	d.ints(a.ids)
	id := t.points.identity(t.r.cfg, d)
	id["soft targets"] = t.r.soft
	return id, nil
}

// standardise measures the mean and deviation of each head's features on
// tokens drawn from the training documents.
func (t *trainer) standardise() error {
	const sample = 512
	const rounds = 4
	r := t.r
	n := r.z.g * r.z.f
	sum, sq := make([]float64, n), make([]float64, n)
	ps, a := make([]point, sample), r.arrays(sample)
	for range rounds {
		if err := t.sampler.draw(ps); err != nil {
			return err
		}
		if err := r.read(ps, a); err != nil {
			return err
		}
		for g := range r.z.g {
			for b := range sample {
				for f, x := range a.x[(g*sample+b)*r.z.f:][:r.z.f] {
					sum[g*r.z.f+f] += float64(x)
					sq[g*r.z.f+f] += float64(x) * float64(x)
				}
			}
		}
	}
	r.mean, r.inv = make([]float32, n), make([]float32, n)
	for i := range n {
		m := sum[i] / sample / rounds
		r.mean[i] = float32(m)
		// A floor, so that what hardly ever varies is not blown up.
		r.inv[i] = float32(1 / max(math.Sqrt(max(sq[i]/sample/rounds-m*m, 0)), .05))
	}
	return nil
}

// startAsGate sets the linear path to the target layer's router, in the terms
// of standardised features.
func (t *trainer) startAsGate(gates *speculate.Gates) {
	z := t.r.z
	lin, bias := t.param("linear"), t.param("out.bias")
	for g, hd := range t.heads {
		if hd.h.Layers == 0 {
			continue // no router input of the token is known
		}
		for e := range z.e {
			w := gates.Weights[(hd.l*z.e+e)*gates.Hidden:][:gates.Hidden]
			for d, x := range w {
				i := g*z.f + d
				lin.value[i*z.e+e] = x / t.r.inv[i]
				bias.value[g*z.e+e] += x * t.r.mean[i]
			}
			if gates.Bias != nil {
				bias.value[g*z.e+e] += gates.Bias[hd.l*z.e+e]
			}
		}
	}
}

func (t *trainer) param(name string) *param {
	i := slices.IndexFunc(t.params, func(p *param) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return t.params[i]
}

// batch implements job, as do the methods below.
func (t *trainer) batch() *arrays { return t.r.arrays(len(t.drawn)) }

func (t *trainer) fill(a *arrays) (position, error) {
	at, err := t.skip()
	if err == nil {
		err = t.r.read(t.drawn, a)
	}
	return at, err
}

// inputs are in the order that unpack expects.
func (t *trainer) inputs(a *arrays) []any {
	z := t.r.z
	in := []any{tensors.FromFlatDataAndDimensions(a.x, z.g, a.tokens, z.f), tensors.FromFlatDataAndDimensions(a.want, z.g, a.tokens, z.e)}
	if z.n > 0 {
		in = append(in, tensors.FromFlatDataAndDimensions(a.ids, len(t.r.ids), a.tokens, z.n))
	}
	if z.s > 0 {
		in = append(in, tensors.FromFlatDataAndDimensions(a.odds, z.g, a.tokens, z.s, z.e), tensors.FromFlatDataAndDimensions(a.ent, z.g, a.tokens, z.s))
	}
	return in
}

func (t *trainer) unpack(nodes []*graph.Node) batch {
	z := t.r.z
	b := batch{x: nodes[0], want: nodes[1], knows: t.r.knows}
	nodes = nodes[2:]
	if z.n > 0 {
		b.ids, nodes = nodes[0], nodes[1:]
	}
	if z.s > 0 {
		b.odds, b.ent = nodes[0], nodes[1]
	}
	return b
}

func (t *trainer) graph(p map[string]*graph.Node, in []*graph.Node) (l, y *graph.Node) {
	b := t.unpack(in)
	y = logits(t.r.cfg, t.r.z, p, b)
	return losses(t.r.soft, y, b.want), y
}

func (t *trainer) check(forward func(*arrays) (losses, out []float32, err error)) (loss, recall float64, err error) {
	a := t.r.arrays(min(len(t.drawn), len(t.valid)))
	return t.points.check(func(ps []point) ([]float32, []float32, error) {
		if err := t.r.read(ps, a); err != nil {
			return nil, nil, err
		}
		return forward(a)
	})
}

// predictor assembles the best state.
func (t *trainer) predictor() *MLP {
	w := t.loop.weights()
	fold(t.r.z, t.r.cfg, w, t.r.mean, t.r.inv)
	return assemble(t.r.cfg, t.shape, t.loop.o.Horizons, t.r.soft, t.r.stats, w, t.loop.info)
}
