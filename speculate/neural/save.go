package neural

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// kind is the stored kind of a network.
const kind = "network"

// stored is the JSON of a network.
type stored struct {
	Config     MLPConfig           `json:"config"`
	Shape      speculate.Shape     `json:"shape"`
	Horizons   []speculate.Horizon `json:"horizons"`
	Soft       bool                `json:"soft"`
	Statistics []string            `json:"statistics,omitempty"`
	Info       Info                `json:"info"`
}

// Needs are the predictors whose log odds the network mixes.
func (p *MLP) Needs() []speculate.Predictor { return p.stats }

// Save implements [speculate.Saver].
func (p *MLP) Save() (*speculate.Saved, error) {
	st := stored{Config: p.cfg, Shape: p.shape, Horizons: p.horizons, Soft: p.soft, Info: p.info}
	for _, q := range p.stats {
		st.Statistics = append(st.Statistics, q.Name())
	}
	cfg, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	s := &speculate.Saved{Kind: kind, Name: p.cfg.Name, Config: cfg}
	for _, q := range paramShapes(p.cfg, sizesOf(p.cfg, p.shape, len(p.units), len(p.stats))) {
		s.Tensors = append(s.Tensors, safetensors.Float32s(q.name, q.dims, p.weights[q.name]))
	}
	return s, nil
}

// Load is the [speculate.Loader] of networks.
func Load(s *speculate.Saved, r *safetensors.Reader, needs func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	var st stored
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
	}
	var stats []speculate.Predictor
	for _, n := range st.Statistics {
		q, err := needs(n)
		if err != nil {
			return nil, err
		}
		stats = append(stats, speculate.Base(q))
	}
	if st.Config.Statistics != (len(stats) > 0) {
		return nil, fmt.Errorf("neural: %s names %d statistics", st.Config.Name, len(stats))
	}
	w := map[string][]float32{}
	z := sizesOf(st.Config, st.Shape, len(heads(st.Shape.Layers, st.Horizons)), len(stats))
	for _, q := range paramShapes(st.Config, z) {
		x, err := readTensor(r, q.name, q.dims)
		if err != nil {
			return nil, err
		}
		w[q.name] = x
	}
	return assemble(st.Config, st.Shape, st.Horizons, st.Soft, stats, w, st.Info), nil
}

// LoadAll reads the predictors of a folder that [speculate.SaveAll] wrote,
// networks too.
func LoadAll(fsys fs.FS, gates *speculate.Gates) (*speculate.Set, error) {
	return speculate.LoadAll(fsys, gates, map[string]speculate.Loader{kind: Load, transformerKind: LoadTransformer})
}
