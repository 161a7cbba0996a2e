package neural

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// recurrentKind is the stored kind of a recurrent network.
const recurrentKind = "lstm"

// Recurrent is a trained recurrent network. It is safe for concurrent use.
type Recurrent struct {
	cfg      RecurrentConfig
	shape    speculate.Shape
	horizons []speculate.Horizon
	cells    []cells
	weights  map[string][]float32
	info     Info
	pool     sync.Pool
}

// cells is the network of one horizon. What embeddings lead to is worked out
// beforehand, being linear.
type cells struct {
	experts []float32   // [E,4W] an expert's part in the first layer's gates
	layers  []float32   // [L,4W]
	in      []matrix    // [W,4W] of each layer but the first, which is empty
	state   []matrix    // [W,4W]
	bias    [][]float32 // [4W]
	out     matrix      // [W,E]
	targets []float32   // [L,E] bias of the logits at each target layer
}

// Name is the configuration's name.
func (p *Recurrent) Name() string { return p.cfg.Name }

// Config returns the network's form.
func (p *Recurrent) Config() RecurrentConfig { return p.cfg }

// Info returns how it was trained.
func (p *Recurrent) Info() Info { return p.info }

// Requires nothing but the chosen experts.
func (p *Recurrent) Requires() speculate.Requirements { return speculate.Requirements{} }

// Supports the distances in layers that it was trained for.
func (p *Recurrent) Supports(h speculate.Horizon) bool { return p.index(h) >= 0 }

func (p *Recurrent) index(h speculate.Horizon) int {
	for i, x := range p.horizons {
		if x == h {
			return i
		}
	}
	return -1
}

// assembleRecurrent lays weights out for execution. Their sizes have been
// checked. They keep all their bits: roundings would add up from step to step,
// and what others are compared with should not be slighted.
func assembleRecurrent(c RecurrentConfig, s speculate.Shape, hs []speculate.Horizon, w map[string][]float32, info Info) *Recurrent {
	p := &Recurrent{cfg: c, shape: s, horizons: hs, cells: make([]cells, len(hs)), weights: w, info: info}
	for n := range hs {
		part := func(name string) []float32 {
			size := len(w[name]) / len(hs)
			return w[name][n*size:][:size]
		}
		u := &p.cells[n]
		// product is rows [n,W] times the named matrix [W,out], plus a bias [out].
		product := func(rows []float32, name string, bias []float32, out int) []float32 {
			m := newFull(c.Width, out, part(name))
			var all []float32
			for i := range len(rows) / c.Width {
				y := make([]float32, m.stride)
				copy(y, bias)
				m.addTo(y, rows[i*c.Width:])
				all = append(all, y[:out]...)
			}
			return all
		}
		u.experts = product(part("experts"), "lstm.0.in", nil, 4*c.Width)
		u.layers = product(part("layers"), "lstm.0.in", nil, 4*c.Width)
		u.targets = product(part("targets"), "out", part("out.bias"), s.Experts)
		u.out = newFull(c.Width, s.Experts, part("out"))
		for i := range c.Depth {
			var in matrix
			if i > 0 {
				in = newFull(c.Width, 4*c.Width, part(fmt.Sprintf("lstm.%d.in", i)))
			}
			u.in = append(u.in, in)
			u.state = append(u.state, newFull(c.Width, 4*c.Width, part(fmt.Sprintf("lstm.%d.state", i))))
			u.bias = append(u.bias, part(fmt.Sprintf("lstm.%d.bias", i)))
		}
	}
	return p
}

// recurrentScratch is the working memory of the decisions on a group of views.
type recurrentScratch struct {
	gates  []float32   // [n,4W] rows of stride gs
	h, c   [][]float32 // for each layer [n,W], rows of stride hs
	z      []float32   // [n,E], rows of stride zs
	gs, hs int
	zs     int
}

func (p *Recurrent) scratch() *recurrentScratch {
	if s, ok := p.pool.Get().(*recurrentScratch); ok {
		return s
	}
	s := &recurrentScratch{gs: padTo(4*p.cfg.Width, lane), hs: padTo(p.cfg.Width, lane), zs: padTo(p.shape.Experts, lane)}
	s.gates, s.z = make([]float32, group*s.gs), make([]float32, group*s.zs)
	for range p.cfg.Depth {
		s.h, s.c = append(s.h, make([]float32, group*s.hs)), append(s.c, make([]float32, group*s.hs))
	}
	return s
}

// Predict implements [speculate.Predictor].
func (p *Recurrent) Predict(views []speculate.View, out []float32) error {
	if len(views) == 0 {
		return nil
	}
	v, e := views[0], p.shape.Experts
	if s := v.Shape(); s.Layers != p.shape.Layers || s.Experts != e || s.TopK != p.shape.TopK {
		return fmt.Errorf("neural: %s trained for L=%d E=%d K=%d, asked for L=%d E=%d K=%d", p.cfg.Name, p.shape.Layers, e, p.shape.TopK, s.Layers, s.Experts, s.TopK)
	}
	at := p.index(v.Horizon())
	if at < 0 || v.Layer() < v.Horizon().Layers || v.Layer() >= p.shape.Layers {
		return speculate.ErrHorizon
	}
	if len(out) != len(views)*e {
		return fmt.Errorf("neural: %d scores for %d views of %d experts", len(out), len(views), e)
	}
	s := p.scratch()
	defer p.pool.Put(s)
	for len(views) > 0 {
		n := min(len(views), group)
		p.forward(&p.cells[at], s, views[:n])
		for j := range n {
			row := out[j*e : (j+1)*e]
			copy(row, s.z[j*s.zs:])
			speculate.OddsToProbabilities(row)
		}
		views, out = views[n:], out[n*e:]
	}
	return nil
}

