package neural

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// plantChain makes documents without anything but routing. Of the two experts
// at a layer, one (0 to 3) follows from the layer before, the other (4 to 6)
// from the one before that, neither from the expert's number alone.
func plantChain(docs, tokens int, seed uint64) speculate.Data {
	rng := rand.New(rand.NewPCG(seed, 11))
	var out []*trace.Document
	for i := range docs {
		d := &trace.Document{Dataset: []string{"a", "b"}[i%2], ID: string(rune('a' + i)), Tokens: make([]int32, tokens)}
		for range tokens {
			var one, two [tL]int
			for l := range tL {
				one[l], two[l] = rng.IntN(4), rng.IntN(3)
				if l > 0 {
					one[l] = (one[l-1] + l) % 4
				}
				if l > 1 {
					two[l] = (two[l-2]*2 + l) % 3
				}
				both := []int32{int32(one[l]), int32(4 + two[l])}
				if rng.IntN(2) == 0 {
					slices.Reverse(both)
				}
				d.Experts = append(d.Experts, both...)
			}
		}
		out = append(out, d)
	}
	h := header()
	h.LogitLayers, h.InputLayers = nil, nil
	return speculate.Slice(h, out)
}

func chainParts() speculate.Parts {
	return speculate.Parts{Train: plantChain(20, 40, 1), Valid: plantChain(6, 40, 2), Test: plantChain(20, 30, 3)}
}

var smallLSTM = RecurrentConfig{Name: "lstm", Width: 20, Depth: 2, Context: 3}

func TestRecurrent(t *testing.T) {
	ps := chainParts()
	hs := speculate.LayersAhead(2, 1)
	o := Options{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 6400, Batch: 16, ValidTokens: 100, Checks: 2, Rate: .01}
	p, err := TrainRecurrent(context.Background(), smallLSTM, ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: hs, Resamples: -1}, p)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := r.Recall("lstm", hs[0])
	one, _ := r.Recall("lstm", hs[1])
	// At h=1, layer 1's second expert is open: (3 + 2/3) of 4 layers.
	if two < .97 || one < .88 || one > .96 {
		t.Errorf("recall %.3f one layer ahead, %.3f two", one, two)
	}
	if i := p.Info(); math.Abs(i.RecallK-(3*two+4*one)/7) > .03 || i.Loss > 1.2 || i.Tokens != 6400 {
		t.Errorf("%+v where it was trained; recall %.3f and %.3f where it is executed", i, one, two)
	}
	for doc, err := range ps.Test.Documents() {
		if err != nil {
			t.Fatal(err)
		}
		if err := speculate.CheckCausality(p, ps.Test.Header, doc, hs, 30, 1); err != nil {
			t.Error(err)
		}
		if err := speculate.CheckStepwise(p, ps.Test.Header, doc, hs, 1, 0); err != nil {
			t.Error(err)
		}
		break
	}
}

