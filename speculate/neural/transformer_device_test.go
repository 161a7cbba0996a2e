package neural

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// halved rounds what documents record to 16 bits.
func halved(docs []*trace.Document) []*trace.Document {
	for _, d := range docs {
		for _, xs := range [][]float32{d.Weights, d.RouterLogits, d.RouterInput} {
			for i, x := range xs {
				xs[i] = float16.FromFloat32(x).Float32()
			}
		}
		for i, w := range d.Weights {
			d.Weights[i] = max(w, 1.0/(1<<14))
		}
	}
	return docs
}

// uneven cuts documents to different lengths.
func uneven(docs []*trace.Document) []*trace.Document {
	for i, d := range docs {
		n := d.Len() - 5*(i%3)
		d.Tokens, d.Experts, d.Weights, d.RouterLogits, d.RouterInput = d.Tokens[:n], d.Experts[:n*tL*tK], d.Weights[:n*tL*tK], d.RouterLogits[:n*tL*tE], d.RouterInput[:n*tL*tD]
	}
	return docs
}

// Training on documents that the backend holds has the same result, bit for bit,
// as on those that are transferred, also in parts and after an interruption.
func TestDocumentsOnDevice(t *testing.T) {
	docs, g := plant(12, 37, 1)
	data, valid := speculate.Slice(header(), halved(uneven(docs))), speculate.Slice(header(), docs[:3])
	for _, kind := range []string{"routing", "logits", "inputs"} {
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		o := TrainOptions{Backend: backend(t), Horizons: append(speculate.LayersAhead(1, 3), unknown), Seed: 3, Tokens: 768, Batch: 64, Accumulate: 2, devicePart: 100, Checks: 4, Rate: .01, Gates: g}
		var want *Transformer
		for _, held := range []string{"no", "yes", "too many", "resumed"} {
			o.DeviceBytes, o.Resume, o.Progress = 1<<20, "", nil
			switch held {
			case "no":
				o.DeviceBytes = 0
			case "too many":
				o.DeviceBytes = 1000
			case "resumed":
				ctx, cancel := context.WithCancel(context.Background())
				o.Resume = filepath.Join(t.TempDir(), "state")
				o.Progress = func(Progress) { cancel() }
				_, err := TrainTransformer(ctx, c, data, valid, o)
				require.ErrorIs(t, err, context.Canceled)
				o.Progress = nil
			}
			got, err := TrainTransformer(context.Background(), c, data, valid, o)
			require.NoError(t, err)
			if want == nil {
				want = got
				continue
			}
			assert.Equal(t, want.info.Epochs, got.info.Epochs)
			assert.Equal(t, want.info.Loss, got.info.Loss)
			for name, x := range want.weights {
				require.Equal(t, x, got.weights[name], "%s, held: %s, %s", kind, held, name)
			}
		}
	}
}

// half is the conversion of the library, except that subnormal numbers are kept and
// large ones bounded.
func TestHalf(t *testing.T) {
	for i := range 1 << 16 {
		want := float16.FromBits(uint16(i))
		if x := want.Float32(); x-x == 0 {
			require.Equal(t, want, half(x), "%g", x)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100000 {
		x := math.Float32frombits(rng.Uint32())
		if a := math.Abs(float64(x)); a > 1.0/(1<<14) && a < 65504 {
			require.Equal(t, float16.FromFloat32(x), half(x), "%g", x)
		}
	}
	assert.Equal(t, float32(65504), half(1e9).Float32())
	assert.Equal(t, float32(-65504), half(float32(math.Inf(-1))).Float32())
	assert.Equal(t, float16.FromBits(1), half(5e-8))
}

// Training in 16 bits, as on an accelerator, learns about the same, whether
// documents are held or transferred, and cannot be resumed in 32.
func TestBrief(t *testing.T) {
	train, valid := recalled(24, 16, 1), recalled(8, 16, 100)
	_, g := plant(1, 1, 1)
	for _, kind := range []string{"logits", "inputs"} {
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		loss := func(brief, mixed bool, bytes int64) float64 {
			o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, Checks: 1, Rate: .01, Gates: g}.withDefaults()
			o.brief, o.Float32, o.DeviceBytes = brief, !mixed, bytes
			h := header()
			j, err := newTransformerJob(context.Background(), c, speculate.Slice(h, train), speculate.Slice(h, valid), o)
			require.NoError(t, err)
			defer j.close()
			assert.Equal(t, bytes > 0, j.held != nil)
			require.NoError(t, j.loop.run(context.Background()))
			return j.trained().info.Loss
		}
		want := loss(false, false, 0)
		for _, bytes := range []int64{0, 1 << 20} {
			assert.InEpsilon(t, want, loss(true, false, bytes), 2e-3, kind)
			mixed := loss(true, true, bytes)
			assert.InEpsilon(t, want, mixed, .02, kind)
			assert.NotEqual(t, want, mixed, kind)
		}
	}
}
