package neural

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every axis has a length of its own.
const (
	tL, tE, tK, tD, tV = 5, 7, 2, 12, 19
)

func header() trace.Header {
	h := trace.Header{Model: trace.Model{Name: "test", Layers: tL, Experts: tE, TopK: tK, Hidden: tD, Vocabulary: tV}}
	for l := range tL {
		h.LogitLayers = append(h.LogitLayers, l)
		h.InputLayers = append(h.InputLayers, l)
	}
	return h
}

// plantRule makes the router input by rotating that of the layer before with a
// fixed matrix and adding a little noise. A linear map can learn it; gate reuse
// cannot.
func plantRule(seed uint64) (func(*tracetest.Step), *speculate.Gates) {
	fixed := rand.New(rand.NewPCG(5, 6))
	normal := func(n int, scale float32) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(fixed.NormFloat64()) * scale
		}
		return x
	}
	turn, table := normal(tL*tD*tD, 1/3.4), normal(tV*tD, 1)
	g := &speculate.Gates{Layers: tL, Experts: tE, Hidden: tD, Weights: normal(tL*tE*tD, 1)}
	rng := rand.New(rand.NewPCG(seed, 9))
	noise := func() float32 { return float32(rng.NormFloat64()) }
	return func(s *tracetest.Step) {
		x := slices.Clone(s.Input)
		if s.Layer == 0 {
			for i, v := range table[int(s.Token)*tD:][:tD] {
				x[i] = v + .5*noise()
			}
		}
		for a := range tD {
			s.Input[a] = .1 * noise()
			for b, v := range x {
				s.Input[a] += turn[(s.Layer*tD+a)*tD+b] * v
			}
		}
		g.Logits(s.Layer, s.Input, s.Logits)
	}, g
}

// documents returns documents of a number of tokens each with random ids.
func documents(rule func(*tracetest.Step), docs, tokens int, seed uint64) []*trace.Document {
	router := tracetest.Router{Header: header(), Rule: rule}
	rng := rand.New(rand.NewPCG(seed, 10))
	out := make([]*trace.Document, docs)
	for i := range out {
		ids := make([]int32, tokens)
		for t := range ids {
			ids[t] = int32(rng.IntN(tV))
		}
		out[i] = router.Document([]string{"a", "b"}[i%2], string(rune('a'+i)), ids)
	}
	return out
}

func plant(docs, tokens int, seed uint64) ([]*trace.Document, *speculate.Gates) {
	rule, g := plantRule(seed)
	return documents(rule, docs, tokens, seed), g
}

func backend(t testing.TB) compute.Backend {
	t.Helper()
	b, err := gobackend.New("ops_sequential")
	require.NoError(t, err)
	t.Cleanup(b.Finalize)
	return b
}

func parts(t testing.TB) (speculate.Parts, *speculate.Gates) {
	t.Helper()
	train, g := plant(24, 64, 1)
	valid, _ := plant(8, 40, 2)
	test, _ := plant(20, 40, 3)
	h := header()
	return speculate.Parts{Train: speculate.Slice(h, train), Valid: speculate.Slice(h, valid), Test: speculate.Slice(h, test)}, g
}

// Compare's predictors learn what was planted, read only their view, and predict
// the same step by step as for whole documents, and when saved and loaded.
func TestCompare(t *testing.T) {
	ps, g := parts(t)
	hs := speculate.LayersAhead(1, 2)
	c, err := Compare(context.Background(), ps, CompareOptions{
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 4800, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .015, Gates: g},
		MLPs:  MLPConfigs(24, header(), g),
	})
	require.NoError(t, err)
	recall := func(name string) float64 {
		r, ok := c.Results.Recall(name, hs[0])
		require.True(t, ok, "no %s in %v", name, c.Results.Predictors)
		return r
	}
	freq, gate, hid, cor, inter := recall("frequency"), recall("gate reuse"), recall("hidden state"), recall("corrected gate"), recall("inter-layer")
	assert.GreaterOrEqual(t, cor, gate+.1)
	assert.GreaterOrEqual(t, hid, .8)
	assert.GreaterOrEqual(t, inter, freq+.1)
	assert.GreaterOrEqual(t, recall("ensemble"), max(cor, hid)-.01)
	doc, _ := plant(1, 12, 7)
	dir := t.TempDir()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: c.Predictors, Costs: c.Results.Costs}))
	set, err := LoadAll(os.DirFS(dir), g, nil)
	require.NoError(t, err)
	require.Len(t, set.Predictors, len(c.Predictors))
	assert.Positive(t, set.Costs["hidden state"].Parameters)
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	require.NoError(t, err)
	for _, row := range r.Rows {
		if row.By == "all" {
			was := c.Results.Find(row.Predictor, row.Horizon, "all")
			require.Len(t, was, 1)
			assert.Equal(t, was[0].Metrics, row.Metrics, "%s at %v, saved and loaded", row.Predictor, row.Horizon)
		}
	}
	for _, p := range c.Predictors {
		assert.NoError(t, speculate.CheckCausality(p, header(), doc[0], hs))
		assert.NoError(t, speculate.CheckStepwise(p, header(), doc[0], hs))
	}
}

