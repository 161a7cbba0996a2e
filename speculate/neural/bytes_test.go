//go:build goexperiment.simd && amd64

package neural

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func needVectors(t *testing.T) {
	t.Helper()
	if !vectors {
		t.Skip("the CPU has no AVX2 and FMA")
	}
}

// A program built with kernels that runs on a CPU without them stores 32 bits.
func TestEightBitsNeedCPU(t *testing.T) {
	defer func(v bool) { vectors = v }(vectors)
	vectors = false
	TestEightBitsNeedKernel(t)
}

// Evenly spread weights lose little to 8 bits at any scale of rows and columns;
// those of which few are large lose too much, and keep 32.
func TestPrecisionOfMatrix(t *testing.T) {
	needVectors(t)
	rng := rand.New(rand.NewPCG(3, 4))
	const in, out = 131, 67
	even, odd := make([]float32, in*out), make([]float32, in*out)
	for i := range even {
		row, column := math.Exp(float64(i/out%9)-4), math.Exp(float64(i%out%7)-3)
		even[i] = float32(rng.NormFloat64() * row * column)
		if odd[i] = float32(rng.NormFloat64()); i%53 == 0 {
			odd[i] *= 100
		}
	}
	_, loss := newBytes(in, out, even)
	assert.Less(t, loss, 1./100)
	assert.Greater(t, loss, 1./1000)
	assert.NotNil(t, newMatrix(in, out, even).words, "evenly spread weights")
	assert.Nil(t, newMatrix(in, out, odd).words, "weights of which few are large")
	assert.Nil(t, newMatrix(in, 8, even[:in*8]).words, "a small matrix")
	zero := newMatrix(128, 64, make([]float32, 128*64))
	y := make([]float32, 64)
	zero.addTo(y, even[:128])
	assert.Equal(t, make([]float32, 64), y, "product with zeros")
}

// Weights of 8 bits answer as those of 32 do: probabilities change little, and
// recall less than by one document.
func TestPrecision(t *testing.T) {
	needVectors(t)
	ps, g := parts(t)
	hs := speculate.LayersAhead(1, 2)
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 4800, Batch: 64, ValidTokens: 256, Checks: 2, Rate: .015, Gates: g}
	trained, err := TrainMLP(context.Background(), HiddenState(64), ps.Train, ps.Valid, o)
	require.NoError(t, err)
	defer func(n int) { byteFrom = n }(byteFrom)
	stored := func(from int) *MLP {
		byteFrom = from
		p := trained
		return newMLP(stored[MLPConfig]{Config: p.cfg, Shape: p.shape, Horizons: p.horizons, Soft: p.soft, Info: p.info}, p.stats, p.weights)
	}
	full, eight := stored(math.MaxInt), stored(4096)
	require.Nil(t, full.units[0].first.words)
	require.NotNil(t, eight.units[0].hidden[1].words)
	docs, _ := plant(4, 60, 8)
	worst, sum, n := 0.0, 0.0, 0
	for _, doc := range docs {
		vs, err := speculate.NewViews(header(), doc)
		require.NoError(t, err)
		for _, h := range hs {
			for l := h.FirstLayer(); l < tL; l++ {
				views := make([]speculate.View, len(doc.Tokens))
				for i := range views {
					views[i] = vs.At(i, l, h)
				}
				a, b := make([]float32, len(views)*tE), make([]float32, len(views)*tE)
				require.NoError(t, full.Predict(views, a))
				require.NoError(t, eight.Predict(views, b))
				for i := range a {
					d := math.Abs(float64(a[i] - b[i]))
					worst, sum, n = max(worst, d), sum+d, n+1
				}
			}
		}
	}
	var recall [2]float64
	for i, p := range []*MLP{full, eight} {
		r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: hs, Resamples: -1}, p)
		require.NoError(t, err)
		recall[i], _ = r.Recall("hidden state", hs[0])
	}
	t.Logf("largest difference of a probability %.4f, mean %.5f; recall %.4f and %.4f", worst, sum/float64(n), recall[0], recall[1])
	assert.LessOrEqual(t, worst, .02, "largest difference of a probability")
	assert.LessOrEqual(t, sum/float64(n), .002, "mean difference of a probability")
	assert.InDelta(t, recall[0], recall[1], .002, "recall")
}
