package offload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/require"
)

// BenchmarkStrategies simulates what others do, and what we do, on routing that the
// embedded model records, at equal size of the cache: half of the experts. Computing a
// layer takes a millisecond, copying an expert that (1), half (0.5) or a quarter of it.
// Predictors were fitted on other documents.
func BenchmarkStrategies(b *testing.B) {
	s := newStudy(b)
	for _, load := range []float64{.25, .5, 1} {
		for _, x := range s.strategies() {
			b.Run(fmt.Sprintf("load=%v/%s", load, x.name), func(b *testing.B) {
				c := x.cfg
				c.Capacity, c.Hold, c.Streams = s.model.Layers*s.model.Experts/2, true, 2
				c.Compute, c.Load = time.Millisecond, time.Duration(load*float64(time.Millisecond))
				s.simulate(b, c)
			})
		}
	}
	for _, x := range s.evictions() {
		for _, perLayer := range []bool{false, true} {
			b.Run(fmt.Sprintf("evict/per layer=%v/%s", perLayer, x.name), func(b *testing.B) {
				c := x.cfg
				c.Capacity, c.PerLayer, c.Hold, c.Compute, c.Load = s.model.Layers*s.model.Experts/2, perLayer, true, time.Millisecond, time.Millisecond
				if perLayer {
					c.Capacity /= s.model.Layers
				}
				s.simulate(b, c)
			})
		}
	}
}

// study is routing to simulate on, and what was learned from other documents.
type study struct {
	model                   trace.Model
	test                    speculate.Data
	gateReuse, paths, fused speculate.Predictor
	static                  []int32
}

type strategy struct {
	name string
	cfg  prefetch.Config
}

