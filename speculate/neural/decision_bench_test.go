package neural

import (
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/require"
)

// BenchmarkTransformerDecision measures decisions of transformers with random weights on
// a model of the embedded one's shape, token by token and layer by layer as in decoding,
// at positions 256 to 599: one layer ahead, or, as evaluate does, 1, 2 and 4, which have
// the transformer's work on a token in common.
func BenchmarkTransformerDecision(b *testing.B) {
	h := miniHeader()
	const n, from = 600, 256
	shape, hs := speculate.ShapeOf(h.Model), speculate.LayersAhead(1, 2, 4)
	doc := (&tracetest.Router{Header: h, Rule: tracetest.Random(1)}).Documents(1, n, 1)[0]
	for _, c := range []struct {
		name string
		cfg  TransformerConfig
		all  bool
	}{
		{"routing/2x96", routingTransformer(2, 96, 256), false}, {"routing/4x256", routingTransformer(4, 256, 512), false},
		{"routing/4x256/all", routingTransformer(4, 256, 512), true}, {"router-logits/4x256", logitTransformer(4, 256, 512), false},
	} {
		b.Run(c.name, func(b *testing.B) {
			asked := hs[:1]
			if c.all {
				asked = hs
			}
			rng := rand.New(rand.NewPCG(1, 2))
			w := map[string][]float32{}
			for _, a := range newTransformerParams(c.cfg, c.cfg.extent(shape, hs), 1) {
				for i := range a.value {
					a.value[i] = float32(rng.NormFloat64()) / 16
				}
				w[a.name] = a.value
			}
			p := newTransformer(stored[TransformerConfig]{Config: c.cfg, Shape: shape, Horizons: hs, Soft: true}, w)
			out := make([]float32, 8)
			v := make([]speculate.View, 1)
			var views *speculate.Views
			t, l, i := n, 15, 0
			for b.Loop() {
				if i++; i >= len(asked) || l < asked[i].Layers {
					l, i = l+1, 0
				}
				if l > 15 {
					l, t = 1, t+1
				}
				if t >= n {
					b.StopTimer()
					t = from
					var err error
					views, err = speculate.NewViews(h, doc)
					require.NoError(b, err)
					v[0] = views.At(from-1, 1, hs[0])
					require.NoError(b, p.Predict(v, out)) // the tokens before
					b.StartTimer()
				}
				v[0] = views.At(t, l, asked[i])
				if p.Predict(v, out) != nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
