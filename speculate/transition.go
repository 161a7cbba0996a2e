package speculate

import (
	"fmt"

	"github.com/expertspec/expertspec/trace"
)

// Transition predicts from the experts that the token chose at layer l-h: the
// mean over them of P(e at l | e' at l-h), by counting. At a horizon of one
// token it is from layer l of the token before to layer l of this one; in an encoder,
// where that is not known before, the answer is then that of [Frequency].
type Transition struct {
	Frequency
	tables map[Horizon]*transitions
}

// transitions counts, for each target layer and source expert, how often the
// source was chosen, and how often each target with it.
type transitions struct {
	from [][]float64 // [L][E]
	to   [][]float64 // [L][E*E]
	prob [][]float32 // [L][E*E] P(e|e'), rows e'
}

// Name is "transition".
func (p *Transition) Name() string { return "transition" }

// Requires one earlier token for horizons of one token.
func (p *Transition) Requires() Requirements { return Requirements{History: 1} }

// Supports the horizons that it was fitted for.
func (p *Transition) Supports(h Horizon) bool { return p.tables[h] != nil }

// Begin implements [Counter].
func (p *Transition) Begin(s Shape, hs []Horizon) error {
	p.tables = map[Horizon]*transitions{}
	for _, h := range hs {
		p.tables[h] = &transitions{from: rows[float64](s.Layers, s.Experts), to: rows[float64](s.Layers, s.Experts*s.Experts)}
	}
	return p.Frequency.Begin(s, hs)
}

// source returns the experts of doc from which layer l of token t is predicted,
// or nil.
func source(doc *trace.Document, s Shape, h Horizon, enc, t, l, steps int) []int32 {
	first := s.FirstLayer(l)
	if h.Layers > 0 {
		l -= h.Layers + steps - 1
	} else if t -= steps; t < enc { // of an encoder, which shows no routing at these horizons, or before the start
		return nil
	}
	if l < first || t < 0 {
		return nil
	}
	i := (t*s.Layers + l) * s.TopK
	return doc.Experts[i : i+s.TopK]
}

// sourceIn is source through a view.
func sourceIn(v View, steps int) []int32 {
	if v.hor.Layers > 0 {
		return v.Experts(v.t, v.l-v.hor.Layers-steps+1)
	}
	return v.Experts(v.t-steps, v.l)
}

// Count implements [Counter].
func (p *Transition) Count(doc *trace.Document) error {
	s, enc := p.shape, doc.Encoded()
	for h, tab := range p.tables {
		targets := s.Targets(h)
		for t := range doc.Tokens {
			for _, l := range targets {
				if (t < enc) != (l < s.Encoder) {
					continue
				}
				i := (t*s.Layers + l) * s.TopK
				to := doc.Experts[i : i+s.TopK]
				for _, a := range source(doc, s, h, enc, t, l, 1) {
					if a < 0 {
						continue
					}
					tab.from[l][a]++
					row := tab.to[l][int(a)*s.Experts:]
					for _, b := range to {
						if b >= 0 {
							row[b]++
						}
					}
				}
			}
		}
	}
	return p.Frequency.Count(doc)
}

// End implements [Counter].
func (p *Transition) End() error {
	if err := p.Frequency.End(); err != nil {
		return err
	}
	e := p.shape.Experts
	for _, tab := range p.tables {
		tab.prob = rows[float32](p.shape.Layers, e*e)
		for l := range tab.prob {
			for i := range tab.prob[l] {
				tab.prob[l][i] = float32((tab.to[l][i] + 4*float64(p.prior[l][i%e])) / (tab.from[l][i/e] + 4))
			}
		}
	}
	return nil
}

// Predict implements [Predictor]. Without a source token the answer is that of
// [Frequency].
func (p *Transition) Predict(views []View, out []float32) error {
	if err := p.Frequency.Predict(views, out); err != nil || len(views) == 0 {
		return err
	}
	tab := p.tables[views[0].hor]
	if tab == nil {
		return ErrHorizon
	}
	ne := p.shape.Experts
	for i, v := range views {
		row, n := out[i*ne:(i+1)*ne], float32(0)
		for _, a := range sourceIn(v, 1) {
			if a < 0 {
				continue
			}
			if n == 0 {
				clear(row)
			}
			n++
			for e, x := range tab.prob[v.l][int(a)*ne : int(a+1)*ne] {
				row[e] += x
			}
		}
		if n > 0 {
			for e := range row {
				row[e] /= n
			}
		}
	}
	return nil
}

