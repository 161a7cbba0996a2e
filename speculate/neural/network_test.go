package neural

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// untrained is a network with its initial weights.
func untrained(c MLPConfig) *MLP {
	s := speculate.Shape{Layers: tL, Experts: tE, TopK: tK, Hidden: tD, Vocabulary: tV}
	hs := speculate.LayersAhead(1, 3)
	w := map[string][]float32{}
	for _, p := range newMLPParams(c, sizesOf(c, s, len(heads(s, hs)), 0), 7) {
		w[p.name] = p.value
		for i := range p.value { // zeros would hide a mix-up
			p.value[i] += float32(i%11-5) / 64
		}
	}
	return newMLP(stored[MLPConfig]{Config: c, Shape: s, Horizons: hs, Soft: c.Soft, Info: Info{Seed: 7}}, nil, w)
}

func TestNetworkSavesAndLoads(t *testing.T) {
	dir := t.TempDir()
	p := untrained(HiddenState(9))
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: []speculate.Predictor{p}}))
	set, err := LoadAll(os.DirFS(dir), nil, nil)
	require.NoError(t, err)
	doc, _ := plant(1, 6, 3)
	v, err := speculate.NewViews(header(), doc[0])
	require.NoError(t, err)
	a, b := make([]float32, tE), make([]float32, tE)
	for _, hd := range heads(p.shape, p.horizons) {
		view := []speculate.View{v.At(4, hd.l, hd.h)}
		require.NoError(t, p.Predict(view, a))
		require.NoError(t, set.Predictors[0].Predict(view, b))
		require.Equal(t, b, a, "head %v: %v became %v", hd, a, b)
	}
	q := set.Predictors[0].(*MLP)
	assert.Equal(t, p.Config(), q.Config())
	assert.Equal(t, p.Info(), q.Info())
}

// uniform is a user's predictor: every expert is equally probable.
type uniform struct{ experts int }

func (uniform) Name() string                     { return "uniform" }
func (uniform) Requires() speculate.Requirements { return speculate.Requirements{} }
func (uniform) Supports(speculate.Horizon) bool  { return true }
func (u uniform) Predict(_ []speculate.View, out []float32) error {
	for i := range out {
		out[i] = 1 / float32(u.experts)
	}
	return nil
}

func (u uniform) Save() (*speculate.Saved, error) {
	return &speculate.Saved{Kind: "test.uniform", Name: u.Name(), Config: fmt.Appendf(nil, `{"experts":%d}`, u.experts)}, nil
}

func loadUniform(s *speculate.Saved, _ *safetensors.Reader, _ func(string) (speculate.Predictor, error)) (speculate.Predictor, error) {
	var c struct{ Experts int }
	err := json.Unmarshal(s.Config, &c)
	return uniform{c.Experts}, err
}

// A user's own kind is saved and loaded beside networks.
func TestLoadAllOwnKind(t *testing.T) {
	dir := t.TempDir()
	own := uniform{tE}
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: []speculate.Predictor{untrained(HiddenState(9)), own}}))
	_, err := LoadAll(os.DirFS(dir), nil, nil)
	require.ErrorContains(t, err, "test.uniform")
	set, err := LoadAll(os.DirFS(dir), nil, map[string]speculate.Loader{"test.uniform": loadUniform})
	require.NoError(t, err)
	require.Len(t, set.Predictors, 2)
	assert.IsType(t, &MLP{}, set.Predictors[0])
	assert.Equal(t, own, set.Predictors[1])
	_, err = LoadAll(os.DirFS(dir), nil, map[string]speculate.Loader{mlpKind: loadUniform})
	assert.ErrorContains(t, err, mlpKind)
}

// A damaged or foreign network is an error that names the file.
func TestNetworkLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: []speculate.Predictor{untrained(HiddenState(9))}}))
	path := filepath.Join(dir, "hidden-state.safetensors")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, spoil := range map[string]func([]byte) []byte{
		"truncated":      func(b []byte) []byte { return b[:len(b)-8] },
		"NaN":            func(b []byte) []byte { return append(b[:len(b)-4], 0, 0, 0xc0, 0x7f) },
		"other width":    func(b []byte) []byte { return bytes.Replace(b, []byte(`\"width\":9`), []byte(`\"width\":8`), 1) },
		"other layers":   func(b []byte) []byte { return bytes.Replace(b, []byte(`\"layers\":5`), []byte(`\"layers\":6`), 1) },
		"other experts":  func(b []byte) []byte { return bytes.Replace(b, []byte(`\"experts\":7`), []byte(`\"experts\":0`), 1) },
		"other kind":     func(b []byte) []byte { return bytes.Replace(b, []byte(`\"network\"`), []byte(`\"netwerk\"`), 1) },
		"missing tensor": func(b []byte) []byte { return bytes.Replace(b, []byte(`"linear"`), []byte(`"linaer"`), 1) },
		"far horizon": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`[{\"layers\":1}`), []byte(`[{\"layers\":8}`), 1)
		},
	} {
		bad := spoil(bytes.Clone(good))
		require.NotEqual(t, good, bad, "%s: nothing was changed", name)
		require.NoError(t, os.WriteFile(path, bad, 0o666))
		_, err := LoadAll(os.DirFS(dir), nil, nil)
		assert.ErrorContains(t, err, "hidden-state.safetensors", name)
	}
}
