package speculate

import (
	"errors"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/speculate/internal/prob"
)

// Gates are a checkpoint's routers: Weights [L,E,D], Bias [L,E] or nil, of all layers
// of all stacks. Router
// logits of layer l are Weights[l] times the router input, plus Bias[l].
type Gates struct {
	Layers, Experts, Hidden int
	Weights                 []float32
	Bias                    []float32
}

// Validate returns an error for sizes that do not agree with each other or with s,
// and for values that are not finite.
func (g *Gates) Validate(s Shape) error {
	if g.Layers != s.Layers || g.Experts != s.Experts || s.Hidden != 0 && g.Hidden != s.Hidden {
		return fmt.Errorf("speculate: gates of L=%d E=%d D=%d for a trace of L=%d E=%d D=%d", g.Layers, g.Experts, g.Hidden, s.Layers, s.Experts, s.Hidden)
	}
	if g.Hidden < 1 || len(g.Weights) != g.Layers*g.Experts*g.Hidden || g.Bias != nil && len(g.Bias) != g.Layers*g.Experts {
		return fmt.Errorf("speculate: %d gate weights and %d biases for L=%d E=%d D=%d", len(g.Weights), len(g.Bias), g.Layers, g.Experts, g.Hidden)
	}
	for i, w := range g.Weights {
		if f := float64(w); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("speculate: gate weight %d is %v", i, w)
		}
	}
	return nil
}

// Logits writes the router logits [E] of layer l for router input x [D].
func (g *Gates) Logits(l int, x, out []float32) {
	for e := range out {
		w := g.Weights[(l*g.Experts+e)*g.Hidden:][:g.Hidden]
		var a, b float32 // two sums, for parallel execution
		i := 0
		for ; i+1 < len(x); i += 2 {
			a += w[i] * x[i]
			b += w[i+1] * x[i+1]
		}
		if i < len(x) {
			a += w[i] * x[i]
		}
		out[e] = a + b
		if g.Bias != nil {
			out[e] += g.Bias[l*g.Experts+e]
		}
	}
}

// gateReuse applies layer l's router to the router input of layer l-h, as
// prefetching systems do (Eliseev and Mazur 2023, arXiv:2312.17238, section
// 3.2; MoE-Infinity). Its logits become probabilities by a logistic curve in
// the margin to the K-th and next logit, fitted by [Calibrate] alone.
type gateReuse struct {
	gates *Gates
	shape Shape
}

// newGateReuse returns a gateReuse, which needs no fit.
func newGateReuse(g *Gates, s Shape) (*gateReuse, error) {
	if g == nil {
		return nil, errors.New("speculate: gate reuse without gates")
	}
	if err := g.Validate(s); err != nil {
		return nil, err
	}
	return &gateReuse{gates: g, shape: s}, nil
}

// Name is "gate reuse".
func (p *gateReuse) Name() string { return "gate reuse" }

// Requires the router inputs.
func (p *gateReuse) Requires() Requirements { return Requirements{Inputs: true} }

// Supports distances in layers.
func (p *gateReuse) Supports(h Horizon) bool { return h.Layers > 0 }

// Predict implements [Predictor].
func (p *gateReuse) Predict(views []View, out []float32) error {
	s, err := same(views, out)
	if err != nil || len(views) == 0 {
		return err
	}
	if !p.Supports(views[0].hor) {
		return ErrHorizon
	}
	if s.Experts != p.shape.Experts || s.Hidden != p.gates.Hidden || s.Layers != p.shape.Layers || s.Encoder != p.shape.Encoder {
		return errShape(p.shape, s)
	}
	for i, v := range views {
		x := v.Input(v.t, v.l-v.hor.Layers)
		if x == nil {
			return fmt.Errorf("no router input of layer %d", v.l-v.hor.Layers)
		}
		row := out[i*s.Experts : (i+1)*s.Experts]
		p.gates.Logits(v.l, x, row)
		prob.FromLogits(row, s.TopK)
	}
	return nil
}

// Oracle predicts the experts that will be chosen, an upper bound for all
// predictors. It answers only in [Evaluate] and in package prefetch, since no view
// holds the answer.
type Oracle struct{}

// Name is "oracle".
func (Oracle) Name() string { return "oracle" }

// Requires nothing.
func (Oracle) Requires() Requirements { return Requirements{} }

// Supports every horizon.
func (Oracle) Supports(Horizon) bool { return true }

// Predict returns an error, since a view does not hold the answer.
func (Oracle) Predict([]View, []float32) error {
	return errors.New("the oracle answers only in Evaluate")
}

// Baselines returns, in the order of reports, the predictors that count, which
// are to be fitted; gate reuse, unless g is nil; and the oracle. Gate reuse applies
// layer l's router to the router input of layer l-h, as prefetching systems do
// (Eliseev and Mazur 2023, arXiv:2312.17238, section 3.2).
func Baselines(s Shape, g *Gates) ([]Predictor, error) {
	var ps []Predictor
	for _, p := range newCounters() {
		ps = append(ps, p)
	}
	if g != nil {
		r, err := newGateReuse(g, s)
		if err != nil {
			return nil, err
		}
		ps = append(ps, r)
	}
	return append(ps, Oracle{}), nil
}
