package comparison_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// linear is a model of L 4, E 6, K 2, D 8 that routes as a transformer does, its
// documents and its gates.
func linear(n int) (trace.Header, []*trace.Document, *speculate.Gates) {
	m := trace.Model{Name: "linear", Layers: 4, Stacks: []trace.Stack{{Name: trace.Decoder, Layers: 4}}, Experts: 6, TopK: 2, Hidden: 8, Vocabulary: 35}
	rule, gates := tracetest.Linear(m, 5)
	r := tracetest.Router{Header: trace.Header{Model: m, LogitLayers: m.AllLayers(), InputLayers: m.AllLayers()}, Rule: rule}
	return r.Header, documents(&r, n), &speculate.Gates{Layers: 4, Experts: 6, Hidden: 8, Weights: gates}
}

func find(t *testing.T, c *comparison.Column, predictor string, layers, blocks, named int) comparison.Recall {
	t.Helper()
	for _, x := range c.Recalls {
		if x.Predictor == predictor && x.Layers == layers && x.Blocks == blocks && x.Named == named {
			return x
		}
	}
	t.Fatalf("no recall of %s at %d layers, %d blocks, %d named", predictor, layers, blocks, named)
	return comparison.Recall{}
}

// Recall is that of Evaluate on the same documents, at every number that it knows; a
// cache's hits are those of HitRates.
func TestAgainstEvaluate(t *testing.T) {
	ctx := t.Context()
	h, docs, gates := linear(24)
	data := speculate.Slice(h, docs)
	c := compare(t, h, docs, &comparison.Checkpoint{Parameters: 9, Active: []int64{5}, ExpertParameters: 3, ExpertBytes: 7, Gates: gates}).Columns[0]
	parts, err := speculate.Split(ctx, data, speculate.Fractions{Valid: .1, Test: .4}, 3)
	require.NoError(t, err)
	ps, err := speculate.Baselines(speculate.ShapeOf(h.Model), gates)
	require.NoError(t, err)
	hs := speculate.LayersAhead(1, 2)
	train := speculate.Slice(h, docs).Filter(func(d *trace.Document) bool {
		for x := range parts.Test.All(ctx) {
			if x.Key() == d.Key() {
				return false
			}
		}
		return true
	})
	require.NoError(t, speculate.Fit(ctx, train, hs, ps...))
	want, err := speculate.Evaluate(ctx, parts.Test, speculate.EvaluateOptions{Horizons: hs}, ps...)
	require.NoError(t, err)
	for _, p := range []string{"frequency", "transition", "token id", "gate reuse"} {
		for _, x := range hs {
			row := want.Find(p, x, "all")[0]
			for _, k := range []int{1, 2, 3, 4} {
				got := find(t, &c, p, x.Layers, 0, k)
				assert.InDelta(t, row.Recall[k-1], got.Recall.Value, 1e-9, p)
				assert.InDelta(t, row.Recall[k-1]*6/float64(k), got.Lift.Value, 1e-9)
				assert.InDelta(t, row.Recall[k-1]/want.Find("frequency", x, "all")[0].Recall[k-1], got.Gain.Value, 1e-9)
			}
			if p == "gate reuse" { // the jackknife's interval is about as wide as the resampled one
				got := find(t, &c, p, x.Layers, 0, 2).Recall
				b := row.RecallKInterval
				assert.InDelta(t, 1, (got.High-got.Low)/(b.High-b.Low), .35)
			}
		}
	}
	assert.Equal(t, find(t, &c, "gate reuse", 2, 0, 2).Recall, find(t, &c, "gate reuse", 0, 2, 2).Recall, "every block has experts")
	points, err := prefetch.HitRates(ctx, data, prefetch.Config{Policy: prefetch.OPT}, []int{6, 12})
	require.NoError(t, err)
	found := 0
	for _, x := range c.Caches {
		for _, p := range points {
			if x.Policy == prefetch.OPT && x.Experts == p.Capacity {
				found++
				assert.InDelta(t, p.HitRate, x.HitRate.Value, 1e-12)
				assert.EqualValues(t, 7*x.Experts, x.Bytes)
			}
		}
	}
	assert.Equal(t, 2, found)
}

