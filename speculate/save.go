package speculate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace/safetensors"
)

// Saved is the stored form of a predictor: JSON of what it is, arrays of what it
// learned.
type Saved struct {
	Kind    string               `json:"kind"` // selects the [Loader]
	Name    string               `json:"name"`
	Config  json.RawMessage      `json:"config"`
	Tensors []safetensors.Tensor `json:"-"`
}

// Saver is a predictor that can be stored.
type Saver interface {
	Predictor
	// Save returns the stored form. It changes with the predictor.
	Save() (*Saved, error)
}

// Loader makes a predictor from its stored form and the tensors of its file.
// needs returns a predictor that it refers to, by name; it was stored before it.
type Loader func(s *Saved, tensors *safetensors.Reader, needs func(name string) (Predictor, error)) (Predictor, error)

// dependent is a predictor that refers to others, which are stored before it.
type dependent interface{ Needs() []Predictor }

// Set is what a folder of saved predictors holds.
type Set struct {
	Predictors []Predictor
	Costs      map[string]Cost // by name; nil: unknown
	Provenance *Provenance     // nil: unknown
}

const (
	metadataKey = "expertspec.predictor"
	setFile     = "predictors.json"
)

// manifest is the JSON of setFile.
type manifest struct {
	Version    int             `json:"version"`
	Predictors []string        `json:"predictors"` // files
	Costs      map[string]Cost `json:"costs,omitempty"`
	Provenance *Provenance     `json:"provenance,omitempty"`
}

// SaveAll writes a set to a folder: one safetensors file for each predictor, and
// predictors.json, which lists them. Predictors that another one refers to (the
// members of an ensemble, the statistics of a network) are added before it. The
// oracle is omitted. Nothing is written unless all predictors can be saved, and
// all files are complete before the first replaces an older one.
func SaveAll(dir string, set *Set) error {
	var all []*Saved
	list := manifest{Version: 1, Costs: set.Costs, Provenance: set.Provenance}
	done := map[string]bool{}
	var add func(p Predictor) error
	add = func(p Predictor) error {
		if done[p.Name()] || p == (Oracle{}) {
			return nil
		}
		done[p.Name()] = true
		if d, ok := Base(p).(dependent); ok {
			for _, q := range d.Needs() {
				if err := add(q); err != nil {
					return err
				}
			}
		}
		sv, ok := p.(Saver)
		if !ok {
			return fmt.Errorf("speculate: %s: predictor has no Save method", p.Name())
		}
		s, err := sv.Save()
		if err != nil {
			return fmt.Errorf("speculate: %s: %w", p.Name(), err)
		}
		file := strings.ReplaceAll(p.Name(), " ", "-") + ".safetensors"
		if !fs.ValidPath(file) || strings.ContainsAny(file, `/\:`) || slices.Contains(list.Predictors, file) {
			return fmt.Errorf("speculate: predictor %q cannot be saved in a file %q", p.Name(), file)
		}
		all, list.Predictors = append(all, s), append(list.Predictors, file)
		return nil
	}
	for _, p := range set.Predictors {
		if err := add(p); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return errors.New("speculate: no predictors to save")
	}
	return write(dir, &list, all)
}

