package speculate

import (
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSessionKeepsAWindow(t *testing.T) {
	p := &PreviousToken{}
	require.NoError(t, Fit(t.Context(), testData(4, 30, 1), testHorizons, p))
	doc := testDoc(400, 5)
	require.NoError(t, CheckStepwise(p, testHeader(), doc, testHorizons))
	s, err := NewSession(p, testHeader())
	require.NoError(t, err)
	require.NoError(t, s.Append(doc))
	assert.LessOrEqual(t, s.seq.n-s.seq.base, 24)
}

// A prompt that is appended leads to the answers of whole documents, and so do the
// tokens that follow step by step. Arrays that no predictor requires may be nil.
func TestSessionAppend(t *testing.T) {
	doc := testDoc(30, 5)
	ds, err := decisions(Oracle{}, ShapeOf(testHeader().Model), []Horizon{{}})
	require.NoError(t, err)
	for _, p := range fitted(t) {
		if !p.Supports(Horizon{}) || p == (Oracle{}) {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			want, err := newAsked(p, testHeader(), doc, len(ds))
			require.NoError(t, err)
			prompt := cut(doc, 20)
			if !p.Requires().Logits {
				prompt.RouterLogits = nil
			}
			if !p.Requires().Inputs {
				prompt.RouterInput = nil
			}
			if !p.Requires().Weights {
				prompt.Weights = nil
			}
			s, err := NewSession(p, testHeader())
			require.NoError(t, err)
			require.NoError(t, s.Append(prompt))
			for i, d := range ds {
				require.NoError(t, want.ask(i, d, 20, 21))
				got := make([]float32, tE)
				require.NoError(t, s.PredictScores(d.layer, d.hor, got))
				assert.Equal(t, want.out[i][20*tE:21*tE], got)
			}
		})
	}
}

// cut returns the first n tokens of doc.
func cut(doc *trace.Document, n int) *trace.Document {
	return &trace.Document{Dataset: doc.Dataset, ID: doc.ID, Tokens: doc.Tokens[:n], Experts: doc.Experts[:n*tL*tK], Weights: doc.Weights[:n*tL*tK],
		RouterLogits: doc.RouterLogits[:n*tL*tE], RouterInput: doc.RouterInput[:n*tL*tD]}
}

// needs requires what its fields say.
type needs struct {
	Frequency
	r Requirements
}

func (n *needs) Requires() Requirements { return n.r }

// A session needs of a token what its predictor requires, and no more.
func TestSessionRequires(t *testing.T) {
	full := Routing{Experts: []int32{0, 1, 2}, Weights: make([]float32, tK), Logits: make([]float32, tE), Input: make([]float32, tD)}
	experts := Routing{Experts: full.Experts}
	for _, c := range []struct {
		r    Requirements
		says string
	}{
		{Requirements{}, ""},
		{Requirements{TokenIDs: true}, ""},
		{Requirements{Weights: true}, "got 0 weights, expected 3"},
		{Requirements{Logits: true}, "got 0 router logits, expected 7"},
		{Requirements{Inputs: true}, "got 0 router input values, expected 11"},
	} {
		s, err := NewSession(&needs{r: c.r}, testHeader())
		require.NoError(t, err)
		require.NoError(t, s.Begin(trace.NoToken))
		err = s.Observe(experts)
		doc := cut(testDoc(3, 1), 3)
		doc.Weights, doc.RouterLogits, doc.RouterInput = nil, nil, nil
		if c.says == "" {
			assert.NoError(t, err, "%+v", c.r)
		} else {
			assert.ErrorContains(t, err, "token 0, layer 0: "+c.says)
			require.NoError(t, s.Observe(full))
			fresh, err := NewSession(&needs{r: c.r}, testHeader())
			require.NoError(t, err)
			assert.Error(t, fresh.Append(doc))
			assert.Zero(t, fresh.seq.n, "an invalid document was observed in part")
		}
		// What is not required is not kept.
		assert.Equal(t, c.r.Logits, len(s.seq.logits) > 0)
		assert.Equal(t, c.r.Inputs, len(s.seq.inputs) > 0)
		assert.Equal(t, c.r.Weights, len(s.seq.weights) > 0)
		assert.ErrorContains(t, s.Append(testDoc(2, 1)), "after 1 of 5 layers")
		assert.ErrorContains(t, s.Begin(1), "after 1 of 5 layers")
	}
	s, err := NewSession(&Frequency{}, testHeader())
	require.NoError(t, err)
	assert.ErrorContains(t, s.Observe(full), "before a token began")
	assert.ErrorContains(t, s.Begin(tV), "got id 23")
	require.NoError(t, s.Begin(1))
	assert.ErrorContains(t, s.Observe(Routing{Experts: []int32{0, 1, tE}}), "got expert 7")
	h := testHeader()
	h.LogitLayers = h.LogitLayers[1:]
	_, err = NewSession(&needs{r: Requirements{Logits: true}}, h)
	assert.ErrorContains(t, err, "4 of 5 layers")
}