// Plain Go computes the same logits as the graph.
func TestExecutionEqualsGraph(t *testing.T) {
	ps, g := parts(t)
	cfg := HiddenState(24)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1, 3), Seed: 4, Tokens: 640, Batch: 64, Gates: g}.withDefaults()
	tr, err := newMLPJob(context.Background(), cfg, ps.Train, ps.Valid, o)
	require.NoError(t, err)
	defer tr.close()
	require.NoError(t, tr.loop.run(context.Background()))
	pts := tr.valid[:64]
	a := tr.r.arrays(64)
	require.NoError(t, tr.r.read(pts, a, tr.r.fitted))
	require.NoError(t, tr.loop.keep())
	_, y, err := tr.loop.infer(a)
	require.NoError(t, err)
	p := tr.trained()
	s := p.scratch(1)
	for gi, hd := range tr.heads {
		for b, pt := range pts {
			require.NoError(t, p.forward(&p.units[gi], s, []speculate.View{pt.views.At(pt.t, hd.l, hd.h)}))
			for e := range tE {
				want := y[(gi*len(pts)+b)*tE+e]
				require.InDelta(t, want, s.z[e], 2e-4, "head %v, point %d, expert %d", hd, b, e)
			}
		}
	}
}

// An untrained network with a gate predicts as gate reuse does.
func TestStartsAsGate(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(2), Seed: 4, Tokens: 64, Batch: 64, Rate: 1e-12, Gates: g}
	p, err := TrainMLP(context.Background(), HiddenState(16), ps.Train, ps.Valid, o)
	require.NoError(t, err)
	baselines, err := speculate.Baselines(speculate.ShapeOf(header().Model), g)
	require.NoError(t, err)
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: o.Horizons, Resamples: -1}, p, baselines[len(baselines)-2]) // gate reuse, before the oracle
	require.NoError(t, err)
	a, _ := r.Recall("hidden state", o.Horizons[0])
	b, _ := r.Recall("gate reuse", o.Horizons[0])
	assert.InDelta(t, b, a, .002)
}

// Trainings with the same seed return the same network.
func TestDeterministic(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 1024, Batch: 64, Gates: g}
	var z [2]*MLP
	for i := range z {
		p, err := TrainMLP(context.Background(), HiddenState(16), ps.Train, ps.Valid, o)
		require.NoError(t, err)
		z[i] = p
	}
	for i := range z[0].units {
		require.Equal(t, z[1].units[i].first.w, z[0].units[i].first.w)
		require.Equal(t, z[1].units[i].lin.w, z[0].units[i].lin.w)
	}
}

func TestRefusals(t *testing.T) {
	ps, g := parts(t)
	b := backend(t)
	hs := speculate.LayersAhead(1)
	for name, c := range map[string]struct {
		cfg MLPConfig
		o   TrainOptions
	}{
		"no backend":     {InterLayer(8), TrainOptions{Horizons: hs}},
		"no horizons":    {InterLayer(8), TrainOptions{Backend: b}},
		"no gates":       {HiddenState(8), TrainOptions{Backend: b, Horizons: hs}},
		"no statistics":  {StatisticsAware(8), TrainOptions{Backend: b, Horizons: hs}},
		"far horizon":    {InterLayer(8), TrainOptions{Backend: b, Horizons: speculate.LayersAhead(tL)}},
		"no layers":      {MLPConfig{Name: "x", Features: Features{Experts: 1}}, TrainOptions{Backend: b, Horizons: hs}},
		"foreign gates":  {HiddenState(8), TrainOptions{Backend: b, Horizons: hs, Gates: &speculate.Gates{Layers: 1, Experts: 1, Hidden: 1, Weights: []float32{1}}}},
		"negative batch": {InterLayer(8), TrainOptions{Backend: b, Horizons: hs, Batch: -1}},
	} {
		_, err := TrainMLP(context.Background(), c.cfg, ps.Train, ps.Valid, c.o)
		assert.Error(t, err, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := TrainMLP(ctx, InterLayer(8), ps.Train, ps.Valid, TrainOptions{Backend: b, Horizons: hs, Gates: g, Tokens: 640})
	assert.ErrorIs(t, err, context.Canceled)
}