// write writes all files to a folder beside the older ones, and then renames them.
func write(dir string, list *manifest, all []*Saved) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, ".saving-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for i, s := range all {
		meta, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("speculate: %s: %w", s.Name, err)
		}
		if err := safetensors.WriteFile(filepath.Join(temp, list.Predictors[i]), s.Tensors, map[string]string{metadataKey: string(meta)}); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, setFile), append(text, '\n'), 0o666); err != nil {
		return err
	}
	for _, file := range append(slices.Clone(list.Predictors), setFile) {
		if err := os.Rename(filepath.Join(temp, file), filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// LoadAll reads the set that SaveAll wrote. gates are for gate reuse, and may be
// nil without it. loaders make predictors of kinds that this package does not
// know; neural.LoadAll has those of networks. An error names the file.
func LoadAll(fsys fs.FS, gates *Gates, loaders map[string]Loader) (*Set, error) {
	text, err := fs.ReadFile(fsys, setFile)
	if err != nil {
		return nil, err
	}
	var list manifest
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", setFile, err)
	}
	if list.Version != 1 || len(list.Predictors) == 0 {
		return nil, fmt.Errorf("%s: got version %d with %d predictors, expected version 1 with at least one", setFile, list.Version, len(list.Predictors))
	}
	kinds := ownLoaders(gates)
	for kind, l := range loaders {
		if kinds[kind] == nil {
			kinds[kind] = l
		}
	}
	set := &Set{Costs: list.Costs, Provenance: list.Provenance}
	needs := func(name string) (Predictor, error) {
		for _, p := range set.Predictors {
			if p.Name() == name {
				return p, nil
			}
		}
		return nil, fmt.Errorf("predictor %q is not stored before it", name)
	}
	for _, file := range list.Predictors {
		p, err := load(fsys, file, kinds, needs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		set.Predictors = append(set.Predictors, p)
	}
	return set, nil
}

func load(fsys fs.FS, file string, loaders map[string]Loader, needs func(string) (Predictor, error)) (Predictor, error) {
	r, err := safetensors.Open(fsys, file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	meta, ok := r.Metadata()[metadataKey]
	if !ok {
		return nil, errors.New("not a saved predictor: its metadata lacks " + metadataKey)
	}
	var s Saved
	if err := json.Unmarshal([]byte(meta), &s); err != nil {
		return nil, fmt.Errorf("%s: %w", metadataKey, err)
	}
	loader := loaders[s.Kind]
	if loader == nil {
		return nil, fmt.Errorf("got a predictor of kind %q, expected one of %q", s.Kind, slices.Sorted(maps.Keys(loaders)))
	}
	p, err := loader(&s, r, needs)
	if err != nil {
		return nil, err
	}
	return withCurves(p, r)
}

// curvePrefix begins the names of the tensors of calibration curves, [L,curveBins].
const curvePrefix = "calibration."

// Save implements [Saver]: the base predictor and the curves.
func (c *calibrated) Save() (*Saved, error) {
	sv, ok := c.Predictor.(Saver)
	if !ok {
		return nil, errors.New("predictor has no Save method")
	}
	s, err := sv.Save()
	if err != nil {
		return nil, err
	}
	for _, h := range sortedHorizons(c.Curves) {
		flat := make([]float32, 0, len(c.Curves[h])*curveBins)
		for _, k := range c.Curves[h] {
			if k == nil {
				k = &calibrationCurve{}
			}
			flat = append(flat, k[:]...)
		}
		s.Tensors = append(s.Tensors, safetensors.Float32s(curvePrefix+h.String(), []int{len(c.Curves[h]), curveBins}, flat))
	}
	return s, nil
}

// withCurves returns p with the calibration curves in r, if there are any.
func withCurves(p Predictor, r *safetensors.Reader) (Predictor, error) {
	c := &calibrated{Predictor: p, Curves: map[Horizon][]*calibrationCurve{}}
	for _, name := range r.Names() {
		text, ok := strings.CutPrefix(name, curvePrefix)
		if !ok {
			continue
		}
		h, err := ParseHorizon(text)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		info, _ := r.Info(name)
		if len(info.Shape) != 2 || info.Shape[1] != curveBins {
			return nil, fmt.Errorf("tensor %q: got shape %v, expected [L,%d]", name, info.Shape, curveBins)
		}
		flat, err := r.Float32s(name)
		if err != nil {
			return nil, err
		}
		for l := range info.Shape[0] {
			var k *calibrationCurve
			if l >= h.FirstLayer() {
				k = (*calibrationCurve)(flat[l*curveBins:])
			}
			c.Curves[h] = append(c.Curves[h], k)
		}
	}
	if len(c.Curves) == 0 {
		return p, nil
	}
	return c, nil
}

func sortedHorizons[V any](m map[Horizon]V) []Horizon {
	return slices.SortedFunc(maps.Keys(m), func(a, b Horizon) int { return strings.Compare(a.String(), b.String()) })
}
