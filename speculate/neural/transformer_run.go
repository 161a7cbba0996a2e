package neural

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/speculate"
)

// Transformer is a trained transformer; see [TransformerConfig]. It is safe for
// concurrent use. The first prediction that reads a token's state computes it; others,
// at any horizon and layer, reuse it.
type Transformer struct {
	network[TransformerConfig]
	embed  []float32 // [V+1,C]
	read   matrix    // [P,C]
	blocks []block
	norm   []float32 // [C]
	joints []joint
	pool   sync.Pool
}

// block is one block of the transformer.
type block struct {
	norm1, norm2       []float32 // [C]
	qkv, out, up, down matrix
}

// joint is the network of one head. Its matrices read the features of the current
// token and the transformer's state, [F+C].
type joint struct {
	lin, first   matrix
	bias1, out   []float32
	up, down     []matrix // of each expert: [D,M], [M,H]
	upBias       [][]float32
	hidden       []matrix
	hiddenBiases [][]float32
	last         matrix
}

// newTransformer lays weights out for execution. Their sizes have been checked.
func newTransformer(st stored[TransformerConfig], w map[string][]float32) *Transformer {
	c, z := st.Config, st.Config.extent(st.Shape, st.Horizons)
	p := &Transformer{network: newNetwork(st, w), embed: w["embed"], read: newMatrix(z.p, c.Width, w["read"]), norm: w["norm"]}
	for i := range c.Blocks {
		at := func(name string) []float32 { return w[fmt.Sprintf("block.%d.%s", i, name)] }
		p.blocks = append(p.blocks, block{norm1: at("attention.norm"), norm2: at("mlp.norm"),
			qkv: newMatrix(c.Width, 3*c.Width, at("attention.qkv")), out: newMatrix(c.Width, c.Width, at("attention.out")),
			up: newMatrix(c.Width, 4*c.Width, at("mlp.up")), down: newMatrix(4*c.Width, c.Width, at("mlp.down"))})
	}
	for g := range z.g {
		p.joints = append(p.joints, newJoint(c, z, w, g))
	}
	return p
}

// Config returns the network's configuration.
func (p *Transformer) Config() TransformerConfig { return p.cfg }

// Save implements [speculate.Saver].
func (p *Transformer) Save() (*speculate.Saved, error) {
	return p.save(transformerKind, nil, p.arrays())
}

func (p *Transformer) arrays() []*param {
	return transformerArrays(p.cfg, p.cfg.extent(p.shape, p.horizons))
}

func (p *Transformer) toInt8() Network {
	st := p.stored()
	st.Int8 = true
	return newTransformer(st, rounded(p.weights, p.arrays()))
}

func newJoint(c TransformerConfig, z extent, w map[string][]float32, g int) (u joint) {
	part := func(name string, rows, width int) []float32 { return w[name][g*rows*width:][:rows*width] }
	both := func(name string, width int) matrix {
		joined := append(append([]float32{}, part(name, z.f, width)...), part(name+".context", c.Width, width)...)
		return newMatrix(z.f+c.Width, width, joined)
	}
	h, m := c.HeadWidth, c.ExpertWidth
	u.lin, u.first = both("linear", z.e), both("first", h)
	u.bias1, u.out = padRow(part("first.bias", 1, h)), padRow(part("out.bias", 1, z.e))
	for i := range c.HeadDepth - 1 {
		u.hidden = append(u.hidden, newMatrix(h, h, part(fmt.Sprintf("hidden.%d", i), h, h)))
		u.hiddenBiases = append(u.hiddenBiases, padRow(part(fmt.Sprintf("hidden.%d.bias", i), 1, h)))
	}
	u.last = newMatrix(h, z.e, part("last", h, z.e))
	for e := range z.e {
		if m == 0 {
			break
		}
		up, all := make([]float32, z.d*m), part("experts.up", z.d, z.e*m)
		for d := range z.d {
			copy(up[d*m:(d+1)*m], all[(d*z.e+e)*m:])
		}
		u.up = append(u.up, newMatrix(z.d, m, up))
		u.upBias = append(u.upBias, padRow(part("experts.bias", 1, z.e*m)[e*m:(e+1)*m]))
		u.down = append(u.down, newMatrix(m, h, part("experts.down", z.e*m, h)[e*m*h:(e+1)*m*h]))
	}
	return u
}

// padRow appends zeros, so that a copy of the row clears its padding.
func padRow(b []float32) []float32 {
	return append(b[:len(b):len(b)], make([]float32, padTo(len(b), lane)-len(b))...)
}

// jointScratch is the working memory of the decisions on a group of views.
type jointScratch struct {
	x, h, g, z []float32 // [n,F+C], [n,H], [n,H], [n,E], in rows of xs, hs, hs, zs
	in, mid    []float32 // of views that chose one expert: [n,D], [n,M] in rows of ms
	route      []float32 // [n,E]
	rows       []int
	xs, hs     int
	zs, ms     int
}

func (p *Transformer) scratch() *jointScratch {
	if s, ok := p.pool.Get().(*jointScratch); ok {
		return s
	}
	c, z := p.cfg, p.cfg.extent(p.shape, p.horizons)
	s := &jointScratch{xs: z.f + c.Width, hs: padTo(c.HeadWidth, lane), zs: padTo(z.e, lane), ms: padTo(c.ExpertWidth, lane)}
	s.x, s.h, s.g, s.z = make([]float32, group*s.xs), make([]float32, group*s.hs), make([]float32, group*s.hs), make([]float32, group*s.zs)
	if c.ExpertWidth > 0 {
		s.in, s.mid, s.route = make([]float32, group*z.d), make([]float32, group*s.ms), make([]float32, group*z.e)
	}
	return s
}

