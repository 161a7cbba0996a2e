package neural

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// Network is a trained predictor, an [*MLP] or a [*Transformer].
type Network interface {
	speculate.Predictor
	Info() Info
}

// Info describes the training of a network. Tokens, Epochs and Seconds include
// those of the transformer that it started from.
type Info struct {
	Parameters int64   `json:"parameters"`
	Seconds    float64 `json:"seconds"` // wall time
	Tokens     int64   `json:"tokens"`  // trained on, repeats included
	Epochs     int     `json:"epochs"`  // begun
	Loss       float64 `json:"loss"`    // on validation documents, as RecallK, at the best check
	RecallK    float64 `json:"recall_k"`
	Seed       uint64  `json:"seed"`
	Backend    string  `json:"backend"`
}

// config is a network's configuration: [MLPConfig] or [TransformerConfig].
type config interface {
	Validate() error
	Requires() speculate.Requirements
	name() string
	gated() bool // the network starts as the routers
	// fits reports a trace or horizons that the network cannot be used for.
	fits(s speculate.Shape, hs []speculate.Horizon) error
}

// network is the common part of all networks.
type network[C config] struct {
	cfg      C
	shape    speculate.Shape
	horizons []speculate.Horizon
	soft     bool // logits are of a softmax, else of each expert alone
	int8     bool // matrices are stored in 8 bits
	info     Info
	weights  map[string][]float32
	index    map[head]int
}

// newNetwork returns a network of weights of the right sizes.
func newNetwork[C config](st stored[C], w map[string][]float32) network[C] {
	n := network[C]{cfg: st.Config, shape: st.Shape, horizons: st.Horizons, soft: st.Soft, int8: st.Int8, info: st.Info, weights: w, index: map[head]int{}}
	for g, hd := range heads(st.Shape, st.Horizons) {
		n.index[hd] = g
	}
	return n
}

// Name returns the configuration's name.
func (n *network[C]) Name() string { return n.cfg.name() }

// Info describes the network's training.
func (n *network[C]) Info() Info { return n.info }

// Requires implements [speculate.Predictor].
func (n *network[C]) Requires() speculate.Requirements { return n.cfg.Requires() }

// Supports reports whether the network was trained for h.
func (n *network[C]) Supports(h speculate.Horizon) bool {
	ls := n.shape.Targets(h)
	if len(ls) == 0 {
		return false
	}
	_, ok := n.index[head{h, ls[0]}]
	return ok
}

// group is the number of views that are computed together: enough to read
// weights once for many, few enough that their activations stay in the cache.
const group = 32

// predict implements Predict. logits computes the logits of at most group views,
// z [n,E] in rows that are stride apart, with head g.
func (n *network[C]) predict(views []speculate.View, out []float32, logits func(g int, views []speculate.View) (z []float32, stride int, err error)) error {
	if len(views) == 0 {
		return nil
	}
	v, want := views[0], n.shape
	if s := v.Shape(); s.Layers != want.Layers || s.Experts != want.Experts || s.TopK != want.TopK || s.Encoder != want.Encoder || n.cfg.Requires().Inputs && s.Hidden != want.Hidden {
		return fmt.Errorf("neural: %s is trained for L=%d (%d of an encoder) E=%d K=%d D=%d, not for L=%d (%d of an encoder) E=%d K=%d D=%d", n.Name(),
			want.Layers, want.Encoder, want.Experts, want.TopK, want.Hidden, s.Layers, s.Encoder, s.Experts, s.TopK, s.Hidden)
	}
	g, ok := n.index[head{v.Horizon(), v.Layer()}]
	if !ok {
		return speculate.ErrHorizon
	}
	e := want.Experts
	if len(out) != len(views)*e {
		return fmt.Errorf("neural: got room for %d scores, expected %d views of %d experts", len(out), len(views), e)
	}
	for len(views) > 0 {
		k := min(len(views), group)
		z, stride, err := logits(g, views[:k])
		if err != nil {
			return err
		}
		for j := range k {
			row := out[j*e : (j+1)*e]
			copy(row, z[j*stride:])
			if n.soft {
				prob.FromLogits(row, want.TopK)
			} else {
				prob.FromLogOdds(row)
			}
		}
		views, out = views[k:], out[k*e:]
	}
	return nil
}

// Kinds of stored networks.
const (
	mlpKind         = "network"
	transformerKind = "transformer"
)