// The jackknife's interval of a mean covers it in about 95 % of samples.
func TestIntervals(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	covered := 0
	const samples = 200
	for range samples {
		// Each document repeats with its own probability, .2 to .6.
		r := tracetest.Router{Header: header(1)}
		var at int32
		p := 0.
		r.Rule = tracetest.Choose(func(s *tracetest.Step) []int32 {
			if s.Position == 0 && s.Layer == 0 {
				p = .2 + .4*rng.Float64()
			}
			if s.Layer == 0 && rng.Float64() >= p {
				at = (at + 1 + rng.Int32N(4)) % 5
			}
			return []int32{at}
		})
		var docs []*trace.Document
		for i := range 12 {
			docs = append(docs, r.Document("a", string(rune('a'+i)), make([]int32, 20)))
			docs[i].Tokens[0] = int32(i) // texts that differ
		}
		v := compare(t, r.Header, docs, nil).Columns[0].Measures[comparison.Repetition].Mean
		if v.Low < .4 && .4 < v.High {
			covered++
		}
	}
	assert.InDelta(t, .95, float64(covered)/samples, .05)
}

// Only documents of both traces are compared, and tables and JSON have a cell for
// each column of each row.
func TestTwoSubjects(t *testing.T) {
	h, docs, _ := linear(20)
	other := tracetest.Router{Header: header(1), Rule: tracetest.Random(3)}
	more := documents(&other, 26)
	r, err := comparison.Compare(t.Context(), comparison.Options{Memory: 5000}, comparison.Subject{Data: speculate.Slice(h, docs)},
		comparison.Subject{Name: "other", Data: speculate.Slice(other.Header, more)})
	require.NoError(t, err)
	assert.Equal(t, 20, r.Documents)
	assert.Equal(t, []int{20, 20}, []int{r.Columns[0].Documents, r.Columns[1].Documents})
	assert.Equal(t, "6 documents of other are not in all traces and were omitted", r.Warnings[0])
	assert.Contains(t, r.Warnings[1], "other: too few tokens, 895")
	assert.Len(t, r.Warnings, 2)
	var b bytes.Buffer
	require.NoError(t, r.WriteTable(&b, true))
	text := b.String()
	for _, want := range []string{"top-2 of 6", "top-1 of 5", "not recorded", "linear", "Gate reuse", "x, ", "LRU, 1/4 of the experts", "OPT knows the future", "warning: 6 documents"} {
		assert.Contains(t, text, want)
	}
	for _, row := range r.Rows {
		assert.NotEmpty(t, row.Meaning, row.Name)
		assert.True(t, strings.HasSuffix(row.Meaning, "."), row.Meaning)
		require.Len(t, row.Cells, 2)
		for _, c := range row.Cells {
			assert.NotEmpty(t, c.String(), row.Name)
			assert.NotContains(t, c.String(), "NaN")
			assert.NotContains(t, c.String(), "Inf")
		}
	}
	b.Reset()
	require.NoError(t, r.WriteJSON(&b))
	var back comparison.Result
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	assert.Equal(t, r.Columns[0].Measures[comparison.Entropy].Mean, back.Columns[0].Measures[comparison.Entropy].Mean)
	assert.Equal(t, "not recorded", back.Columns[1].Measures[comparison.Auxiliary].Mean.Missing)
	assert.True(t, math.IsNaN(back.Columns[1].Measures[comparison.Auxiliary].Mean.Value))

	for i := range more {
		more[i].ID = "x" + more[i].ID
	}
	r, err = comparison.Compare(t.Context(), comparison.Options{}, comparison.Subject{Data: speculate.Slice(h, docs)},
		comparison.Subject{Data: speculate.Slice(other.Header, more)})
	require.NoError(t, err)
	assert.Zero(t, r.Documents)
	assert.Equal(t, 26, r.Columns[1].Documents)
	assert.Contains(t, r.Warnings[0], "no document in common")
}