// Predict implements [speculate.Predictor].
func (p *Transformer) Predict(views []speculate.View, out []float32) error {
	if len(views) == 0 {
		return nil
	}
	s, width := p.scratch(), p.rowWidth()
	defer p.pool.Put(s)
	first, rows := -1, []float32(nil)
	return p.predict(views, out, func(g int, part []speculate.View) ([]float32, int, error) {
		if first < 0 {
			last := slices.MaxFunc(views, func(a, b speculate.View) int { return a.Token() - b.Token() })
			first, rows = last.Memory(p, width, p.extend)
		}
		for j, v := range part {
			p.features(v, first, rows, s, j)
		}
		p.forward(&p.joints[g], s, len(part))
		return s.z, s.zs, nil
	})
}

// features writes what is known of the token that v's head reads, and its state, to
// row j of s: zeros before the first token. rows are those of tokens from first on.
func (p *Transformer) features(v speculate.View, first int, rows []float32, s *jointScratch, j int) {
	x, e, c := s.x[j*s.xs:(j+1)*s.xs], p.shape.Experts, p.cfg.Width
	f := len(x) - c
	clear(x)
	t, latest := v.Token(), v.Layer()-v.Horizon().Layers
	switch {
	case v.Horizon() == unknown:
		t, latest = t-1, p.shape.Layers-1
	case v.Horizon().Layers == 0:
		latest = -1
	}
	if t >= first {
		copy(x[f:], rows[(t-first)*p.rowWidth():][:c])
	}
	if p.cfg.Inputs {
		d := p.shape.Hidden
		for i := range 2 {
			if l := latest - i; l >= 0 {
				p.standard(v.Input(t, l), l, x[i*d:(i+1)*d])
			}
		}
		if p.cfg.ExpertWidth > 0 {
			r := s.route[j*e : (j+1)*e]
			clear(r)
			if latest >= 0 {
				shares(v.Experts(t, latest), v.Weights(t, latest), r)
			}
		}
		return
	}
	w := f / p.shape.Layers
	for l := range latest + 1 {
		p.routed(v, t, l, x[l*w:(l+1)*w])
	}
}

// routed writes what is read of a known routing to row, which must be 0: raised
// weights, [E], and then, if they are read, router logits less their mean, [E].
func (p *Transformer) routed(v speculate.View, t, l int, row []float32) {
	e := p.shape.Experts
	raised(v, t, l, row[:e])
	z := v.Logits(t, l)
	if !p.cfg.Logits || z == nil { // nil: before the first token
		return
	}
	mean := float32(0)
	for _, x := range z {
		mean += x / float32(e)
	}
	for i, x := range z {
		row[e+i] = x - mean
	}
}

// raised writes routing weights, raised by a half as in spread, to row [E], which
// must be 0.
func raised(v speculate.View, t, l int, row []float32) {
	es := v.Experts(t, l)
	shares(es, v.Weights(t, l), row)
	for _, e := range es {
		if e >= 0 {
			row[e] += .5
		}
	}
}

// standard writes a standardised router input of layer l, or nothing if x is nil.
func (p *Transformer) standard(x []float32, l int, out []float32) {
	d := p.shape.Hidden
	mean, inv := p.weights["mean"][l*d:(l+1)*d], p.weights["inv"][l*d:(l+1)*d]
	for i, v := range x {
		out[i] = (v - mean[i]) * inv[i]
	}
}

// forward computes the logits of n views from their features in s.z. Those of a
// view do not depend on the others.
func (p *Transformer) forward(u *joint, s *jointScratch, n int) {
	h, g := s.h[:n*s.hs], s.g[:n*s.hs]
	for j := range n {
		copy(s.z[j*s.zs:(j+1)*s.zs], u.out)
		copy(h[j*s.hs:], u.bias1)
	}
	u.lin.addRows(s.z, s.x, n, s.zs, s.xs)
	u.first.addRows(h, s.x, n, s.hs, s.xs)
	p.experts(u, s, n)
	relu(h)
	residual(h, g, u.hidden, u.hiddenBiases, n, s.hs)
	u.last.addRows(s.z, h, n, s.zs, s.hs)
}

// experts adds the chosen experts' perceptrons to s.h: for each expert, in order,
// those of all views that chose it.
func (p *Transformer) experts(u *joint, s *jointScratch, n int) {
	d := p.shape.Hidden
	for e := range u.up {
		s.rows = s.rows[:0]
		for j := range n {
			if s.route[j*p.shape.Experts+e] > 0 {
				k := len(s.rows)
				copy(s.in[k*d:(k+1)*d], s.x[j*s.xs:])
				copy(s.mid[k*s.ms:(k+1)*s.ms], u.upBias[e])
				s.rows = append(s.rows, j)
			}
		}
		k := len(s.rows)
		if k == 0 {
			continue
		}
		u.up[e].addRows(s.mid, s.in, k, s.ms, d)
		relu(s.mid[:k*s.ms])
		for i, j := range s.rows {
			w := s.route[j*p.shape.Experts+e]
			for m := range s.mid[i*s.ms : (i+1)*s.ms] {
				s.mid[i*s.ms+m] *= w
			}
			copy(s.g[i*s.hs:(i+1)*s.hs], s.h[j*s.hs:])
		}
		u.down[e].addRows(s.g, s.mid, k, s.hs, s.ms)
		for i, j := range s.rows {
			copy(s.h[j*s.hs:(j+1)*s.hs], s.g[i*s.hs:])
		}
	}
}

// rmsInto writes RMSNorm of x [C] by w [C] to out.
func rmsInto(x, w, out []float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(x))+rmsEps))
	for i, v := range x {
		out[i] = v * scale * w[i]
	}
}