// Documents that Validate refuses, that occur twice, or that are empty, and
// predictors that cannot answer.
func TestBadInput(t *testing.T) {
	ctx, fit, o := t.Context(), testHorizons, EvaluateOptions{Horizons: testHorizons}
	nan := float32(0)
	nan /= nan
	for name, spoil := range map[string]func(*trace.Document){
		"Experts holds":                            func(d *trace.Document) { d.Experts = d.Experts[1:] },
		"Weights holds":                            func(d *trace.Document) { d.Weights = d.Weights[1:] },
		"RouterLogits holds":                       func(d *trace.Document) { d.RouterLogits = d.RouterLogits[1:] },
		"RouterInput holds":                        func(d *trace.Document) { d.RouterInput = d.RouterInput[1:] },
		"token 1, layer 2":                         func(d *trace.Document) { d.Experts[(tL+2)*tK] = tE },
		"token 2, layer 0: weight NaN":             func(d *trace.Document) { d.Weights[2*tL*tK] = nan },
		"token 2, layer 3: router logit 4 is NaN":  func(d *trace.Document) { d.RouterLogits[(2*tL+3)*tE+4] = nan },
		"token 3, layer 1: router input 10 is NaN": func(d *trace.Document) { d.RouterInput[(3*tL+1)*tD+10] = nan },
		"no tokens":                                func(d *trace.Document) { *d = trace.Document{Dataset: d.Dataset, ID: d.ID} },
	} {
		docs := testRouter.Documents(3, 9, 1)
		spoil(docs[2])
		d := Slice(testHeader(), docs)
		_, evaluate := Evaluate(ctx, d, o, fitted(t)...)
		_, calibrate := Calibrate(ctx, d, o, fitted(t)...)
		_, ensemble := FitEnsemble(ctx, "ensemble", d, o, fitted(t)[:2]...)
		_, views := NewViews(d.Header, docs[2])
		for i, err := range []error{Fit(ctx, d, fit, &Frequency{}), evaluate, calibrate, ensemble, views} {
			assert.ErrorContains(t, err, name, i)
			assert.ErrorContains(t, err, `document "doc-002" of data set "a"`, i)
		}
	}
	docs := testRouter.Documents(2, 9, 1)
	twice := Slice(testHeader(), append(docs, docs[0]))
	_, evaluate := Evaluate(ctx, twice, o, fitted(t)...)
	_, calibrate := Calibrate(ctx, twice, o, fitted(t)...)
	_, held := twice.InMemory(ctx, 1<<20)
	for i, err := range []error{Fit(ctx, twice, fit, &Frequency{}), evaluate, calibrate, held} {
		assert.ErrorContains(t, err, `document "doc-000" of data set "a" occurs twice`, i)
	}
	_, err := Evaluate(ctx, testData(1, 9, 1), o, &Frequency{})
	assert.ErrorContains(t, err, "frequency at h=1, layer 1: not fitted")
	_, err = Evaluate(ctx, Slice(testHeader(), nil), o, Oracle{})
	assert.ErrorContains(t, err, "no tokens")
	h := testHeader()
	h.InputLayers = nil
	g, err := newGateReuse(testGates, ShapeOf(h.Model))
	require.NoError(t, err)
	_, err = Evaluate(ctx, Slice(h, nil), o, g)
	assert.ErrorContains(t, err, "gate reuse")
}

// A predictor whose answers are not probabilities is named, with the place.
func TestEvaluateRefusesScores(t *testing.T) {
	nan := float32(0)
	nan /= nan
	for _, x := range []float32{nan, -.1, 1.5, 1 / (nan - nan)} {
		p := &predict{"", func(views []View, out []float32) {
			for i, v := range views {
				if v.Token() == 3 && v.Layer() == 2 {
					out[i*tE+5] = x
				}
			}
		}}
		d, o := testData(3, 9, 1), EvaluateOptions{Horizons: LayersAhead(2)}
		_, evaluate := Evaluate(t.Context(), d, o, &needsNothing{p})
		_, calibrate := Calibrate(t.Context(), d, o, p)
		_, ensemble := FitEnsemble(t.Context(), "ensemble", d, o, p)
		for i, err := range []error{evaluate, calibrate, ensemble} {
			assert.ErrorContains(t, err, "function at h=2, layer 2: token 3, expert 5: got probability ", i)
		}
	}
}

// TestEvaluatePanic evaluates a predictor that panics, in goroutines of Evaluate.
func TestEvaluatePanic(t *testing.T) {
	p := &predict{"", func(views []View, _ []float32) { panic("boom") }}
	_, err := Evaluate(t.Context(), testData(3, 9, 1), EvaluateOptions{Horizons: LayersAhead(2)}, p)
	assert.ErrorContains(t, err, "function at h=2, layer 2: panic: boom")
	assert.ErrorContains(t, err, "session_test.go")
}

// needsNothing hides what a predictor is.
type needsNothing struct{ Predictor }

// The cost of Document.Validate in an evaluation of the predictors that count.
func BenchmarkEvaluate(b *testing.B) {
	h := trace.Header{Model: trace.Model{Name: "large", Layers: 32, Experts: 8, TopK: 2, Stacks: []trace.Stack{{Name: "decoder", Layers: 32}}}}
	for l := range 32 {
		h.LogitLayers = append(h.LogitLayers, l)
	}
	r := &tracetest.Router{Header: h, Rule: tracetest.Random(1)}
	docs := r.Documents(8, 512, 1)
	ps := []Predictor{&Frequency{}}
	if err := Fit(b.Context(), Slice(h, docs), LayersAhead(1), ps...); err != nil {
		b.Fatal(err)
	}
	b.Run("evaluate", func(b *testing.B) {
		for b.Loop() {
			if _, err := Evaluate(b.Context(), Slice(h, docs), EvaluateOptions{Horizons: LayersAhead(1), Resamples: -1, Workers: 1}, ps...); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		for b.Loop() {
			for _, d := range docs {
				if err := d.Validate(&h); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
