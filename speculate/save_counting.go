package speculate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/expertspec/expertspec/trace/safetensors"
)

// counted is the JSON of predictors that count.
type counted struct {
	Shape    Shape     `json:"shape"`
	Horizons []Horizon `json:"horizons,omitempty"`
}

// loadable is a predictor that is loaded into its zero value.
type loadable interface {
	Counter
	load(s *Saved, r *safetensors.Reader) error
}

// newCounters returns all predictors that count, not fitted, in the order of reports.
func newCounters() []loadable {
	return []loadable{&Frequency{}, &PreviousToken{}, &Transition{}, &Path{}, &TokenID{}}
}

func ownLoaders(gates *Gates) map[string]Loader {
	own := map[string]Loader{
		"gate reuse": func(s *Saved, _ *safetensors.Reader, _ func(string) (Predictor, error)) (Predictor, error) {
			var c counted
			if err := json.Unmarshal(s.Config, &c); err != nil {
				return nil, err
			}
			return newGateReuse(gates, c.Shape)
		},
		"ensemble": loadEnsemble,
	}
	for _, p := range newCounters() {
		own[p.Name()] = func(s *Saved, r *safetensors.Reader, _ func(string) (Predictor, error)) (Predictor, error) {
			return p, p.load(s, r)
		}
	}
	return own
}

// save returns the stored form of the predictor that embeds f.
func (f *Frequency) save(name string, hs []Horizon, more ...safetensors.Tensor) (*Saved, error) {
	if f.prior == nil {
		return nil, errors.New("not fitted")
	}
	cfg, err := json.Marshal(counted{f.shape, hs})
	if err != nil {
		return nil, err
	}
	prior := safetensors.Float32s("prior", []int{f.shape.Layers, f.shape.Experts}, slices.Concat(f.prior...))
	return &Saved{Kind: name, Name: name, Config: cfg, Tensors: append([]safetensors.Tensor{prior}, more...)}, nil
}

// config reads what all predictors that count have.
func (f *Frequency) config(s *Saved, r *safetensors.Reader) (hs []Horizon, err error) {
	var c counted
	if err := json.Unmarshal(s.Config, &c); err != nil {
		return nil, err
	}
	if err := c.Shape.Validate(); err != nil {
		return nil, err
	}
	f.shape = c.Shape
	for _, h := range c.Horizons {
		if err := h.Validate(c.Shape.Depth()); err != nil {
			return nil, err
		}
	}
	f.prior, err = table(r.Float32s, "prior", c.Shape.Layers, c.Shape.Experts, float32Of)
	return c.Horizons, err
}

// Save implements [Saver].
func (f *Frequency) Save() (*Saved, error) { return f.save(f.Name(), nil) }

func (f *Frequency) load(s *Saved, r *safetensors.Reader) error {
	_, err := f.config(s, r)
	return err
}

// Save implements [Saver].
func (p *PreviousToken) Save() (*Saved, error) {
	tensor := func(name string, x [][]float64) safetensors.Tensor {
		var values []float32
		for _, v := range slices.Concat(x...) {
			values = append(values, float32(v))
		}
		return safetensors.Float32s(name, []int{p.shape.Layers, p.shape.Experts * (p.shape.TopK + 1)}, values)
	}
	return p.save(p.Name(), nil, tensor("times", p.times), tensor("hit", p.hit))
}

func (p *PreviousToken) load(s *Saved, r *safetensors.Reader) error {
	if _, err := p.config(s, r); err != nil {
		return err
	}
	read := func(name string) ([][]float64, error) {
		return table(r.Float32s, name, p.shape.Layers, p.shape.Experts*(p.shape.TopK+1), float64Of)
	}
	var err error
	if p.times, err = read("times"); err != nil {
		return err
	}
	p.hit, err = read("hit")
	return err
}

// Save implements [Saver].
func (p *TokenID) Save() (*Saved, error) {
	ids := slices.Sorted(maps.Keys(p.seen))
	return p.save(p.Name(), nil, safetensors.Int32s("ids", []int{len(ids)}, ids),
		counts(ids, p.seen, p.width()))
}

func (p *TokenID) load(s *Saved, r *safetensors.Reader) error {
	if _, err := p.config(s, r); err != nil {
		return err
	}
	ids, err := r.Int32s("ids")
	if err != nil {
		return err
	}
	p.seen, err = loadCounts(r, ids, p.width())
	return err
}

func (p *Transition) tensors() ([]Horizon, []safetensors.Tensor) {
	hs := sortedHorizons(p.tables)
	var ts []safetensors.Tensor
	for _, h := range hs {
		ts = append(ts, safetensors.Float32s("transition."+h.String(), []int{p.shape.Layers, p.shape.Experts, p.shape.Experts}, slices.Concat(p.tables[h].prob...)))
	}
	return hs, ts
}

// Save implements [Saver].
func (p *Transition) Save() (*Saved, error) {
	hs, ts := p.tensors()
	return p.save(p.Name(), hs, ts...)
}

func (p *Transition) load(s *Saved, r *safetensors.Reader) error {
	_, err := p.loadTables(s, r)
	return err
}

func (p *Transition) loadTables(s *Saved, r *safetensors.Reader) ([]Horizon, error) {
	hs, err := p.config(s, r)
	if err != nil {
		return nil, err
	}
	p.tables = map[Horizon]*transitions{}
	for _, h := range hs {
		prob, err := table(r.Float32s, "transition."+h.String(), p.shape.Layers, p.shape.Experts*p.shape.Experts, float32Of)
		if err != nil {
			return nil, err
		}
		p.tables[h] = &transitions{prob: prob}
	}
	return hs, nil
}

