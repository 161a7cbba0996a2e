package speculate

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// fitted returns all predictors, fitted once for all tests, and documents to
// fit and to test on.
func fitted(t *testing.T) ([]Predictor, Data, Data) {
	t.Helper()
	ps, err := fitOnce()
	if err != nil {
		t.Fatal(err)
	}
	h := testHeader()
	return slices.Clone(ps), Slice(h, testDocs(40, 60, 1)), Slice(h, testDocs(30, 50, 3))
}

var fitOnce = sync.OnceValues(func() ([]Predictor, error) {
	h := testHeader()
	train, valid := Slice(h, testDocs(40, 60, 1)), Slice(h, testDocs(24, 50, 2))
	ps, err := Baselines(ShapeOf(h.Model), testGates())
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := Fit(ctx, train, FitOptions{Horizons: testHorizons}, ps...); err != nil {
		return nil, err
	}
	ps, err = Calibrate(ctx, valid, EvaluateOptions{Horizons: testHorizons}, ps...)
	if err != nil {
		return nil, err
	}
	en, err := FitEnsemble(ctx, "ensemble", valid, EvaluateOptions{Horizons: testHorizons}, ps[:len(ps)-1]...)
	if err != nil {
		return nil, err
	}
	return append(ps, en.Calibrated()), nil
})

// Every predictor keeps to its view, and answers step by step as it does for a
// whole document.
func TestCausalityAndStepwise(t *testing.T) {
	ps, _, test := fitted(t)
	doc := testDocs(1, 40, 9)[0]
	for _, p := range ps {
		if _, ok := p.(Oracle); ok {
			continue
		}
		if err := CheckCausality(p, test.Header, doc, testHorizons, 60, 5); err != nil {
			t.Error(err)
		}
		if err := CheckStepwise(p, test.Header, doc, testHorizons, 1, 0); err != nil {
			t.Error(err)
		}
	}
}

// cheat reads past what it should, through the view and around it.
type cheat struct{ read func(v View) float32 }

func (cheat) Name() string           { return "cheat" }
func (cheat) Requires() Requirements { return Requirements{History: -1} }
func (cheat) Supports(Horizon) bool  { return true }
func (c cheat) Predict(vs []View, out []float32) error {
	clear(out)
	for i, v := range vs {
		out[i*tE] = c.read(v)
	}
	return nil
}

func TestCheckCausalityFindsCheats(t *testing.T) {
	doc := testDocs(1, 40, 9)[0]
	err := CheckCausality(cheat{func(v View) float32 { return v.seq.inputs[(v.t*tL+v.l)*tD] }}, testHeader(), doc, testHorizons, 20, 1)
	if err == nil {
		t.Fatal("a predictor that reads the answer's router input passed")
	}
	ok := cheat{func(v View) float32 {
		if v.Input(v.t, v.l) != nil || v.Experts(v.t+1, 0) != nil || v.Logits(v.t, tL-1) != nil {
			return 1
		}
		if s := v.Experts(v.t-1, tL-1); cap(s) > tK {
			return 2
		}
		return 0
	}}
	if err := CheckCausality(ok, testHeader(), doc, testHorizons, 20, 1); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, tE)
	for _, hz := range testHorizons {
		if err := askOne(ok, testHeader(), doc, 20, 3, hz, out); err != nil || out[0] != 0 {
			t.Fatalf("%v: a view showed what is not known yet (%v, %v)", hz, out[0], err)
		}
	}
}

func TestViewShowsWhatIsKnown(t *testing.T) {
	h := testHeader()
	seq, _ := newSequence(h)
	doc := testDocs(1, 12, 4)[0]
	if err := seq.setDocument(doc); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		h      Horizon
		layers int // of token 7 known when layer 3 is asked for
		id     bool
	}{{Horizon{Layers: 1}, 3, true}, {Horizon{Layers: 2}, 2, true}, {Horizon{}, 0, false}, {Horizon{KnownID: true}, 0, true}} {
		v := seq.view(7, 3, c.h)
		for l := range tL {
			if got := v.Experts(7, l) != nil; got != (l < c.layers) {
				t.Errorf("%v: layer %d visible: %v", c.h, l, got)
			}
		}
		if x := v.Input(6, tL-1); !slices.Equal(x, doc.RouterInput[(6*tL+tL-1)*tD:7*tL*tD]) {
			t.Errorf("%v: the token before is not shown", c.h)
		}
		if id, ok := v.ID(7); ok != c.id || ok && id != doc.Tokens[7] {
			t.Errorf("%v: id %d, %v", c.h, id, ok)
		}
		if _, ok := v.ID(8); ok {
			t.Errorf("%v: the next token's id is shown", c.h)
		}
	}
}

