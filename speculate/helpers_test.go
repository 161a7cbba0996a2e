package speculate

import (
	"context"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/require"
)

// Every axis has a length of its own.
const (
	tL, tE, tK, tD, tV = 5, 7, 3, 11, 23
)

var testHorizons = append(LayersAhead(1, 2), Horizon{}, Horizon{KnownID: true})

// testRouter is a model whose router input drifts from layer to layer and starts
// from the token's id.
var testRouter, testGates = func() (*tracetest.Router, *Gates) {
	h := trace.Header{Model: trace.Model{Name: "test", Layers: tL, Experts: tE, TopK: tK, Hidden: tD, Vocabulary: tV,
		Stacks: []trace.Stack{{Name: "decoder", Layers: tL}}}}
	for l := range tL {
		h.LogitLayers = append(h.LogitLayers, l)
		h.InputLayers = append(h.InputLayers, l)
	}
	rule, gates := tracetest.Linear(h.Model, 3)
	return &tracetest.Router{Header: h, Rule: rule}, &Gates{Layers: tL, Experts: tE, Hidden: tD, Weights: gates}
}()

func testHeader() trace.Header { return testRouter.Header }

// testData returns n documents.
func testData(n, tokens int, seed uint64) Data {
	return Slice(testHeader(), testRouter.Documents(n, tokens, seed))
}

func testDoc(tokens int, seed uint64) *trace.Document {
	return testRouter.Documents(1, tokens, seed)[0]
}

// fitted returns all predictors, fitted once for all tests, the ensemble last.
func fitted(t *testing.T) []Predictor {
	t.Helper()
	ps, err := fitOnce()
	require.NoError(t, err)
	return append([]Predictor{}, ps...)
}

var fitOnce = sync.OnceValues(func() ([]Predictor, error) {
	ctx, o := context.Background(), EvaluateOptions{Horizons: testHorizons}
	train, valid := testData(40, 60, 1), testData(24, 50, 2)
	ps, err := Baselines(ShapeOf(train.Header.Model), testGates)
	if err != nil {
		return nil, err
	}
	if err := Fit(ctx, train, testHorizons, ps...); err != nil {
		return nil, err
	}
	if ps, err = Calibrate(ctx, valid, o, ps...); err != nil {
		return nil, err
	}
	en, err := FitEnsemble(ctx, "ensemble", valid, o, ps[:len(ps)-1]...)
	if err != nil {
		return nil, err
	}
	return append(ps, en.Calibrated()), nil
})