// Path predicts from the first choices of the token at the three layers l-h,
// l-h-1 and l-h-2 (at a horizon of one token: of the three tokens before, at
// layer l): P(e | path) from counts, plus four counts of the next shorter path. Its
// memory grows with the paths seen, at most MaxPaths.
type Path struct {
	Transition
	// MaxPaths bounds the number of paths over all layers and horizons; for later
	// ones the answer is that of [Transition]. 0 means 1<<18.
	MaxPaths int
	paths    map[pathKey][]uint32 // E counts and, last, the times that it was seen
}

type pathKey struct {
	h       Horizon
	l       int32
	a, b, c int32 // c -2: a path of two
}

// Name is "path of three".
func (p *Path) Name() string { return "path of three" }

// Requires three earlier tokens for horizons of one token.
func (p *Path) Requires() Requirements { return Requirements{History: 3} }

// Begin implements [Counter].
func (p *Path) Begin(s Shape, hs []Horizon) error {
	if p.MaxPaths < 0 {
		return fmt.Errorf("MaxPaths %d is negative", p.MaxPaths)
	}
	p.paths = map[pathKey][]uint32{}
	return p.Transition.Begin(s, hs)
}

func first(chosen []int32) int32 {
	if len(chosen) == 0 {
		return trace.NoExpert
	}
	return chosen[0]
}

// Count implements [Counter].
func (p *Path) Count(doc *trace.Document) error {
	s := p.shape
	bound := p.MaxPaths
	if bound == 0 {
		bound = 1 << 18
	}
	add := func(k pathKey, to []int32) {
		c := p.paths[k]
		if c == nil {
			if len(p.paths) >= bound {
				return
			}
			c = make([]uint32, s.Experts+1)
			p.paths[k] = c
		}
		c[s.Experts]++
		for _, e := range to {
			if e >= 0 {
				c[e]++
			}
		}
	}
	enc := doc.Encoded()
	for h := range p.tables {
		targets := s.Targets(h)
		for t := range doc.Tokens {
			for _, l := range targets {
				if (t < enc) != (l < s.Encoder) {
					continue
				}
				i := (t*s.Layers + l) * s.TopK
				k := pathKey{h: h, l: int32(l), a: first(source(doc, s, h, enc, t, l, 1)), b: first(source(doc, s, h, enc, t, l, 2)), c: -2}
				if k.a < 0 || k.b < 0 {
					continue
				}
				add(k, doc.Experts[i:i+s.TopK])
				if k.c = first(source(doc, s, h, enc, t, l, 3)); k.c >= 0 {
					add(k, doc.Experts[i:i+s.TopK])
				}
			}
		}
	}
	return p.Transition.Count(doc)
}

// Predict implements [Predictor].
func (p *Path) Predict(views []View, out []float32) error {
	if err := p.Transition.Predict(views, out); err != nil || len(views) == 0 {
		return err
	}
	ne := p.shape.Experts
	for i, v := range views {
		k := pathKey{h: v.hor, l: int32(v.l), a: first(sourceIn(v, 1)), b: first(sourceIn(v, 2)), c: -2}
		if k.a < 0 || k.b < 0 {
			continue
		}
		row := out[i*ne : (i+1)*ne]
		mixIn(row, p.paths[k])
		if k.c = first(sourceIn(v, 3)); k.c >= 0 {
			mixIn(row, p.paths[k])
		}
	}
	return nil
}

// mixIn replaces row by counts c with four counts of row added.
func mixIn(row []float32, c []uint32) {
	if c == nil {
		return
	}
	n := float32(c[len(row)])
	for e := range row {
		row[e] = (float32(c[e]) + 4*row[e]) / (n + 4)
	}
}