// What is executed is what is trained, and what is saved is what is loaded. The
// graph is asked with its initial weights, some experts missing.
func TestRecurrentExecutionEqualsGraph(t *testing.T) {
	ps := chainParts()
	for doc := range ps.Valid.Documents() {
		for i := 0; i < len(doc.Experts); i += 7 {
			doc.Experts[i] = trace.NoExpert
		}
		doc.Experts[2*tL*tK], doc.Experts[2*tL*tK+1] = trace.NoExpert, trace.NoExpert
	}
	o := Options{Backend: backend(t), Horizons: speculate.LayersAhead(3, 1), Seed: 4, Tokens: 64, Batch: 24, ValidTokens: 48}.withDefaults()
	for _, cfg := range []RecurrentConfig{smallLSTM, {Name: "shallow lstm", Width: 9, Depth: 1, Context: 1}, {Name: "long lstm", Width: 8, Depth: 3, Context: tL + 2}} {
		tr, err := newRecurrentTrainer(context.Background(), cfg, ps.Train, ps.Valid, o)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.close()
		for _, q := range tr.loop.params {
			for i := range q.value { // zeros would hide a mix-up
				q.value[i] += float32(i%11-5) / 64
			}
		}
		l, err := newLoop(plan{name: cfg.Name, heads: len(tr.heads), steps: 1, params: tr.loop.params}, tr, o)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		pts := tr.valid[:24]
		c := tr.choices(len(pts))
		tr.read(pts, c)
		_, y, err := l.infer(c)
		if err != nil {
			t.Fatal(err)
		}
		p := assembleRecurrent(cfg, tr.shape, o.Horizons, l.weights(), Info{Seed: 9})
		again := savedAndLoaded(t, p)
		for n, h := range o.Horizons {
			for l := h.Layers; l < tL; l++ {
				for b, pt := range pts {
					views := []speculate.View{pt.views.At(pt.t, l, h)}
					s, out, second := p.scratch(), make([]float32, tE), make([]float32, tE)
					p.forward(&p.cells[n], s, views)
					for e := range tE {
						want := y[((n*tr.rows+l-h.Layers)*len(pts)+b)*tE+e]
						if d := s.z[e] - want; d > 1e-5 || d < -1e-5 {
							t.Fatalf("%s: %v, layer %d, point %d, expert %d: %g in Go, %g in the graph", cfg.Name, h, l, b, e, s.z[e], want)
						}
					}
					if p.Predict(views, out) != nil || again.Predict(views, second) != nil || !slices.Equal(out, second) {
						t.Fatalf("%s: %v became %v", cfg.Name, out, second)
					}
				}
			}
		}
	}
}

