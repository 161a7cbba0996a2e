package neural

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/require"
)

// BenchmarkDecision measures a decision at one token and layer of a model of the
// embedded one's shape, layer by layer as in decoding, so that no layer's weights
// are in the nearest cache. It also measures decisions on many tokens at one layer,
// as in evaluation. Weights are random: the time depends only on the zeros of ReLU.
func BenchmarkDecision(b *testing.B) {
	h := miniHeader()
	const n = 8
	shape, rng := speculate.ShapeOf(h.Model), rand.New(rand.NewPCG(1, 2))
	doc := (&tracetest.Router{Header: h, Rule: tracetest.Random(1)}).Documents(1, n, 1)[0]
	views, err := speculate.NewViews(h, doc)
	require.NoError(b, err)
	hs := speculate.LayersAhead(1)
	stats := []speculate.Predictor{&speculate.Frequency{}, &speculate.PreviousToken{}, &speculate.Transition{}, &speculate.Path{}}
	require.NoError(b, speculate.Fit(context.Background(), speculate.Slice(h, []*trace.Document{doc}), hs, stats...))
	for _, c := range []struct {
		name string
		cfg  MLPConfig
	}{
		{"inter-layer/64", InterLayer(64)}, {"inter-layer/128", InterLayer(128)}, {"statistics-aware/64", StatisticsAware(64)}, {"router-logits/128", RouterLogits(128)},
		{"corrected-gate", CorrectedGate()}, {"hidden-state/64", HiddenState(64)}, {"hidden-state/256", HiddenState(256)}, {"hidden-state/512", HiddenState(512)},
	} {
		var s []speculate.Predictor
		if c.cfg.Statistics {
			s = stats
		}
		w := map[string][]float32{}
		count := 0
		for _, p := range newMLPParams(c.cfg, sizesOf(c.cfg, shape, 15, len(s)), 1) {
			for i := range p.value {
				p.value[i] = float32(rng.NormFloat64()) / 16
			}
			w[p.name] = p.value
			count += len(p.value)
		}
		p := newMLP(stored[MLPConfig]{Config: c.cfg, Shape: shape, Horizons: hs, Soft: c.cfg.Soft}, s, w)
		b.Run(c.name, func(b *testing.B) {
			b.ReportMetric(float64(count), "parameters")
			out, v := make([]float32, 8), make([]speculate.View, 1)
			i := 0
			for b.Loop() {
				v[0] = views.At(5, 1+i%15, hs[0])
				if i++; p.Predict(v, out) != nil {
					b.Fatal("no answer")
				}
			}
		})
		b.Run(c.name+"/256 tokens", func(b *testing.B) {
			many := make([]speculate.View, 256)
			for t := range many {
				many[t] = views.At(t%n, 8, hs[0])
			}
			out := make([]float32, 8*len(many))
			for b.Loop() {
				require.NoError(b, p.Predict(many, out))
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*len(many)), "ns/decision")
		})
	}
}
