package speculate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// Ensemble adds the log odds of its members with weights that were fitted on
// validation documents: sigmoid(b + sum_m w_m logit(p_m)), w >= 0, for each
// horizon (stacking: Wolpert 1992, with the non-negativity of Breiman 1996).
// Where it is not clear that the recall@K of the mixture is above that of its best
// member, on validation documents that its weights were not fitted on, that member
// answers alone, and members are dropped without which the mixture is within one
// standard error: an ensemble costs the time of all members.
type Ensemble struct {
	name    string
	parts   []Predictor
	Weights map[Horizon][]float64         // [members+1], the last is b
	curves  map[Horizon]*calibrationCurve // fitted with the weights
	layers  int                           // L of the curves
}

// FitEnsemble fits an ensemble of members on up to 64 tokens of each document of
// valid, which it reads once. Members should be calibrated. On the tokens that it is
// fitted on, the recall@K is never below that of any member. Of a single document
// nothing is clear, and the best member answers alone.
func FitEnsemble(ctx context.Context, name string, valid Data, o EvaluateOptions, members ...Predictor) (*Ensemble, error) {
	e := &evaluation{o: o, shape: ShapeOf(valid.Header.Model), ps: members}
	if err := e.check(valid.Header); err != nil {
		return nil, err
	}
	m := &Ensemble{name: name, parts: slices.Clone(members), Weights: map[Horizon][]float64{}, curves: map[Horizon]*calibrationCurve{}, layers: e.shape.Layers}
	pools, docs, err := m.sample(ctx, valid, e)
	if err != nil {
		return nil, err
	}
	if docs == 0 {
		return nil, errors.New("speculate: no documents to fit an ensemble on")
	}
	for _, h := range o.Horizons {
		if p := pools[h]; len(p.items) > 0 {
			m.Weights[h] = p.fit(m.active(h), len(members))
			if mixes(m.Weights[h]) {
				m.curves[h] = p.curve(m.Weights[h], e.shape)
			}
		}
	}
	return m, nil
}

// mixes reports whether more than one member has a weight. A single one needs no
// further calibration.
func mixes(w []float64) bool { return len(with(w)) > 1 }

// unmixed returns the member that answers as it is, with weight 1 and no other or bias;
// -1: none. It is called for each decision.
func unmixed(w []float64) int {
	one := -1
	for i, x := range w {
		switch {
		case x == 0:
		case x != 1 || one >= 0 || i == len(w)-1:
			return -1
		default:
			one = i
		}
	}
	return one
}

// Calibrated returns the ensemble as [Calibrate] would, with one curve for all
// layers of a horizon, fitted with the weights on the same tokens; the ensemble
// itself where it was not fitted here but loaded, or mixes nothing.
func (m *Ensemble) Calibrated() Predictor {
	if len(m.curves) == 0 {
		return m
	}
	c := &calibrated{Predictor: m, Curves: map[Horizon][]*calibrationCurve{}}
	for h, k := range m.curves {
		c.Curves[h] = slices.Repeat([]*calibrationCurve{k}, m.layers)
	}
	return c
}

// active lists the members that support h.
func (m *Ensemble) active(h Horizon) []int {
	var a []int
	for i, p := range m.parts {
		if p.Supports(h) {
			a = append(a, i)
		}
	}
	return a
}

