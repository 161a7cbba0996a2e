package neural

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
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

// plant makes documents whose router input is rotated by a fixed matrix from
// layer to layer, which a linear path can learn and gate reuse cannot know;
// a little noise bounds how well.
func plant(docs, tokens int, seed uint64) ([]*trace.Document, *speculate.Gates) {
	fixed := rand.New(rand.NewPCG(5, 6))
	turn, table := make([]float32, tL*tD*tD), make([]float32, tV*tD)
	for i := range turn {
		turn[i] = float32(fixed.NormFloat64()) / 3.4
	}
	for i := range table {
		table[i] = float32(fixed.NormFloat64())
	}
	g := &speculate.Gates{Layers: tL, Experts: tE, Hidden: tD, Weights: make([]float32, tL*tE*tD)}
	for i := range g.Weights {
		g.Weights[i] = float32(fixed.NormFloat64())
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	out := make([]*trace.Document, docs)
	for i := range out {
		d := &trace.Document{Dataset: []string{"a", "b"}[i%2], ID: string(rune('a' + i)), Tokens: make([]int32, tokens), Experts: make([]int32, tokens*tL*tK),
			Weights: make([]float32, tokens*tL*tK), RouterLogits: make([]float32, tokens*tL*tE), RouterInput: make([]float32, tokens*tL*tD)}
		for t := range tokens {
			d.Tokens[t] = int32(rng.IntN(tV))
			x := slices.Clone(table[int(d.Tokens[t])*tD:][:tD])
			for j := range x {
				x[j] += .5 * float32(rng.NormFloat64())
			}
			for l := range tL {
				y := make([]float32, tD)
				for a := range tD {
					for b, v := range x {
						y[a] += turn[(l*tD+a)*tD+b] * v
					}
					y[a] += .1 * float32(rng.NormFloat64())
				}
				x = y
				at := t*tL + l
				copy(d.RouterInput[at*tD:], x)
				z := d.RouterLogits[at*tE:][:tE]
				g.Logits(l, x, z)
				p := speculate.NewPrediction(z)
				for k := range tK {
					d.Experts[at*tK+k], d.Weights[at*tK+k] = p.Experts[k], .5
				}
			}
		}
		out[i] = d
	}
	return out, g
}

func backend(t testing.TB) compute.Backend {
	t.Helper()
	b, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
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

// The chain learns what was planted; all networks keep to their view; they and
// the ensemble answer step by step as for whole documents.
func TestCompare(t *testing.T) {
	ps, g := parts(t)
	hs := speculate.LayersAhead(1, 2)
	c, err := Compare(context.Background(), ps, CompareOptions{
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 4800, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .015, Gates: g},
		MLPs:  MLPConfigs(24, header(), g),
	})
	if err != nil {
		t.Fatal(err)
	}
	recall := func(name string) float64 {
		r, ok := c.Results.Recall(name, hs[0])
		if !ok {
			t.Fatalf("no %s in %v", name, c.Results.Predictors)
		}
		return r
	}
	freq, gate, hid, cor, inter := recall("frequency"), recall("gate reuse"), recall("hidden state"), recall("corrected gate"), recall("inter-layer")
	if cor < gate+.1 || hid < .8 || inter < freq+.1 {
		t.Errorf("gate reuse %.3f, corrected gate %.3f, hidden state %.3f, inter-layer %.3f, frequency %.3f", gate, cor, hid, inter, freq)
	}
	if e := recall("ensemble"); e < max(cor, hid)-.01 {
		t.Errorf("ensemble %.3f below its best member", e)
	}
	doc, _ := plant(1, 12, 7)
	dir := t.TempDir()
	if err := speculate.SaveAll(dir, &speculate.Set{Predictors: c.Predictors, Costs: c.Results.Costs}); err != nil {
		t.Fatal(err)
	}
	set, err := LoadAll(os.DirFS(dir), g, nil)
	if err != nil || len(set.Predictors) != len(c.Predictors) || set.Costs["hidden state"].Parameters == 0 {
		t.Fatalf("%v loaded, want %d predictors, %v", set, len(c.Predictors), err)
	}
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Rows {
		if row.By == "all" && !slices.ContainsFunc(c.Results.Find(row.Predictor, row.Horizon, "all"), func(x speculate.Row) bool { return x.Metrics == row.Metrics }) {
			t.Errorf("%s at %v differs once saved and loaded", row.Predictor, row.Horizon)
		}
	}
	for _, p := range c.Predictors {
		if err := speculate.CheckCausality(p, header(), doc[0], hs); err != nil {
			t.Error(err)
		}
		if err := speculate.CheckStepwise(p, header(), doc[0], hs); err != nil {
			t.Error(err)
		}
	}
}

// The network that is executed is the one that was trained: the loss that the
// graph reported on validation tokens comes back from plain Go.
func TestExecutionEqualsGraph(t *testing.T) {
	ps, g := parts(t)
	cfg := HiddenState(24)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1, 3), Seed: 4, Tokens: 640, Batch: 64, Gates: g}.withDefaults()
	tr, err := newMLPJob(context.Background(), cfg, ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if err := tr.loop.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	pts := tr.valid[:64]
	a := tr.r.arrays(64)
	if err := tr.r.read(pts, a); err != nil {
		t.Fatal(err)
	}
	if err := tr.loop.keep(); err != nil {
		t.Fatal(err)
	}
	_, y, err := tr.loop.infer(a)
	if err != nil {
		t.Fatal(err)
	}
	p := tr.trained()
	s := p.scratch(1)
	for gi, hd := range tr.heads {
		for b, pt := range pts {
			if err := p.forward(&p.units[gi], s, []speculate.View{pt.views.At(pt.t, hd.l, hd.h)}); err != nil {
				t.Fatal(err)
			}
			for e := range tE {
				want := y[(gi*len(pts)+b)*tE+e]
				if d := s.z[e] - want; d > 2e-4 || d < -2e-4 {
					t.Fatalf("head %v, point %d, expert %d: %g in Go, %g in the graph", hd, b, e, s.z[e], want)
				}
			}
		}
	}
}

