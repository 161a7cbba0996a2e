package neural

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// transformerKind is the stored kind of a transformer.
const transformerKind = "transformer"

// storedTransformer is the JSON of a transformer.
type storedTransformer struct {
	Config   TransformerConfig   `json:"config"`
	Shape    speculate.Shape     `json:"shape"`
	Horizons []speculate.Horizon `json:"horizons"`
	Soft     bool                `json:"soft"`
	Info     Info                `json:"info"`
}

// transformerArrays lists all arrays that are stored: those trained, and the
// standardisation of router inputs.
func transformerArrays(c TransformerConfig, z extent) []*param {
	ps := transformerParams(c, z)
	if c.Inputs {
		ps = append(ps, &param{name: "mean", dims: []int{z.l, z.d}}, &param{name: "inv", dims: []int{z.l, z.d}})
	}
	return ps
}

// Save implements [speculate.Saver].
func (p *Transformer) Save() (*speculate.Saved, error) {
	cfg, err := json.Marshal(storedTransformer{Config: p.cfg, Shape: p.shape, Horizons: p.horizons, Soft: p.soft, Info: p.info})
	if err != nil {
		return nil, err
	}
	s := &speculate.Saved{Kind: transformerKind, Name: p.cfg.Name, Config: cfg}
	for _, q := range transformerArrays(p.cfg, p.cfg.extent(p.shape, p.horizons)) {
		s.Tensors = append(s.Tensors, safetensors.Float32s(q.name, q.dims, p.weights[q.name]))
	}
	return s, nil
}

// LoadTransformer is the [speculate.Loader] of transformers.
func LoadTransformer(s *speculate.Saved, r *safetensors.Reader, _ func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	var st storedTransformer
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
	if err := st.Config.check(st.Shape, st.Horizons); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	w := map[string][]float32{}
	for _, q := range transformerArrays(st.Config, st.Config.extent(st.Shape, st.Horizons)) {
		x, err := readTensor(r, q.name, q.dims)
		if err != nil {
			return nil, err
		}
		w[q.name] = x
	}
	return newTransformer(st.Config, st.Shape, st.Horizons, st.Soft, w, st.Info), nil
}