// stored is the JSON of a network.
type stored[C config] struct {
	Config     C                   `json:"config"`
	Shape      speculate.Shape     `json:"shape"`
	Horizons   []speculate.Horizon `json:"horizons"`
	Soft       bool                `json:"soft"`
	Int8       bool                `json:"int8,omitempty"`
	Statistics []string            `json:"statistics,omitempty"` // names of the predictors that an MLP mixes
	Info       Info                `json:"info"`
}

// save returns the stored form of a network of these arrays.
func (n *network[C]) save(kind string, statistics []string, arrays []*param) (*speculate.Saved, error) {
	st := n.stored()
	st.Statistics = statistics
	cfg, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	s := &speculate.Saved{Kind: kind, Name: n.Name(), Config: cfg}
	for _, p := range arrays {
		if n.int8 && p.decay {
			s.Tensors = append(s.Tensors, p.int8Tensors(n.weights[p.name])...)
		} else {
			s.Tensors = append(s.Tensors, safetensors.Float32s(p.name, p.dims, n.weights[p.name]))
		}
	}
	return s, nil
}

// stored returns the JSON of a network, without statistics.
func (n *network[C]) stored() stored[C] {
	return stored[C]{Config: n.cfg, Shape: n.shape, Horizons: n.horizons, Soft: n.soft, Int8: n.int8, Info: n.info}
}

// readStored reads the JSON of a network.
func readStored[C config](s *speculate.Saved) (st stored[C], err error) {
	if err := json.Unmarshal(s.Config, &st); err != nil {
		return st, err
	}
	if err := errors.Join(st.Config.Validate(), st.Shape.Validate()); err != nil {
		return st, err
	}
	if len(st.Horizons) == 0 {
		return st, errors.New("neural: a network without horizons")
	}
	for _, h := range st.Horizons {
		if err := h.Validate(st.Shape.Depth()); err != nil {
			return st, err
		}
	}
	return st, st.Config.fits(st.Shape, st.Horizons)
}

// readArrays reads the arrays of a network by name, matrices in 8 bits if in8. It
// reads in the order of the file, because one that is compressed is read forward.
func readArrays(r *safetensors.Reader, in8 bool, arrays []*param) (map[string][]float32, error) {
	arrays = slices.Clone(arrays)
	slices.SortStableFunc(arrays, func(a, b *param) int {
		x, _ := r.Info(a.name)
		y, _ := r.Info(b.name)
		return cmp.Compare(x.Offset, y.Offset)
	})
	w, scales := map[string][]float32{}, map[string][]float32{}
	var err error
	for _, p := range arrays {
		if in8 && p.decay {
			if scales[p.name], err = p.readScales(r); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range arrays {
		if in8 && p.decay {
			w[p.name], err = p.readInt8(r, scales[p.name])
		} else {
			w[p.name], err = readTensor(r, p.name, p.dims)
		}
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

func loadMLP(s *speculate.Saved, r *safetensors.Reader, needs func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	st, err := readStored[MLPConfig](s)
	if err != nil {
		return nil, err
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
	w, err := readArrays(r, st.Int8, mlpParams(st.Config, sizesOf(st.Config, st.Shape, len(heads(st.Shape, st.Horizons)), len(stats))))
	if err != nil {
		return nil, err
	}
	return newMLP(st, stats, w), nil
}

func loadTransformer(s *speculate.Saved, r *safetensors.Reader, _ func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	st, err := readStored[TransformerConfig](s)
	if err != nil {
		return nil, err
	}
	w, err := readArrays(r, st.Int8, transformerArrays(st.Config, st.Config.extent(st.Shape, st.Horizons)))
	if err != nil {
		return nil, err
	}
	return newTransformer(st, w), nil
}

// LoadAll reads the predictors of a folder that [speculate.SaveAll] wrote as
// [speculate.LoadAll] does, and also networks. loaders, which may be nil, make
// predictors of other kinds; a kind of a network is an error.
func LoadAll(fsys fs.FS, gates *speculate.Gates, loaders map[string]speculate.Loader) (*speculate.Set, error) {
	all := map[string]speculate.Loader{mlpKind: loadMLP, transformerKind: loadTransformer}
	for kind := range loaders {
		if all[kind] != nil {
			return nil, fmt.Errorf("neural: a loader for kind %q, which is that of a network", kind)
		}
	}
	maps.Copy(all, loaders)
	return speculate.LoadAll(fsys, gates, all)
}