func (s *study) simulate(b *testing.B, c prefetch.Config) {
	var r *prefetch.Result
	for b.Loop() {
		var err error
		r, err = prefetch.Simulate(b.Context(), s.test, c)
		require.NoError(b, err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(100*r.HitRate, "%hits")
	b.ReportMetric(r.TransfersPerToken, "copies/token")
	b.ReportMetric(1000*r.StallPerToken, "stall-ms/token")
	b.ReportMetric(1000/r.TokensPerSecond, "ms/token")
}

// strategies are those of the earlier work (specMoE: on demand, oracle, multi-look-ahead,
// top-k frequency, intelligent adaptive), of others, and ours.
func (s *study) strategies() []strategy {
	k := s.model.TopK
	one, token := speculate.Horizon{Layers: 1}, speculate.Horizon{}
	ahead := func(evict prefetch.Policy, p speculate.Predictor, h speculate.Horizon, n int) prefetch.Config {
		return prefetch.Config{Policy: evict, Predictor: p, Horizon: h, Prefetch: n}
	}
	with := func(c prefetch.Config, change func(*prefetch.Config)) prefetch.Config {
		change(&c)
		return c
	}
	return []strategy{
		{"on demand", prefetch.Config{Policy: prefetch.OnDemand}},
		{"LRU", prefetch.Config{}},
		// Counts that decay by .999 a token.
		{"top-k frequency", prefetch.Config{Policy: prefetch.DecayedLFU, HalfLife: 693}},
		// The union of what several distances predict.
		{"multi-look-ahead", with(ahead(prefetch.LRU, s.fused, speculate.Horizon{Layers: 4}, k), func(c *prefetch.Config) { c.Nearer, c.NextToken = true, true })},
		// Transitions, frequency and recency in one predictor.
		{"intelligent adaptive", ahead(prefetch.LRU, s.fused, token, k)},
		// Hwang et al. 2024, "Pre-gated MoE" (ISCA): the gate of a layer decides for the
		// next, so that its experts are known exactly; nothing is kept.
		{"Pre-gated MoE", ahead(prefetch.OnDemand, speculate.Oracle{}, one, k)},
		// He et al. 2024, "ExpertFlow" (arXiv:2410.17954): the path of a token through all
		// layers is predicted when it begins; what was not predicted is corrected.
		{"ExpertFlow", ahead(prefetch.LRU, s.paths, speculate.Horizon{KnownID: true}, k)},
		{"gate reuse, LRU", ahead(prefetch.LRU, s.gateReuse, one, k)},
		{"gate reuse, decayed LFU", ahead(prefetch.DecayedLFU, s.gateReuse, one, k)},
		{"the same, distances 1 to 3", with(ahead(prefetch.DecayedLFU, s.gateReuse, speculate.Horizon{Layers: 3}, k), func(c *prefetch.Config) { c.Nearer = true })},
		{"the same, adaptive, up to 4", with(ahead(prefetch.DecayedLFU, s.gateReuse, speculate.Horizon{Layers: 3}, 4), func(c *prefetch.Config) { c.Nearer, c.Adaptive = true, true })},
		{"oracle, one layer", ahead(prefetch.DecayedLFU, speculate.Oracle{}, one, k)},
		{"oracle, one token", ahead(prefetch.LRU, speculate.Oracle{}, token, k)},
		{"Belady", prefetch.Config{Policy: prefetch.OPT}},
		{"Belady and oracle", ahead(prefetch.OPT, speculate.Oracle{}, token, k)},
	}
}

// evictions are policies without prefetching.
func (s *study) evictions() []strategy {
	return []strategy{
		{"LRU", prefetch.Config{}},
		{"LFU", prefetch.Config{Policy: prefetch.LFU}},
		{"decayed LFU", prefetch.Config{Policy: prefetch.DecayedLFU}},
		{"decayed LFU 32", prefetch.Config{Policy: prefetch.DecayedLFU, HalfLife: 32}},
		{"static, first", prefetch.Config{Policy: prefetch.Static}},
		{"static, frequent", prefetch.Config{Policy: prefetch.Static, Static: s.static}},
		{"predicted reuse 32", prefetch.Config{Policy: prefetch.Reuse, HalfLife: 32, Predictor: s.fused}},
		{"predicted reuse 32, oracle", prefetch.Config{Policy: prefetch.Reuse, HalfLife: 32, Predictor: speculate.Oracle{}}},
		{"Belady", prefetch.Config{Policy: prefetch.OPT}},
	}
}

func newStudy(b *testing.B) *study {
	ctx := b.Context()
	m, err := mixtral.Load(ctx, mini.FS(), backend(b))
	require.NoError(b, err)
	defer m.Close()
	s := &study{model: m.Config().TraceModel("mini")}
	h := trace.Header{Model: s.model}
	for l := range s.model.Layers {
		h.InputLayers = append(h.InputLayers, l)
	}
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(b, err)
	texts, err := mini.Documents()
	require.NoError(b, err)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
	var docs []*trace.Document
	for _, d := range texts[:300] {
		ids := tok.Encode(d.Text, true)
		rec, err := mixtral.NewRecorder(h)
		require.NoError(b, err)
		_, err = m.Forward(ctx, mixtral.Request{Tokens: [][]int32{ids[:min(256, len(ids))]}, Observe: rec.Observe, RouterInput: true})
		require.NoError(b, err)
		doc := rec.Take(0)
		doc.Dataset, doc.ID = d.Domain, d.ID
		docs = append(docs, doc)
	}
	s.test = speculate.Slice(h, docs[:40])
	valid, train := speculate.Slice(h, docs[40:80]), speculate.Slice(h, docs[80:])
	s.static, err = prefetch.MostFrequent(ctx, train)
	require.NoError(b, err)

	ck, err := mixtral.OpenCheckpoint(mini.FS())
	require.NoError(b, err)
	defer ck.Close()
	weights, err := ck.Routers()
	require.NoError(b, err)
	ps, err := speculate.Baselines(speculate.ShapeOf(s.model), &speculate.Gates{Layers: s.model.Layers, Experts: s.model.Experts, Hidden: s.model.Hidden, Weights: weights})
	require.NoError(b, err)
	named := func(name string) speculate.Predictor {
		return ps[slices.IndexFunc(ps, func(p speculate.Predictor) bool { return p.Name() == name })]
	}
	horizons := append(speculate.LayersAhead(1, 2, 3, 4), speculate.Horizon{}, speculate.Horizon{KnownID: true})
	s.gateReuse = named("gate reuse")
	counters := []speculate.Predictor{named("frequency"), named("previous token"), named("transition"), named("token id")}
	require.NoError(b, speculate.Fit(ctx, train, horizons, counters...))
	o := speculate.EvaluateOptions{Horizons: append(speculate.LayersAhead(1, 2, 3, 4), speculate.Horizon{})}
	s.fused, err = speculate.FitEnsemble(ctx, "fused", valid, o, counters[:3]...)
	require.NoError(b, err)
	o.Horizons = []speculate.Horizon{{KnownID: true}}
	s.paths, err = speculate.FitEnsemble(ctx, "paths", valid, o, counters...)
	require.NoError(b, err)
	return s
}
