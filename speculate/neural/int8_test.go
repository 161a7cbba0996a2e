package neural

import (
	"archive/zip"
	"bytes"
	"context"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Weights of a column, or of a row of the embedding, change by at most half a step
// of 1/127 of the largest (and a little, since a scale is a bfloat16). Quantizing
// again changes nothing.
func TestQuantize(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, p := range []*param{{name: "first", dims: []int{3, 5, 7}}, {name: "read", dims: []int{11, 6}}, {name: "embed", dims: []int{9, 4}}} {
		w := make([]float32, p.size())
		for i := range w {
			w[i] = float32(rng.NormFloat64() * math.Exp(float64(i%13)-6))
		}
		last := p.dims[len(p.dims)-1]
		line := func(i int) int { // of weight i
			if p.name == "embed" {
				return i / last
			}
			in := p.dims[len(p.dims)-2]
			return i/(in*last)*last + i%last
		}
		for i := range w {
			if line(i) == 2 {
				w[i] = 0
			}
		}
		most := map[int]float32{}
		for i, x := range w {
			most[line(i)] = max(most[line(i)], x, -x)
		}
		b, scales := p.quantize(w)
		require.Len(t, scales, len(most), p.name)
		got := p.dequantize(b, scales)
		for i, x := range got {
			m := float64(most[line(i)])
			require.InDelta(t, w[i], x, m/254*1.01, "%s: weight %d of at most %g", p.name, i, m)
			require.Equal(t, float32(b[i])*scales[line(i)], x, "%s: weight %d", p.name, i)
		}
		again, sameScales := p.quantize(got)
		require.Equal(t, b, again, p.name)
		require.Equal(t, scales, sameScales, p.name)
	}
}

// Networks in 8 bits predict as well as those in 32, in less than a third of the
// bytes, the same when saved and loaded, and are saved again as they were.
func TestInt8(t *testing.T) {
	parts, g := parts(t)
	docs, _ := plant(60, 40, 3)
	parts.Test = speculate.Slice(header(), docs)
	hs := speculate.LayersAhead(1, 2)
	o := CompareOptions{MLPs: []MLPConfig{}, Only: []string{"ensemble"},
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 4800, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .015, Gates: g}}
	mlp, err := TrainMLP(context.Background(), HiddenState(24), parts.Train, parts.Valid, o.Train)
	require.NoError(t, err)
	transformer, err := TrainTransformer(context.Background(), tiny(true), parts.Train, parts.Valid, o.Train)
	require.NoError(t, err)
	o.Trained = []Network{mlp, transformer}
	full, err := Compare(context.Background(), parts, o)
	require.NoError(t, err)
	o.Int8 = true
	short, err := Compare(context.Background(), parts, o)
	require.NoError(t, err)
	for _, name := range []string{"hidden state", "tiny", "ensemble"} {
		for _, h := range hs {
			a, ok := full.Results.Recall(name, h)
			require.True(t, ok, name)
			b, _ := short.Results.Recall(name, h)
			assert.InDelta(t, a, b, .001, "%s at %v", name, h)
			assert.NotEqual(t, a, b, "%s at %v", name, h)
		}
	}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	require.NoError(t, speculate.SaveAll(dirs[0], &speculate.Set{Predictors: full.Predictors}))
	require.NoError(t, speculate.SaveAll(dirs[1], &speculate.Set{Predictors: short.Predictors}))
	set, err := LoadAll(os.DirFS(dirs[1]), g, nil)
	require.NoError(t, err)
	require.NoError(t, speculate.SaveAll(dirs[2], set))
	for _, name := range []string{"hidden-state.safetensors", "tiny.safetensors"} {
		once, err := os.ReadFile(filepath.Join(dirs[1], name))
		require.NoError(t, err)
		again, err := os.ReadFile(filepath.Join(dirs[2], name))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(once, again), "%s, saved, loaded and saved", name)
		assert.Less(t, arrayBytes(t, dirs[1], name), arrayBytes(t, dirs[0], name)/3, name)
	}
	saved, err := speculate.Evaluate(context.Background(), parts.Test, speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	require.NoError(t, err)
	fitted, err := speculate.Evaluate(context.Background(), parts.Test, speculate.EvaluateOptions{Horizons: hs}, short.Predictors...)
	require.NoError(t, err)
	require.Equal(t, fitted.Rows, saved.Rows, "saved and loaded")
}