// An untrained network with a gate is gate reuse.
func TestStartsAsGate(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(2), Seed: 4, Tokens: 64, Batch: 64, Rate: 1e-12, Gates: g}
	p, err := TrainMLP(context.Background(), HiddenState(16), ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	reuse, err := speculate.NewGateReuse(g, speculate.ShapeOf(header().Model))
	if err != nil {
		t.Fatal(err)
	}
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: o.Horizons, Resamples: -1}, p, reuse)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := r.Recall("hidden state", o.Horizons[0])
	b, _ := r.Recall("gate reuse", o.Horizons[0])
	if d := a - b; d > .002 || d < -.002 {
		t.Errorf("the untrained network's recall is %.4f, gate reuse %.4f", a, b)
	}
}

// The same seed gives the same network.
func TestDeterministic(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 1024, Batch: 64, Gates: g}
	var z [2]*MLP
	for i := range z {
		p, err := TrainMLP(context.Background(), HiddenState(16), ps.Train, ps.Valid, o)
		if err != nil {
			t.Fatal(err)
		}
		z[i] = p
	}
	for i := range z[0].units {
		if !slices.Equal(z[0].units[i].first.w, z[1].units[i].first.w) || !slices.Equal(z[0].units[i].lin.w, z[1].units[i].lin.w) {
			t.Fatal("two runs differ")
		}
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
		if _, err := TrainMLP(context.Background(), c.cfg, ps.Train, ps.Valid, c.o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := TrainMLP(ctx, InterLayer(8), ps.Train, ps.Valid, TrainOptions{Backend: b, Horizons: hs, Gates: g, Tokens: 640}); err == nil {
		t.Error("a stopped training gave no error")
	}
}

func BenchmarkPredict(b *testing.B) {
	// Weights do not matter for the time: train for one step.
	ps, g := parts(b)
	for _, c := range []MLPConfig{InterLayer(64), HiddenState(64), HiddenState(256)} {
		b.Run(c.Name, func(b *testing.B) {
			p, err := TrainMLP(context.Background(), c, ps.Train, ps.Valid, TrainOptions{Backend: backend(b), Horizons: speculate.LayersAhead(1), Tokens: 1, Batch: 16, ValidTokens: 16, Gates: g})
			if err != nil {
				b.Fatal(err)
			}
			doc, _ := plant(1, 12, 7)
			v, err := speculate.NewViews(header(), doc[0])
			if err != nil {
				b.Fatal(err)
			}
			views, out := []speculate.View{v.At(9, 3, speculate.Horizon{Layers: 1})}, make([]float32, tE)
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Predict(views, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