// The same trace gives the same figures, whatever is held in memory.
func TestDeterministic(t *testing.T) {
	h, docs, gates := linear(16)
	var out [2]bytes.Buffer
	for i, limit := range []int64{0, 1} {
		m := &comparison.Checkpoint{Parameters: 9, Active: []int64{5}, ExpertParameters: 3, ExpertBytes: 7, Gates: gates}
		r, err := comparison.Compare(t.Context(), comparison.Options{Memory: limit}, comparison.Subject{Data: speculate.Slice(h, docs), Model: m})
		require.NoError(t, err)
		require.NoError(t, r.WriteJSON(&out[i]))
	}
	assert.Equal(t, out[0].String(), out[1].String())
}

func TestErrors(t *testing.T) {
	h, docs, gates := linear(12)
	data := speculate.Slice(h, docs)
	good := comparison.Checkpoint{Parameters: 9, Active: []int64{5}, ExpertParameters: 3, ExpertBytes: 7}
	wrong := func(change func(*comparison.Checkpoint)) *comparison.Checkpoint {
		m := good
		change(&m)
		return &m
	}
	for want, s := range map[string][]comparison.Subject{
		"nothing to compare":                    nil,
		`two models are named "linear"`:         {{Data: data}, {Data: data}},
		"a checkpoint of 2 stacks for a trace":  {{Data: data, Model: wrong(func(m *comparison.Checkpoint) { m.Active = []int64{1, 2} })}},
		"an expert of 3 parameters in 0 bytes":  {{Data: data, Model: wrong(func(m *comparison.Checkpoint) { m.ExpertBytes = 0 })}},
		"gates of L=4 E=5":                      {{Data: data, Model: wrong(func(m *comparison.Checkpoint) { g := *gates; g.Experts = 5; m.Gates = &g })}},
		`document "3" of data set "b": Experts`: {{Data: speculate.Slice(h, append(append([]*trace.Document{}, docs[:3]...), &trace.Document{Dataset: "b", ID: "3", Tokens: []int32{1}}))}},
		"linear: decoder: no tokens":            {{Data: speculate.Slice(h, nil)}},
	} {
		_, err := comparison.Compare(t.Context(), comparison.Options{}, s...)
		assert.ErrorContains(t, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := comparison.Compare(ctx, comparison.Options{}, comparison.Subject{Data: data})
	assert.ErrorIs(t, err, context.Canceled)
}

// Traces that lack what a measure reads: token ids, a layer before, one of two stacks,
// a second text.
func TestLittle(t *testing.T) {
	m := trace.Model{Name: "little", Layers: 2, Experts: 3, TopK: 1, Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 1}, {Name: trace.Decoder, Layers: 1}}}
	r := tracetest.Router{Header: trace.Header{Model: m}, Prompt: 9, Rule: tracetest.Random(2)}
	var docs []*trace.Document
	for i := range 8 {
		ids := []int32{-1, -1, -1, -1, -1, -1, -1, -1, -1}
		docs = append(docs, r.Document("a", string(rune('a'+i)), ids))
	}
	res := compare(t, r.Header, docs, nil)
	require.Len(t, res.Columns, 1)
	c := &res.Columns[0]
	assert.Equal(t, "little, encoder", c.Name)
	assert.Equal(t, []string{"little, decoder: no tokens"}, res.Warnings)
	for k, why := range map[comparison.Kind]string{comparison.TokenBits: "not recorded", comparison.TokenShare: "not recorded", comparison.PreviousBits: "no layer before",
		comparison.DomainBits: "one data set", comparison.PrefixShare: "shorter texts"} {
		assert.Equal(t, why, c.Measures[k].Mean.Missing, k)
	}
	assert.Empty(t, c.Recalls)
	var b bytes.Buffer
	require.NoError(t, res.WriteTable(&b, true))
	assert.NotContains(t, b.String(), "NaN")

	one := compare(t, r.Header, docs[:1], nil).Columns[0].Measures[comparison.Entropy].Mean
	assert.True(t, one.OK())
	assert.False(t, one.HasInterval(), "one text")
}