// Save implements [Saver].
func (p *Path) Save() (*Saved, error) {
	hs, ts := p.tensors()
	at := func(h Horizon) int { return slices.Index(hs, h) }
	keys := slices.SortedFunc(maps.Keys(p.paths), func(a, b pathKey) int {
		return cmp.Or(cmp.Compare(at(a.h), at(b.h)), cmp.Compare(a.l, b.l), cmp.Compare(a.a, b.a), cmp.Compare(a.b, b.b), cmp.Compare(a.c, b.c))
	})
	var ks []int32
	for _, k := range keys {
		ks = append(ks, int32(at(k.h)), k.l, k.a, k.b, k.c)
	}
	return p.save(p.Name(), hs, append(ts, safetensors.Int32s("paths", []int{len(keys), 5}, ks), counts(keys, p.paths, p.shape.Experts+1))...)
}

func (p *Path) load(s *Saved, r *safetensors.Reader) error {
	hs, err := p.loadTables(s, r)
	if err != nil {
		return err
	}
	ks, err := r.Int32s("paths")
	if err != nil {
		return err
	}
	if len(ks)%5 != 0 {
		return fmt.Errorf(`tensor "paths": got %d values, expected rows of 5`, len(ks))
	}
	var keys []pathKey
	for k := range slices.Chunk(ks, 5) {
		if k[0] < 0 || int(k[0]) >= len(hs) {
			return fmt.Errorf(`tensor "paths": row %d is of horizon %d of %d`, len(keys), k[0], len(hs))
		}
		keys = append(keys, pathKey{hs[k[0]], k[1], k[2], k[3], k[4]})
	}
	p.paths, err = loadCounts(r, keys, p.shape.Experts+1)
	return err
}

// Save implements [Saver]. The gates are the checkpoint's and are not stored.
func (p *gateReuse) Save() (*Saved, error) {
	cfg, err := json.Marshal(counted{Shape: p.shape})
	return &Saved{Kind: p.Name(), Name: p.Name(), Config: cfg}, err
}

// Needs returns the members.
func (m *Ensemble) Needs() []Predictor { return m.Members() }

type ensembleConfig struct {
	Members []string             `json:"members"`
	Weights map[string][]float64 `json:"weights"` // by horizon
}

// Save implements [Saver].
func (m *Ensemble) Save() (*Saved, error) {
	c := ensembleConfig{Weights: map[string][]float64{}}
	for _, p := range m.parts {
		c.Members = append(c.Members, p.Name())
	}
	for h, w := range m.Weights {
		c.Weights[h.String()] = w
	}
	cfg, err := json.Marshal(c)
	return &Saved{Kind: "ensemble", Name: m.name, Config: cfg}, err
}

func loadEnsemble(s *Saved, _ *safetensors.Reader, needs func(string) (Predictor, error)) (Predictor, error) {
	var c ensembleConfig
	if err := json.Unmarshal(s.Config, &c); err != nil {
		return nil, err
	}
	m := &Ensemble{name: s.Name, Weights: map[Horizon][]float64{}}
	for _, n := range c.Members {
		p, err := needs(n)
		if err != nil {
			return nil, err
		}
		m.parts = append(m.parts, p)
	}
	for text, w := range c.Weights {
		h, err := ParseHorizon(text)
		if err != nil {
			return nil, err
		}
		if len(w) != len(m.parts)+1 {
			return nil, fmt.Errorf("ensemble of %d members: got %d weights at %v, expected %d", len(m.parts), len(w), h, len(m.parts)+1)
		}
		m.Weights[h] = w
	}
	return m, nil
}

// counts is the tensor "counts" of the rows of m [width], in the order of keys.
func counts[K comparable](keys []K, m map[K][]uint32, width int) safetensors.Tensor {
	var values []int32
	for _, k := range keys {
		for _, n := range m[k] {
			values = append(values, int32(n))
		}
	}
	return safetensors.Int32s("counts", []int{len(keys), width}, values)
}

// loadCounts reads what counts made. Counts must not be negative.
func loadCounts[K comparable](r *safetensors.Reader, keys []K, width int) (map[K][]uint32, error) {
	values, err := table(r.Int32s, "counts", len(keys), width, func(n int32) (uint32, error) {
		if n < 0 {
			return 0, fmt.Errorf("count %d is negative", n)
		}
		return uint32(n), nil
	})
	if err != nil {
		return nil, err
	}
	m := make(map[K][]uint32, len(keys))
	for i, k := range keys {
		m[k] = values[i]
	}
	return m, nil
}

func float32Of(x float32) (float32, error) { return x, nil }

func float64Of(x float32) (float64, error) { return float64(x), nil }

// table reads a tensor of n rows of width values, converted by f.
func table[S, T any](read func(string) ([]S, error), name string, n, width int, f func(S) (T, error)) ([][]T, error) {
	x, err := read(name)
	if err != nil {
		return nil, err
	}
	if len(x) != n*width {
		return nil, fmt.Errorf("tensor %q: got %d values, expected %d rows of %d", name, len(x), n, width)
	}
	out := rows[T](n, width)
	for i, v := range x {
		if out[i/width][i%width], err = f(v); err != nil {
			return nil, fmt.Errorf("tensor %q: value %d: %w", name, i, err)
		}
	}
	return out, nil
}
