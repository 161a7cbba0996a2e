package speculate

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSaveAndLoad(t *testing.T) {
	ps, test, dir := fitted(t), testData(30, 50, 3), t.TempDir()
	require.NoError(t, SaveAll(dir, &Set{Predictors: ps, Costs: map[string]Cost{"frequency": {Parameters: 35}}}))
	set, err := LoadAll(os.DirFS(dir), testGates, nil)
	require.NoError(t, err)
	ps = slices.DeleteFunc(ps, func(p Predictor) bool { return p == Oracle{} })
	assert.Len(t, set.Predictors, len(ps))
	assert.EqualValues(t, 35, set.Costs["frequency"].Parameters)
	assert.Nil(t, set.Provenance)
	o := EvaluateOptions{Horizons: testHorizons, Resamples: -1}
	loaded, err := Evaluate(t.Context(), test, o, set.Predictors...)
	require.NoError(t, err)
	saved, err := Evaluate(t.Context(), test, o, ps...)
	require.NoError(t, err)
	assert.Equal(t, saved, loaded)
	_, err = LoadAll(os.DirFS(dir), nil, nil)
	assert.ErrorContains(t, err, "gate-reuse.safetensors")
}

// Nothing is written, and an older set stays as it was, where one predictor cannot
// be saved.
func TestSaveAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, SaveAll(dir, &Set{Predictors: fitted(t)[:1]}))
	before := files(t, dir)
	require.Len(t, before, 2)
	for _, c := range []struct {
		p    Predictor
		says string
	}{
		{&predict{}, "function: predictor has no Save method"},
		{&Transition{}, "transition: not fitted"},
		{renamed{fitted(t)[2], "a/b"}, `"a/b"`},
	} {
		ps := append(fitted(t)[:2:2], c.p)
		assert.ErrorContains(t, SaveAll(dir, &Set{Predictors: ps}), c.says)
		assert.Equal(t, before, files(t, dir), "%s", c.says)
	}
	// A file that cannot be written, after others.
	ps := append(fitted(t)[:2:2], renamed{fitted(t)[2], strings.Repeat("long ", 100)})
	assert.Error(t, SaveAll(dir, &Set{Predictors: ps}))
	assert.Equal(t, before, files(t, dir))
}

// renamed is a predictor with another name.
type renamed struct {
	Predictor
	name string
}

func (r renamed) Name() string          { return r.name }
func (r renamed) Save() (*Saved, error) { return r.Predictor.(Saver).Save() }

// files returns the contents of a directory's files by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(b)
	}
	return all
}

// Damaged and foreign files are errors that name the file.
func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		file  string
		spoil func(b []byte) []byte
	}{
		{"predictors.json", func(b []byte) []byte { return b[:len(b)/2] }},
		{"predictors.json", func([]byte) []byte { return []byte("{}") }},
		{"transition.safetensors", func(b []byte) []byte { return b[:len(b)-4] }},
		{"transition.safetensors", func(b []byte) []byte { return bytes.Replace(b, []byte("kind"), []byte("sort"), 1) }},
		{"frequency.safetensors", func(b []byte) []byte { return bytes.Replace(b, []byte("experts"), []byte("express"), 1) }},
		{"path-of-three.safetensors", func([]byte) []byte { return nil }},
		{"ensemble.safetensors", func(b []byte) []byte { return bytes.Replace(b, []byte("token id"), []byte("token ix"), 1) }},
	} {
		dir := t.TempDir()
		require.NoError(t, SaveAll(dir, &Set{Predictors: fitted(t)}))
		path := filepath.Join(dir, c.file)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		bad := c.spoil(b)
		require.NotEqual(t, b, bad, "%s was not changed", c.file)
		require.NoError(t, os.WriteFile(path, bad, 0o666))
		_, err = LoadAll(os.DirFS(dir), testGates, nil)
		assert.ErrorContains(t, err, c.file)
	}
}

// The predictions file holds what the evaluation measured.
func TestPredictionWriter(t *testing.T) {
	ps, test := fitted(t), testData(30, 50, 3)
	var file bytes.Buffer
	w := NewPredictionWriter(&file)
	h := Horizon{Layers: 2}
	r, err := Evaluate(t.Context(), test, EvaluateOptions{Horizons: []Horizon{h}, Resamples: -1, Each: w.Write}, ps[2], ps[3])
	require.NoError(t, err)
	require.NoError(t, w.Close())
	rows, err := parquet.Read[PredictionRow](bytes.NewReader(file.Bytes()), int64(file.Len()))
	require.NoError(t, err)
	hits, n := 0, 0
	for _, x := range rows {
		if x.Predictor != ps[2].Name() {
			continue
		}
		require.Equal(t, int32(2), x.Distance)
		require.GreaterOrEqual(t, x.Layer, int32(2))
		require.Len(t, x.Confidence, len(x.Predicted))
		for _, e := range x.Predicted[:tK] {
			if place(x.Actual, e) < tK {
				hits++
			}
		}
		n++
	}
	want, _ := r.Recall(ps[2].Name(), h)
	got := float64(hits) / float64(n*tK)
	assert.InDelta(t, want, got, 1e-9)
}
