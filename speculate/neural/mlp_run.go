package neural

import (
	"fmt"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// unit is the network of one head. Its weights include the standardisation.
type unit struct {
	first  matrix // [F+n*W, H]
	bias1  []float32
	hidden []matrix // depth-1 times [H,H]
	biases [][]float32
	last   matrix // [H,E]; [F,E] is lin
	lin    matrix
	out    []float32 // bias, padded like bias1 and biases
	gate   matrix    // [H+S, S]: gates of the statistics
	gateB  []float32
}

// MLP is a trained multilayer perceptron; see [MLPConfig]. It is safe for
// concurrent use.
type MLP struct {
	network[MLPConfig]
	units []unit
	embed []float32 // [V+1,W]
	stats []speculate.Predictor
	pool  sync.Pool
}

// newMLP lays weights out for execution. Their sizes have been checked.
func newMLP(st stored[MLPConfig], stats []speculate.Predictor, w map[string][]float32) *MLP {
	p := &MLP{network: newNetwork(st, w), embed: w["embed"], stats: stats}
	c := st.Config
	z := sizesOf(c, st.Shape, len(p.index), len(stats))
	part := func(name string, g, rows, width int) []float32 { return w[name][g*rows*width:][:rows*width] }
	p.units = make([]unit, z.g)
	for g := range p.units {
		u := &p.units[g]
		u.out = padRow(part("out.bias", g, 1, z.e))
		if c.Linear {
			u.lin = newMatrix(z.f, z.e, part("linear", g, z.f, z.e))
		}
		if c.Depth == 0 {
			continue
		}
		first := part("first", g, z.f, z.h)
		if z.n > 0 {
			first = slices.Concat(first, part("first.embed", g, z.n*z.w, z.h))
		}
		u.first = newMatrix(z.f+z.n*z.w, z.h, first)
		u.bias1 = padRow(part("first.bias", g, 1, z.h))
		for i := range c.Depth - 1 {
			u.hidden = append(u.hidden, newMatrix(z.h, z.h, part(fmt.Sprintf("hidden.%d", i), g, z.h, z.h)))
			u.biases = append(u.biases, padRow(part(fmt.Sprintf("hidden.%d.bias", i), g, 1, z.h)))
		}
		u.last = newMatrix(z.h, z.e, part("last", g, z.h, z.e))
		if z.s > 0 {
			u.gate = newMatrix(z.h+z.s, z.s, part("gate", g, z.h+z.s, z.s))
			u.gateB = padRow(part("gate.bias", g, 1, z.s))
		}
	}
	return p
}

// Config returns the network's configuration.
func (p *MLP) Config() MLPConfig { return p.cfg }

// Needs returns the predictors whose log odds the network mixes.
func (p *MLP) Needs() []speculate.Predictor { return p.stats }

// Save implements [speculate.Saver].
func (p *MLP) Save() (*speculate.Saved, error) {
	var names []string
	for _, q := range p.stats {
		names = append(names, q.Name())
	}
	return p.save(mlpKind, names, p.arrays())
}

func (p *MLP) arrays() []*param {
	return mlpParams(p.cfg, sizesOf(p.cfg, p.shape, len(p.units), len(p.stats)))
}

func (p *MLP) toInt8() Network {
	st := p.stored()
	st.Int8 = true
	return newMLP(st, p.stats, rounded(p.weights, p.arrays()))
}

// scratch is the working memory of the decisions on a group of views.
type scratch struct {
	x, h, g, z []float32 // [n,F+n*W], [n,H], [n,H], [n,E]
	ids        []int32
	stats      []float32 // [S,n,E]
	odds       []float32 // [S,E] of one view
	gateIn     []float32 // [H+S] of one view
	gates      []float32 // [S] of one view
	xs, hs, zs int       // strides of x, of h and g, and of z
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
	s := p.scratch(min(len(views), group))
	defer p.pool.Put(s)
	return p.predict(views, out, func(g int, views []speculate.View) ([]float32, int, error) {
		return s.z, s.zs, p.forward(&p.units[g], s, views)
	})
}

// forward computes the logits of views in s.z. Those of a view do not depend on
// the others.
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
	residual(h, g, u.hidden, u.biases, n, s.hs)
	u.last.addRows(s.z, h, n, s.zs, s.hs)
	return p.mix(u, s, views)
}

// residual adds hidden layers to n rows of h, each a stride apart: h += relu(h W^T
// + b). g is scratch of the size of h.
func residual(h, g []float32, hidden []matrix, biases [][]float32, n, stride int) {
	for i := range hidden {
		for j := range n {
			copy(g[j*stride:], biases[i])
		}
		hidden[i].addRows(g, h, n, stride, stride)
		addRelu(h, g)
	}
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
		prob.FromLogOdds(s.gates[:len(p.stats)])
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
	prob.ToLogOdds(probs, odds)
	return float32(trace.Entropy(probs)) - 1
}
