package neural

import (
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model of an encoder and a decoder; every axis has a length of its own.
const sEnc, sL, sE, sD, sV = 2, 5, 6, 8, 13

// stacks returns the parts of a trace of two stacks, with documents of one stack
// alone among them, and the routers.
func stacks() (speculate.Parts, *speculate.Gates) {
	h := trace.Header{Model: trace.Model{Name: "stacks", Layers: sL, Experts: sE, TopK: 1, Hidden: sD, Vocabulary: sV,
		Stacks: []trace.Stack{{Name: trace.Encoder, Layers: sEnc}, {Name: trace.Decoder, Layers: sL - sEnc}}}, Dropped: true}
	h.LogitLayers, h.InputLayers = h.Model.AllLayers(), h.Model.AllLayers()
	rule, gates := tracetest.Linear(h.Model, 3)
	r := tracetest.Router{Header: h, Rule: rule, Prompt: 23, Capacity: 4}
	data := func(n int, seed uint64) speculate.Data {
		docs := r.Documents(n, 40, seed)
		docs = append(docs, r.Document("a", "encoder alone", docs[0].Tokens[:9]))
		return speculate.Slice(h, docs)
	}
	return speculate.Parts{Train: data(24, 1), Valid: data(8, 2), Test: data(12, 3)},
		&speculate.Gates{Layers: sL, Experts: sE, Hidden: sD, Weights: gates}
}

// Perceptrons learn both stacks and read only their view.
func TestStacks(t *testing.T) {
	ps, g := stacks()
	hs := append(speculate.LayersAhead(1, 2), speculate.Horizon{}, speculate.Horizon{KnownID: true})
	c, err := Compare(t.Context(), ps, CompareOptions{
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 6000, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .015, Gates: g},
		MLPs:  MLPConfigs(24, ps.Train.Header, g),
	})
	require.NoError(t, err)
	recall := func(name, stack string) float64 {
		sum, n := 0., 0.
		for _, x := range c.Results.Find(name, hs[0], "layer") {
			if x.Stack == stack {
				sum, n = sum+x.RecallK, n+1
			}
		}
		require.Positive(t, n, name)
		return sum / n
	}
	for _, stack := range []string{trace.Encoder, trace.Decoder} {
		freq, gate := recall("frequency", stack), recall("gate reuse", stack)
		for _, name := range []string{"inter-layer", "statistics-aware", "router logits", "hidden state", "corrected gate", "ensemble"} {
			assert.Greater(t, recall(name, stack), freq+.1, "%s in the %s", name, stack)
		}
		assert.Greater(t, recall("hidden state", stack), gate-.1, stack)
	}
	h := ps.Train.Header
	dir := t.TempDir()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: c.Predictors}))
	set, err := LoadAll(os.DirFS(dir), g, nil)
	require.NoError(t, err)
	require.Equal(t, len(c.Predictors), len(set.Predictors))
	var doc *trace.Document
	for d, err := range ps.Test.Documents() {
		require.NoError(t, err)
		doc = d
		break
	}
	for _, p := range set.Predictors {
		assert.NoError(t, speculate.CheckCausality(p, h, doc, hs), p.Name())
		assert.NoError(t, speculate.CheckStepwise(p, h, doc, hs), p.Name())
	}
	loaded, err := speculate.Evaluate(t.Context(), ps.Test, speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	require.NoError(t, err)
	assert.Equal(t, slices.DeleteFunc(c.Results.Rows, func(r speculate.Row) bool { return r.Predictor == "oracle" }), loaded.Rows)
}

// A transformer is trained on the decoder's part of a trace, and refuses an encoder.
func TestStacksTransformer(t *testing.T) {
	ps, g := stacks()
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 64, Checks: 1, Gates: g}
	cfg := routingTransformer(1, 32, 16)
	_, err := TrainTransformer(t.Context(), cfg, ps.Train, ps.Valid, o)
	assert.ErrorContains(t, err, "routing transformer reads tokens one after another, which an encoder does not compute so")
	train, valid, test := ps.Train.Decoder(), ps.Valid.Decoder(), ps.Test.Decoder()
	assert.Equal(t, []int{0, 1, 2}, train.Header.LogitLayers)
	o.Gates = nil
	n, err := TrainTransformer(t.Context(), cfg, train, valid, o)
	require.NoError(t, err)
	r, err := speculate.Evaluate(t.Context(), test, speculate.EvaluateOptions{Horizons: o.Horizons}, n)
	require.NoError(t, err)
	assert.Len(t, r.Find(cfg.Name, o.Horizons[0], "layer"), 2)
	docs := 0
	whole := map[string]*trace.Document{}
	for d, err := range ps.Test.Documents() {
		require.NoError(t, err)
		whole[d.ID] = d
	}
	m := &ps.Test.Header.Model
	for d, err := range test.Documents() {
		require.NoError(t, err)
		require.NoError(t, d.Validate(&test.Header))
		w := whole[d.ID]
		require.Equal(t, w.Len()-23, d.Len())
		for tok := range d.Tokens {
			for l := range 3 {
				require.Equal(t, w.ExpertsAt(m, 23+tok, 2+l), d.ExpertsAt(&test.Header.Model, tok, l))
				require.Equal(t, w.WeightsAt(m, 23+tok, 2+l), d.WeightsAt(&test.Header.Model, tok, l))
			}
		}
		last := d.Len()*3 - 1
		require.Equal(t, w.RouterInput[len(w.RouterInput)-sD:], d.RouterInput[last*sD:])
		require.Equal(t, w.RouterLogits[len(w.RouterLogits)-sE:], d.RouterLogits[last*sE:])
		require.Equal(t, w.Position(23), d.Position(0))
		docs++
	}
	assert.Equal(t, len(whole)-1, docs, "one has an encoder alone")
}