// arrayBytes returns the size of a network's arrays without calibration curves.
func arrayBytes(t *testing.T, dir, file string) (n int64) {
	r, err := safetensors.Open(os.DirFS(dir), file)
	require.NoError(t, err)
	defer r.Close()
	for _, x := range r.Tensors() {
		if !strings.HasPrefix(x.Name, "calibration.") {
			n += x.Size
		}
	}
	return n
}

// A damaged network of 8 bits is an error that names file and tensor.
func TestInt8Refuses(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: []speculate.Predictor{untrained(HiddenState(9)).toInt8()}}))
	path := filepath.Join(dir, "hidden-state.safetensors")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	r, err := safetensors.Open(os.DirFS(dir), "hidden-state.safetensors")
	require.NoError(t, err)
	defer r.Close()
	scale, ok := r.Info("linear.scale")
	require.True(t, ok)
	at := scale.Offset
	put := func(lo, hi byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at], b[at+1] = lo, hi; return b }
	}
	replace := func(from, to string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
	}
	for what, c := range map[string]struct {
		says  string
		spoil func([]byte) []byte
	}{
		"NaN scale":      {`"linear.scale": value 0`, put(0xc0, 0x7f)},
		"negative scale": {`"linear.scale": value 0`, put(0x80, 0xbf)},
		"huge scale":     {`"linear.scale": value 0`, put(0x7f, 0x7f)},
		"no scale":       {`"linear.scale" is missing`, replace(`"linear.scale"`, `"linaer.scale"`)},
		"no weights":     {`"linear" is missing`, replace(`"linear":`, `"linaer":`)},
		"other shape":    {`"linear.scale": shape`, replace(`"linear.scale":{"dtype":"BF16","shape":[6,7]`, `"linear.scale":{"dtype":"BF16","shape":[7,6]`)},
		"not 8 bits":     {`is I8, expected F32`, replace(`,\"int8\":true`, `,\"int9\":true`)},
		"truncated":      {"", func(b []byte) []byte { return b[:len(b)-8] }},
	} {
		bad := c.spoil(bytes.Clone(good))
		require.False(t, bytes.Equal(good, bad), "%s: nothing was changed", what)
		require.NoError(t, os.WriteFile(path, bad, 0o666))
		_, err := LoadAll(os.DirFS(dir), nil, nil)
		assert.ErrorContains(t, err, "hidden-state.safetensors", what)
		assert.ErrorContains(t, err, c.says, what)
	}
}

// counted counts how often each file is opened.
type counted struct {
	fs.FS
	opened map[string]int
}

func (c counted) Open(name string) (fs.File, error) {
	c.opened[name]++
	return c.FS.Open(name)
}

// A compressed file can only be read forward: of a network it is opened a few times,
// not for each of its arrays.
func TestInt8Compressed(t *testing.T) {
	dir := t.TempDir()
	p := untrained(HiddenState(9)).toInt8()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: []speculate.Predictor{p}}))
	var packed bytes.Buffer
	w := zip.NewWriter(&packed)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	files, err := zip.NewReader(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	require.NoError(t, err)
	c := counted{files, map[string]int{}}
	set, err := LoadAll(c, nil, nil)
	require.NoError(t, err)
	assert.Equal(t, p, set.Predictors[0])
	assert.LessOrEqual(t, c.opened["hidden-state.safetensors"], 3, "of %d arrays", len(p.(*MLP).arrays()))
}