// forward computes the logits of at most group views, of one layer and horizon,
// in s.z.
func (p *Recurrent) forward(u *cells, s *recurrentScratch, views []speculate.View) {
	n, w, e := len(views), p.cfg.Width, p.shape.Experts
	target := views[0].Layer()
	latest := target - views[0].Horizon().Layers
	for i := range s.h {
		clear(s.h[i])
		clear(s.c[i])
	}
	for step := range p.cfg.Context {
		for i := range p.cfg.Depth {
			for j, v := range views {
				g := s.gates[j*s.gs:][:4*w]
				if copy(g, u.bias[i]); i == 0 {
					u.see(g, v, latest-p.cfg.Context+1+step)
				}
			}
			if i > 0 {
				u.in[i].addRows(s.gates, s.h[i-1], n, s.gs, s.hs)
			}
			if step > 0 {
				u.state[i].addRows(s.gates, s.h[i], n, s.gs, s.hs)
			}
			for j := range n {
				cell(s.gates[j*s.gs:][:4*w], s.h[i][j*s.hs:][:w], s.c[i][j*s.hs:][:w])
			}
		}
	}
	for j := range n {
		copy(s.z[j*s.zs:], u.targets[target*e:][:e])
	}
	u.out.addRows(s.z, s.h[p.cfg.Depth-1], n, s.zs, s.hs)
}

// see adds what layer l of the view's token is to the first layer's gates [4W].
func (u *cells) see(gates []float32, v speculate.View, l int) {
	if l < 0 {
		return
	}
	chosen := v.Experts(v.Token(), l)
	count := 0
	for _, e := range chosen {
		if e != trace.NoExpert {
			count++
		}
	}
	for _, e := range chosen {
		if e == trace.NoExpert {
			continue
		}
		for i, x := range u.experts[int(e)*len(gates):][:len(gates)] {
			gates[i] += x / float32(count)
		}
	}
	for i, x := range u.layers[l*len(gates):][:len(gates)] {
		gates[i] += x
	}
}

// cell takes one step of cells: gates [4W], output h [W], content c [W].
func cell(gates, h, c []float32) {
	w := len(h)
	for i := range h {
		in, forget, value, out := gates[i], gates[w+i], gates[2*w+i], gates[3*w+i]
		x := logistic(forget)*float64(c[i]) + logistic(in)*math.Tanh(float64(value))
		c[i], h[i] = float32(x), float32(logistic(out)*math.Tanh(x))
	}
}

func logistic(x float32) float64 { return 1 / (1 + math.Exp(-float64(x))) }

// storedRecurrent is the JSON of a recurrent network.
type storedRecurrent struct {
	Config   RecurrentConfig     `json:"config"`
	Shape    speculate.Shape     `json:"shape"`
	Horizons []speculate.Horizon `json:"horizons"`
	Info     Info                `json:"info"`
}

// Save implements [speculate.Saver].
func (p *Recurrent) Save() (*speculate.Saved, error) {
	cfg, err := json.Marshal(storedRecurrent{p.cfg, p.shape, p.horizons, p.info})
	if err != nil {
		return nil, err
	}
	s := &speculate.Saved{Kind: recurrentKind, Name: p.cfg.Name, Config: cfg}
	for _, q := range recurrentShapes(p.cfg, p.shape, len(p.horizons)) {
		s.Tensors = append(s.Tensors, safetensors.Float32s(q.name, q.dims, p.weights[q.name]))
	}
	return s, nil
}

// LoadRecurrent is the [speculate.Loader] of recurrent networks.
func LoadRecurrent(s *speculate.Saved, r *safetensors.Reader, _ func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	var st storedRecurrent
	if err := json.Unmarshal(s.Config, &st); err != nil {
		return nil, err
	}
	if err := errors.Join(st.Config.Validate(), st.Shape.Validate()); err != nil {
		return nil, err
	}
	if len(st.Horizons) == 0 {
		return nil, errors.New("neural: a network for no horizon")
	}
	for _, h := range st.Horizons {
		if err := h.Validate(st.Shape.Layers); err != nil {
			return nil, err
		}
		if h.Layers == 0 {
			return nil, fmt.Errorf("neural: %s at horizon %v: want distances in layers", st.Config.Name, h)
		}
	}
	w := map[string][]float32{}
	for _, q := range recurrentShapes(st.Config, st.Shape, len(st.Horizons)) {
		x, err := readTensor(r, q.name, q.dims)
		if err != nil {
			return nil, err
		}
		w[q.name] = x
	}
	return assembleRecurrent(st.Config, st.Shape, st.Horizons, w, st.Info), nil
}