func savedAndLoaded(t *testing.T, p *Recurrent) *Recurrent {
	t.Helper()
	dir := t.TempDir()
	if err := speculate.SaveAll(dir, nil, p); err != nil {
		t.Fatal(err)
	}
	loaded, _, err := LoadAll(os.DirFS(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	again := loaded[0].(*Recurrent)
	if again.Info() != p.Info() || again.Config() != p.Config() {
		t.Errorf("%+v, %+v came back", again.Info(), again.Config())
	}
	return again
}

func TestRecurrentResumes(t *testing.T) {
	ps := chainParts()
	o := Options{Backend: backend(t), Horizons: speculate.LayersAhead(2, 1), Seed: 4, Tokens: 640, Batch: 32, Accumulate: 2, ValidTokens: 64, Checks: 4}
	whole, err := TrainRecurrent(context.Background(), smallLSTM, ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.Resume, o.Progress = t.TempDir(), func(p Progress) {
		if p.Step == 10 {
			cancel()
		}
	}
	if _, err := TrainRecurrent(ctx, smallLSTM, ps.Train, ps.Valid, o); err == nil {
		t.Fatal("not stopped")
	}
	again, err := TrainRecurrent(context.Background(), smallLSTM, ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range whole.weights {
		if !slices.Equal(x, again.weights[name]) {
			t.Errorf("%s differs once resumed", name)
		}
	}
}

// Fit trains the network where it is named, for the horizons that it knows.
func TestFitRecurrent(t *testing.T) {
	ps := chainParts()
	hs := []speculate.Horizon{{KnownID: true}, {Layers: 1}}
	o := CompareOptions{Recurrent: smallLSTM, Only: []string{"lstm", "frequency"}, Train: Options{Backend: backend(t), Horizons: hs, Tokens: 64, Batch: 32, ValidTokens: 32, Checks: 1}}
	c, err := Compare(context.Background(), ps, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Results.Recall("lstm", hs[1]); !ok || c.Costs["lstm"].Parameters == 0 {
		t.Errorf("no lstm in %v", c.Results.Predictors)
	}
	if _, ok := c.Results.Recall("lstm", hs[0]); ok {
		t.Error("lstm scored where it knows nothing")
	}
	o.Only, o.Configs = nil, []Config{}
	if c, err = Fit(context.Background(), ps.Train, ps.Valid, o); err != nil || slices.ContainsFunc(c.Predictors, func(p speculate.Predictor) bool { return p.Name() == "lstm" }) {
		t.Errorf("an lstm that nobody asked for, %v", err)
	}
}

func TestRecurrentRefuses(t *testing.T) {
	ps, b := chainParts(), backend(t)
	ctx := context.Background()
	for name, c := range map[string]struct {
		cfg RecurrentConfig
		o   Options
	}{
		"token":      {smallLSTM, Options{Backend: b, Horizons: []speculate.Horizon{{Layers: 1}, {}}}},
		"no layers":  {RecurrentConfig{Name: "x", Width: 3, Context: 1}, Options{Backend: b, Horizons: speculate.LayersAhead(1)}},
		"no backend": {smallLSTM, Options{Horizons: speculate.LayersAhead(1)}},
		"parts":      {smallLSTM, Options{Backend: b, Horizons: speculate.LayersAhead(1), Batch: 30, Accumulate: 4}},
	} {
		if _, err := TrainRecurrent(ctx, c.cfg, ps.Train, ps.Valid, c.o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s := speculate.Shape{Layers: tL, Experts: tE, TopK: tK}
	w := map[string][]float32{}
	for _, p := range newRecurrentParams(smallLSTM, s, 1, 1) {
		w[p.name] = p.value
	}
	dir := t.TempDir()
	if err := speculate.SaveAll(dir, nil, assembleRecurrent(smallLSTM, s, speculate.LayersAhead(1), w, Info{})); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lstm.safetensors")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"width":    {`\"width\":20`, `\"width\":21`},
		"depth":    {`\"depth\":2`, `\"depth\":3`},
		"no depth": {`\"depth\":2`, `\"depth\":0`},
		"horizon":  {`[{\"layers\":1}]`, `[{\"layers\":0}]`},
		"none":     {`[{\"layers\":1}]`, `[              ]`},
		"tensor":   {`"out.bias"`, `"out.bios"`},
	} {
		bad := bytes.Replace(good, []byte(c[0]), []byte(c[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadAll(os.DirFS(dir), nil); err == nil || !strings.Contains(err.Error(), "lstm.safetensors") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkRecurrentTraining is of a step on 16 tokens, 15 target layers each,
// of the embedded model's shape, of the LSTM at one distance.
func BenchmarkRecurrentTraining(b *testing.B) {
	d := bigChain(64)
	be := backend(b)
	o := Options{Backend: be, Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 16, Batch: 16, ValidTokens: 16}.withDefaults()
	tr, err := newRecurrentTrainer(context.Background(), LSTM(), d, d, o)
	if err != nil {
		b.Fatal(err)
	}
	defer tr.close()
	c := tr.batch()
	if _, err := tr.fill(c); err != nil {
		b.Fatal(err)
	}
	step := func() {
		if _, err := tr.loop.one(0, tr.inputs(c)); err != nil {
			b.Fatal(err)
		}
	}
	step() // compiles
	for b.Loop() {
		step()
	}
	b.ReportMetric(16*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// BenchmarkRecurrentDecision is of the LSTM on one view, and on a document's.
func BenchmarkRecurrentDecision(b *testing.B) {
	d := bigChain(64)
	s := speculate.ShapeOf(d.Header.Model)
	w := map[string][]float32{}
	for _, p := range newRecurrentParams(LSTM(), s, 1, 1) {
		w[p.name] = p.value
	}
	p := assembleRecurrent(LSTM(), s, speculate.LayersAhead(1), w, Info{})
	var all []speculate.View
	for doc := range d.Documents() {
		v, err := speculate.NewViews(d.Header, doc)
		if err != nil {
			b.Fatal(err)
		}
		for t := range doc.Tokens {
			all = append(all, v.At(t, 9, speculate.Horizon{Layers: 1}))
		}
	}
	for _, n := range []int{1, len(all)} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			out := make([]float32, n*s.Experts)
			for b.Loop() {
				if err := p.Predict(all[:n], out); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N*n), "us/decision")
		})
	}
}

// bigChain is a document of random routing of the embedded model's shape.
func bigChain(tokens int) speculate.Data {
	rng := rand.New(rand.NewPCG(1, 2))
	h := trace.Header{Model: trace.Model{Layers: 16, Experts: 8, TopK: 2}}
	doc := &trace.Document{Tokens: make([]int32, tokens)}
	for range tokens * 16 {
		e := rng.Perm(8)
		doc.Experts = append(doc.Experts, int32(e[0]), int32(e[1]))
	}
	return speculate.Slice(h, []*trace.Document{doc})
}