func TestEvaluate(t *testing.T) {
	ps, _, test := fitted(t)
	ctx := context.Background()
	o := EvaluateOptions{Horizons: testHorizons, Workers: 1, Seed: 3}
	one, err := Evaluate(ctx, test, o, ps...)
	if err != nil {
		t.Fatal(err)
	}
	o.Workers = 3
	three, err := Evaluate(ctx, test, o, ps...)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(one)
	b, _ := json.Marshal(three)
	if !bytes.Equal(a, b) {
		t.Error("the results depend on the number of workers")
	}
	h1, h2 := Horizon{Layers: 1}, Horizon{Layers: 2}
	get := func(n string, h Horizon) float64 {
		r, ok := one.Recall(n, h)
		if !ok {
			t.Fatalf("no %s at %v", n, h)
		}
		return r
	}
	if get("oracle", h1) != 1 {
		t.Error("the oracle is not perfect")
	}
	if f, g1, g2 := get("frequency", h1), get("gate reuse", h1), get("gate reuse", h2); !(f+.1 < g2 && g2 < g1) {
		t.Errorf("frequency %.3f, gate reuse %.3f at 1 and %.3f at 2: want rising towards the layer", f, g1, g2)
	}
	if e, g := get("ensemble", h1), get("gate reuse", h1); e < g-.01 {
		t.Errorf("ensemble %.3f below its best member %.3f", e, g)
	}
	for _, r := range one.Rows {
		if r.By == "all" && r.Predictor != "oracle" && (r.ECE > .03 || r.RecallKInterval == nil || r.RecallKInterval.Low > r.RecallK || r.RecallKInterval.High < r.RecallK) {
			t.Errorf("%s at %v: recall %.3f in %v, ECE %.3f", r.Predictor, r.Horizon, r.RecallK, r.RecallKInterval, r.ECE)
		}
	}
	if len(one.Find("transition", h2, "layer")) != tL-2 || len(one.Find("transition", h2, "dataset")) != 2 {
		t.Error("rows by layer or data set are missing")
	}
}

// Figures of a prediction worked out by hand.
func TestTally(t *testing.T) {
	var a tally
	order := make([]int32, 5)
	scores := []float32{.1, .9, .3, .7, 0}
	rank(scores, order)
	if !slices.Equal(order, []int32{1, 3, 2, 0, 4}) {
		t.Fatal(order)
	}
	a.observe(scores, order, []int32{3, 2})
	a.observe(scores, order, []int32{1, trace.NoExpert})
	a.observe(scores, order, []int32{trace.NoExpert, trace.NoExpert})
	m := a.metrics(5)
	want := Metrics{Pairs: 2, Top1: .5, TopAny: .5, Exact: .5, AtLeastOne: 1, ECE: m.ECE, Bits: m.Bits, TopBound: m.TopBound,
		Recall: [8]float64{.5, .75, 1, 1, 1, 1, 1, 1}, Precision: [8]float64{.5, .5, .5, 3. / 8, 3. / 10, 3. / 12, 3. / 14, 3. / 16}}
	if m != want {
		t.Errorf("got %+v\nwant %+v", m, want)
	}
	// Named: .9 and .7 at first (miss, hit), .9 afterwards (hit).
	if e := (math.Abs(2*.9-1) + math.Abs(.7-1)) / 3; math.Abs(m.ECE-e) > 1e-6 {
		t.Errorf("ECE %v, want %v", m.ECE, e)
	}
}

// Fano's bound by hand: for n = 2 it is the inverse of the binary entropy.
func TestFanoAccuracy(t *testing.T) {
	for _, c := range []struct {
		bits float64
		n    int
		want float64
	}{{0, 8, 1}, {3, 8, .125}, {9, 8, .125}, {.4689956, 2, .9}, {.7219281 + .2*1.5849625, 4, .8}} { // the last: h2(.2) + .2 log2(3)
		if got := FanoAccuracy(c.bits, c.n); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%v bits over %d: %v, want %v", c.bits, c.n, got, c.want)
		}
	}
}

func TestLeaveOut(t *testing.T) {
	d := Slice(testHeader(), testDocs(6, 3, 1))
	p := LeaveOut(Parts{Train: d, Valid: d, Test: d}, "a")
	for _, c := range []struct {
		d    Data
		want string
	}{{p.Train, "b"}, {p.Valid, "b"}, {p.Test, "a"}} {
		n := 0
		for doc := range c.d.Documents() {
			if n++; doc.Dataset != c.want {
				t.Errorf("a document of %s among those of %s", doc.Dataset, c.want)
			}
		}
		if n != 3 {
			t.Errorf("%d documents of %s, want 3", n, c.want)
		}
	}
}

func TestLogitsToProbabilities(t *testing.T) {
	z := []float32{40, 39.5, -3, 2, 0, 60, -80}
	order, after := make([]int32, len(z)), make([]int32, len(z))
	rank(z, order)
	LogitsToProbabilities(z, 3)
	rank(z, after)
	sum := float32(0)
	for _, p := range z {
		sum += p
	}
	if !slices.Equal(order, after) || math.Abs(float64(sum)-3) > .01 {
		t.Errorf("order %v became %v, sum %v", order, after, sum)
	}
}

