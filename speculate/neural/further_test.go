package neural

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
)

// A limit of time ends a training whose steps would take longer, and changes
// nothing of one whose steps do not.
func TestLimit(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 100, Gates: g}
	train := func() *MLP {
		p, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, ps.Valid, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	whole := train()
	o.Limit = time.Hour
	for name, x := range train().weights {
		if !slices.Equal(x, whole.weights[name]) {
			t.Errorf("%s differs under a limit of an hour", name)
		}
	}
	o.Limit, o.Tokens = time.Nanosecond, 1<<40
	if n := train().Info().Tokens; n != 64 {
		t.Errorf("%d tokens in a nanosecond, want one step of 64", n)
	}
	o.Resume = t.TempDir()
	if _, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, ps.Valid, o); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a limit and resuming: %v", err)
	}
}

// A transformer goes on from another: with no learning rate to speak of it stays
// what it was, and one of another form is refused.
func TestStart(t *testing.T) {
	h, hs := header(), speculate.LayersAhead(1, 2)
	train, valid := speculate.Slice(h, recalled(16, 16, 1)), speculate.Slice(h, recalled(8, 16, 100))
	_, g := plant(1, 1, 1)
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 512, Batch: 64, Patience: 9, Gates: g}
	first, err := TrainTransformer(context.Background(), tiny(true), train, valid, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Start, o.Rate, o.Seed = first, 1e-30, 5
	again, err := TrainTransformer(context.Background(), tiny(true), train, valid, o)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range again.weights {
		if !slices.Equal(x, first.weights[name]) {
			t.Errorf("%s moved", name)
		}
	}
	if a, b := first.Info(), again.Info(); b.Tokens != 2*a.Tokens || b.Seconds <= a.Seconds {
		t.Errorf("trained on %d tokens in %g s, and then in all on %d in %g s", a.Tokens, a.Seconds, b.Tokens, b.Seconds)
	}
	for name, change := range map[string]func(c *TransformerConfig, o *TrainOptions){
		"width":    func(c *TransformerConfig, _ *TrainOptions) { c.HeadWidth = 16 },
		"horizons": func(_ *TransformerConfig, o *TrainOptions) { o.Horizons = hs[:1] },
	} {
		c, o := tiny(true), o
		change(&c, &o)
		if _, err := TrainTransformer(context.Background(), c, train, valid, o); err == nil || !strings.Contains(err.Error(), "go on from") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Networks of an earlier training join the ensemble of a new one, calibrated;
// transformers that are wanted are trained further.
func TestTrained(t *testing.T) {
	ps, g := parts(t)
	ctx := context.Background()
	c := CompareOptions{Only: []string{"hidden state", "tiny"}, Transformers: []TransformerConfig{tiny(true)}, MLPs: []MLPConfig{HiddenState(8)},
		Train: TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 1280, Batch: 64, Patience: 9, Gates: g}}
	old, err := Fit(ctx, ps.Train, ps.Valid, c)
	if err != nil {
		t.Fatal(err)
	}
	c.Trained, c.Only = old.Networks, []string{"tiny", "frequency", "ensemble"}
	made, err := Fit(ctx, ps.Train, ps.Valid, c)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range made.Predictors {
		names = append(names, p.Name())
		if _, ok := p.(*speculate.Calibrated); !ok && p.Name() != "ensemble" {
			t.Errorf("%s is not calibrated", p.Name())
		}
	}
	slices.Sort(names)
	if want := []string{"ensemble", "frequency", "hidden state", "tiny"}; !slices.Equal(names, want) {
		t.Errorf("predictors %q, want %q", names, want)
	}
	for _, n := range made.Networks {
		was := old.Networks[slices.IndexFunc(old.Networks, func(m Network) bool { return m.Name() == n.Name() })]
		if times := n.Info().Tokens / was.Info().Tokens; times != map[string]int64{"tiny": 2, "hidden state": 1}[n.Name()] {
			t.Errorf("%s trained on %d times the tokens", n.Name(), times)
		}
	}
	r, err := speculate.Evaluate(ctx, ps.Test, speculate.EvaluateOptions{Horizons: c.Train.Horizons}, made.Predictors...)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Rows {
		if row.By == "all" && row.Predictor == "ensemble" && (row.ECE > .06 || math.IsNaN(row.ECE)) {
			t.Errorf("ensemble with an ECE of %.3f", row.ECE)
		}
	}
	c.Only = []string{"hidden state"}
	if _, err := Fit(ctx, ps.Train, ps.Valid, c); err == nil || !strings.Contains(err.Error(), "hidden state") {
		t.Errorf("given and to be trained: %v", err)
	}
	c.Trained, c.Only = append(old.Networks, old.Networks...), []string{"frequency"}
	if _, err := Fit(ctx, ps.Train, ps.Valid, c); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("given twice: %v", err)
	}
}

// Without documents to choose on there is an error, of every kind of network.
func TestNoValidation(t *testing.T) {
	ps, g := parts(t)
	none := speculate.Slice(header(), nil)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: 64, Batch: 64, Gates: g}
	if _, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, none, o); err == nil {
		t.Error("a network: no error")
	}
	if _, err := TrainTransformer(context.Background(), tiny(true), ps.Train, none, o); err == nil {
		t.Error("a transformer: no error")
	}
}

// A router-logit transformer that starts from a routing transformer answers as
// that one until it has learned more.
func TestStartWider(t *testing.T) {
	h, hs := header(), speculate.LayersAhead(1, 2)
	docs := recalled(16, 16, 1)
	data := speculate.Slice(h, docs)
	c := CompareOptions{Only: []string{"tiny"}, Transformers: []TransformerConfig{tiny(false)},
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 512, Batch: 64, Patience: 9, Rate: .01}}
	old, err := Fit(context.Background(), data, data, c)
	if err != nil {
		t.Fatal(err)
	}
	wide := tiny(false)
	wide.Name, wide.Logits = "wide", true
	c.Trained, c.Only, c.Transformers, c.Train.Rate = old.Networks, []string{"wide"}, []TransformerConfig{wide}, 1e-30
	made, err := Fit(context.Background(), data, data, c)
	if err != nil {
		t.Fatal(err)
	}
	views, err := speculate.NewViews(h, docs[3])
	if err != nil {
		t.Fatal(err)
	}
	a, b := make([]float32, tE), make([]float32, tE)
	for tok := range docs[3].Tokens {
		for l := 1; l < tL; l++ {
			v := []speculate.View{views.At(tok, l, hs[0])}
			for i, p := range []Network{made.Networks[1], made.Networks[0]} { // the wide one was trained first
				if err := p.Predict(v, [][]float32{a, b}[i]); err != nil {
					t.Fatal(err)
				}
			}
			for e := range a {
				if math.Abs(float64(a[e]-b[e])) > .01 || made.Networks[0].Name() != "wide" {
					t.Fatalf("%s says %v, %s %v", made.Networks[0].Name(), b, made.Networks[1].Name(), a)
				}
			}
		}
	}
}
