package neural

import (
	"fmt"
	"sync"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// unit is one head's network, standardisation folded in.
type unit struct {
	first  matrix // [F+n*W, H]
	bias1  []float32
	hidden []matrix // depth-1 times [H,H]
	biases [][]float32
	last   matrix // [H,E]; [F,E] is lin
	lin    matrix
	out    []float32 // bias, padded like the others
	gate   matrix    // [H+S, S]: gates of the statistics
	gateB  []float32
}

// MLP is a trained network. It is safe for concurrent use.
type MLP struct {
	cfg      MLPConfig
	shape    speculate.Shape
	horizons []speculate.Horizon
	index    map[head]int
	units    []unit
	embed    []float32 // [V+1,W]
	weights  map[string][]float32
	stats    []speculate.Predictor
	soft     bool
	info     Info
	pool     sync.Pool
}

// Info says how a network was trained.
type Info struct {
	Parameters int64   `json:"parameters"`
	Seconds    float64 `json:"seconds"` // wall time
	Tokens     int64   `json:"tokens"`  // seen, all epochs
	Epochs     int     `json:"epochs"`
	Loss       float64 `json:"loss"`     // on validation documents, at the epoch kept
	RecallK    float64 `json:"recall_k"` // likewise, mean over heads
	Seed       uint64  `json:"seed"`
	Backend    string  `json:"backend"`
}

// Name is the configuration's name.
func (p *MLP) Name() string { return p.cfg.Name }

// Config returns the network's form.
func (p *MLP) Config() MLPConfig { return p.cfg }

// Info returns how it was trained.
func (p *MLP) Info() Info { return p.info }

// Requires what the configuration reads, and the statistics with it.
func (p *MLP) Requires() speculate.Requirements { return p.cfg.Requires() }

// Supports the horizons that it was trained for.
func (p *MLP) Supports(h speculate.Horizon) bool {
	_, ok := p.index[head{h, h.FirstLayer()}]
	return ok
}

// group is how many views are worked on at once: enough that weights are read
// once for many, few enough that their activations stay near.
const group = 32

// scratch is the working memory of the decisions on a group of views. Rows of
// h, g, z and gates have strides of their own, see MLP.scratch.
type scratch struct {
	x, h, g, z []float32 // [n,F+n*W], [n,H], [n,H], [n,E]
	ids        []int32
	stats      []float32 // [S,n,E]
	odds       []float32 // [S,E] of one view
	gateIn     []float32 // [H+S] of one view
	gates      []float32 // [S] of one view
	xs, hs, zs int       // the strides of x, of h and g, and of z
}

// scratch returns working memory for n views.
func (p *MLP) scratch(n int) *scratch {
	s, ok := p.pool.Get().(*scratch)
	c, e := p.cfg, p.shape.Experts
	if !ok {
		s = &scratch{xs: c.Features.width(p.shape) + c.Features.IDs*c.Embed, hs: padTo(c.Width, lane), zs: padTo(e, lane),
			ids: make([]int32, c.Features.IDs), odds: make([]float32, len(p.stats)*e), gateIn: make([]float32, c.Width+len(p.stats)),
			gates: make([]float32, padTo(len(p.stats), lane))}
	}
	if len(s.z) < n*s.zs {
		s.x, s.h, s.g, s.z = make([]float32, n*s.xs), make([]float32, n*s.hs), make([]float32, n*s.hs), make([]float32, n*s.zs)
		s.stats = make([]float32, len(p.stats)*n*e)
	}
	return s
}

// Predict implements [speculate.Predictor].
func (p *MLP) Predict(views []speculate.View, out []float32) error {
	if len(views) == 0 {
		return nil
	}
	v := views[0]
	if s := v.Shape(); s.Layers != p.shape.Layers || s.Experts != p.shape.Experts || s.TopK != p.shape.TopK || p.cfg.Features.Inputs+p.cfg.Features.PastInputs > 0 && s.Hidden != p.shape.Hidden {
		return fmt.Errorf("neural: %s trained for L=%d E=%d K=%d D=%d, asked for L=%d E=%d K=%d D=%d", p.cfg.Name,
			p.shape.Layers, p.shape.Experts, p.shape.TopK, p.shape.Hidden, s.Layers, s.Experts, s.TopK, s.Hidden)
	}
	i, ok := p.index[head{v.Horizon(), v.Layer()}]
	if !ok {
		return speculate.ErrHorizon
	}
	if e := p.shape.Experts; len(out) != len(views)*e {
		return fmt.Errorf("neural: %d scores for %d views of %d experts", len(out), len(views), e)
	}
	s := p.scratch(min(len(views), group))
	defer p.pool.Put(s)
	for e := p.shape.Experts; len(views) > 0; {
		n := min(len(views), group)
		if err := p.forward(&p.units[i], s, views[:n]); err != nil {
			return err
		}
		for j := range n {
			row := out[j*e : (j+1)*e]
			copy(row, s.z[j*s.zs:])
			if p.soft {
				speculate.LogitsToProbabilities(row, p.shape.TopK)
			} else {
				speculate.OddsToProbabilities(row)
			}
		}
		views, out = views[n:], out[n*e:]
	}
	return nil
}

// forward computes the logits of at most as many views as s is made for, in
// s.z. A view's logits do not depend on the others.
func (p *MLP) forward(u *unit, s *scratch, views []speculate.View) error {
	f, w, n := p.cfg.Features.width(p.shape), p.cfg.Embed, len(views)
	for j, v := range views {
		x := s.x[j*s.xs : (j+1)*s.xs]
		p.cfg.Features.extract(v, x[:f])
		p.cfg.Features.ids(v, s.ids)
		for i, id := range s.ids {
			copy(x[f+i*w:f+(i+1)*w], p.embed[int(id)*w:])
		}
		copy(s.z[j*s.zs:], u.out)
		copy(s.h[j*s.hs:], u.bias1)
	}
	if p.cfg.Linear {
		u.lin.addRows(s.z, s.x, n, s.zs, s.xs)
	}
	if p.cfg.Depth == 0 {
		return nil
	}
	h, g := s.h[:n*s.hs], s.g[:n*s.hs]
	u.first.addRows(h, s.x, n, s.hs, s.xs)
	relu(h)
	for i := range u.hidden {
		for j := range n {
			copy(g[j*s.hs:], u.biases[i])
		}
		u.hidden[i].addRows(g, h, n, s.hs, s.hs)
		addRelu(h, g)
	}
	u.last.addRows(s.z, h, n, s.zs, s.hs)
	return p.mix(u, s, views)
}

// mix adds the gated log odds of the statistics to s.z.
func (p *MLP) mix(u *unit, s *scratch, views []speculate.View) error {
	e, n, c := p.shape.Experts, len(views), p.cfg.Width
	for k, q := range p.stats {
		if err := q.Predict(views, s.stats[k*n*e:(k+1)*n*e]); err != nil {
			return err
		}
	}
	for j := 0; j < n && len(p.stats) > 0; j++ {
		copy(s.gateIn[:c], s.h[j*s.hs:])
		for k := range p.stats {
			s.gateIn[c+k] = statistic(s.stats[(k*n+j)*e:(k*n+j+1)*e], s.odds[k*e:(k+1)*e])
		}
		copy(s.gates, u.gateB)
		u.gate.addTo(s.gates, s.gateIn)
		speculate.OddsToProbabilities(s.gates[:len(p.stats)])
		for k := range p.stats {
			for i, o := range s.odds[k*e : (k+1)*e] {
				s.z[j*s.zs+i] += 2 * s.gates[k] * o
			}
		}
	}
	return nil
}

// statistic writes the log odds of probs [E] to odds and returns their entropy
// in bits, less 1.
func statistic(probs, odds []float32) float32 {
	speculate.LogOdds(probs, odds)
	return float32(trace.Entropy(probs)) - 1
}