func TestSplit(t *testing.T) {
	d := Slice(testHeader(), testDocs(41, 3, 1))
	p, err := Split(d, Fractions{Valid: .2, Test: .3}, 7)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	var n [3]int
	for i, part := range []Data{p.Train, p.Valid, p.Test} {
		for doc, err := range part.Documents() {
			if err != nil {
				t.Fatal(err)
			}
			seen[doc.Dataset+"/"+doc.ID]++
			n[i]++
		}
	}
	if len(seen) != 41 || n[1] != 8 || n[2] != 12 {
		t.Errorf("%d documents in parts of %v", len(seen), n)
	}
	twice := append(testDocs(3, 3, 1), testDocs(1, 3, 1)...)
	if _, err := Split(Slice(testHeader(), twice), Fractions{.2, .2}, 1); err == nil {
		t.Error("a document in two places was split")
	}
}

func TestSessionKeepsAWindow(t *testing.T) {
	h := testHeader()
	p := NewPreviousToken()
	if err := Fit(context.Background(), Slice(h, testDocs(4, 30, 1)), FitOptions{Horizons: testHorizons}, p); err != nil {
		t.Fatal(err)
	}
	doc := testDocs(1, 400, 5)[0]
	if err := CheckStepwise(p, h, doc, testHorizons, 1, 0); err != nil {
		t.Fatal(err)
	}
	s, _ := NewSession(p, h)
	if err := replay(s, h, doc, nil, nil); err != nil {
		t.Fatal(err)
	}
	if n := s.seq.n - s.seq.base; n > 24 {
		t.Errorf("%d tokens held, for a history of 1", n)
	}
}

func TestBadInput(t *testing.T) {
	h := testHeader()
	good := testDocs(1, 9, 1)[0]
	ctx := context.Background()
	for name, spoil := range map[string]func(*trace.Document){
		"experts":      func(d *trace.Document) { d.Experts = d.Experts[1:] },
		"expert":       func(d *trace.Document) { d.Experts = slices.Clone(d.Experts); d.Experts[5] = tE },
		"weights":      func(d *trace.Document) { d.Weights = d.Weights[1:] },
		"logits":       func(d *trace.Document) { d.RouterLogits = d.RouterLogits[1:] },
		"router input": func(d *trace.Document) { d.RouterInput = d.RouterInput[1:] },
	} {
		bad := *good
		spoil(&bad)
		if err := Fit(ctx, Slice(h, []*trace.Document{&bad}), FitOptions{Horizons: testHorizons}, NewFrequency()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Evaluate(ctx, Slice(h, []*trace.Document{good}), EvaluateOptions{Horizons: testHorizons}, NewFrequency()); err == nil {
		t.Error("an unfitted predictor was evaluated")
	}
	if _, err := Evaluate(ctx, Slice(h, nil), EvaluateOptions{Horizons: testHorizons}, Oracle{}); err == nil {
		t.Error("no documents were evaluated")
	}
	h.InputLayers = nil
	g, _ := NewGateReuse(testGates(), ShapeOf(h.Model))
	if _, err := Evaluate(ctx, Slice(h, nil), EvaluateOptions{Horizons: testHorizons}, g); err == nil {
		t.Error("gate reuse without router inputs was evaluated")
	}
}

// Margins by hand, K = 2 of 4: the two likeliest against the third, the others
// against the second. Calibration keeps the order, of near certainties too.
func TestMargins(t *testing.T) {
	s := Shape{Layers: 1, Experts: 4, TopK: 2}
	z := []float64{-1, 2, .5, -3, 4, 4, 1, 1.5}
	p := make([]float32, 8)
	for i, x := range z {
		p[i] = float32(sigmoid(x))
	}
	margins(p, s)
	for i, want := range []float64{-1.5, 3, 1.5, -3.5, 2.5, 2.5, -3, -2.5} {
		if math.Abs(float64(p[i])-want) > 1e-5 {
			t.Errorf("margin %d is %g, want %g", i, p[i], want)
		}
	}
	var g histogram
	for i := range 100000 { // sure from .5 on, as scores trained towards a softmax are
		x := float32(i)/10000 - 5
		g.observe(x, x > .5)
	}
	curve := g.curve()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		p, before, after := make([]float32, 4), make([]int32, 4), make([]int32, 4)
		for i := range p {
			p[i] = float32(sigmoid(rng.NormFloat64() * 3))
		}
		rank(p, before)
		q := slices.Clone(p)
		curve.apply(q, s)
		rank(q, after)
		for i := range 3 { // only next to equal ones may change places
			if before[i] != after[i] && logit(float64(p[before[i]]))-logit(float64(p[before[i+1]])) > .01 {
				t.Fatalf("%v became %v", p, q)
			}
		}
	}
}