// sample reads valid and keeps items of each horizon.
func (m *Ensemble) sample(ctx context.Context, valid Data, e *evaluation) (map[Horizon]*pool, int, error) {
	s := e.shape
	pools := map[Horizon]*pool{}
	for i, h := range e.o.Horizons {
		pools[h] = &pool{e: s.Experts, bound: max(200, min(8000, 1<<22/(s.Experts*len(m.parts)))), rng: rand.New(rand.NewPCG(e.o.Seed, uint64(i)))}
	}
	type found struct {
		h  Horizon
		it item
	}
	docs := 0
	work := func(doc *trace.Document, seq *sequence) ([]found, error) {
		var out []found
		a := &answers{seq: seq}
		for _, h := range e.o.Horizons {
			act := m.active(h)
			for _, l := range s.Targets(h) {
				tokens := seq.some(l)
				if len(act) == 0 || len(tokens) == 0 || slices.ContainsFunc(act, func(i int) bool { return !Supports(m.parts[i], s, h, l) }) {
					continue
				}
				a.ask(h, l, tokens)
				scores := make([][]float32, len(m.parts))
				for _, i := range act {
					var err error
					if scores[i], err = a.of(m.parts[i]); err != nil {
						return nil, err
					}
				}
				for j, t := range tokens {
					c := (t*s.Layers + l) * s.TopK
					it := item{odds: make([]float32, len(m.parts)*s.Experts), actual: doc.Experts[c : c+s.TopK : c+s.TopK]}
					for _, i := range act {
						for x, p := range scores[i][j*s.Experts : (j+1)*s.Experts] {
							it.odds[i*s.Experts+x] = float32(prob.LogOdds(p))
						}
					}
					out = append(out, found{h, it})
				}
			}
		}
		for i := range out { // do not hold the document for its experts
			out[i].it.actual = slices.Clone(out[i].it.actual)
		}
		return out, nil
	}
	err := scan(ctx, valid, e.workers(), work, func(_ *trace.Document, out []found) error {
		for _, f := range out {
			f.it.doc = docs
			pools[f.h].offer(f.it)
		}
		docs++
		return nil
	})
	return pools, docs, err
}

// Name is the argument of FitEnsemble.
func (m *Ensemble) Name() string { return m.name }

// Members returns the predictors that are mixed.
func (m *Ensemble) Members() []Predictor { return slices.Clone(m.parts) }

// Requires what any member with a weight requires.
func (m *Ensemble) Requires() Requirements {
	var r Requirements
	for i, p := range m.parts {
		if !m.used(i) {
			continue
		}
		q := p.Requires()
		r.TokenIDs, r.Weights = r.TokenIDs || q.TokenIDs, r.Weights || q.Weights
		r.Logits, r.Inputs = r.Logits || q.Logits, r.Inputs || q.Inputs
		if q.History < 0 || r.History < 0 {
			r.History = -1
		} else {
			r.History = max(r.History, q.History)
		}
	}
	return r
}

// used reports whether member i has a weight at any horizon.
func (m *Ensemble) used(i int) bool {
	for _, w := range m.Weights {
		if w[i] != 0 {
			return true
		}
	}
	return false
}

// Supports the horizons that it was fitted for.
func (m *Ensemble) Supports(h Horizon) bool { return m.Weights[h] != nil }

// SupportsLayer implements [Partial]: it reports whether all members with a weight at
// h answer about the layer.
func (m *Ensemble) SupportsLayer(s Shape, h Horizon, layer int) bool {
	for _, p := range m.members(h) {
		if p != nil && !Supports(p, s, h, layer) {
			return false
		}
	}
	return true
}

// Predict implements [Predictor].
func (m *Ensemble) Predict(views []View, out []float32) error {
	if len(views) == 0 {
		return nil
	}
	w := m.Weights[views[0].hor]
	if w == nil {
		return ErrHorizon
	}
	ms := make([][]float32, len(m.parts))
	for i, p := range m.parts {
		if w[i] != 0 {
			ms[i] = make([]float32, len(out))
			if err := p.Predict(views, ms[i]); err != nil {
				return fmt.Errorf("%s: %w", p.Name(), err)
			}
		}
	}
	return m.combine(views[0], ms, out)
}

// members are those with a weight at any horizon.
func (m *Ensemble) members(h Horizon) []Predictor {
	ps := slices.Clone(m.parts)
	for i := range ps {
		if m.Weights[h] == nil || m.Weights[h][i] == 0 {
			ps[i] = nil
		}
	}
	return ps
}

func (m *Ensemble) combine(v View, members [][]float32, out []float32) error {
	w := m.Weights[v.hor]
	if w == nil {
		return ErrHorizon
	}
	if i := unmixed(w); i >= 0 {
		copy(out, members[i]) // log odds would be rounded
		return nil
	}
	for i := range out {
		z := w[len(m.parts)]
		for j, p := range members {
			if p != nil {
				z += w[j] * prob.LogOdds(p[i])
			}
		}
		out[i] = prob.Of(z)
	}
	return nil
}
