package viz

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// models compares a decoder of L 4, E 6, K 2 with a model of an encoder of L 2 and a
// decoder of L 3, E 9, K 1; with the sizes of their experts, or without.
func models(t *testing.T, sizes bool) *comparison.Result {
	t.Helper()
	subject := func(m trace.Model, c *comparison.Checkpoint) comparison.Subject {
		r := tracetest.Router{Header: trace.Header{Model: m}, Rule: tracetest.Random(4)}
		if c == nil || c.Gates != nil {
			r.Header.LogitLayers, r.Header.InputLayers = m.AllLayers(), m.AllLayers()
		}
		if !sizes {
			c = nil
		}
		return comparison.Subject{Data: speculate.Slice(r.Header, r.Documents(16, 36, 1)), Model: c}
	}
	one := trace.Model{Name: "one", Layers: 4, Stacks: []trace.Stack{{Name: trace.Decoder, Layers: 4}}, Experts: 6, TopK: 2, Hidden: 3, Vocabulary: 40}
	two := trace.Model{Name: "two", Layers: 5, Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 2, Blocks: []int{1, 3}}, {Name: trace.Decoder, Layers: 3, Blocks: []int{1, 3, 5}}}, Experts: 9, TopK: 1, Vocabulary: 40}
	gates := &speculate.Gates{Layers: 4, Experts: 6, Hidden: 3, Weights: make([]float32, 72)}
	r, err := comparison.Compare(t.Context(), comparison.Options{},
		subject(one, &comparison.Checkpoint{Parameters: 90, Active: []int64{50}, ExpertParameters: 3, ExpertBytes: 6000, Gates: gates}),
		subject(two, &comparison.Checkpoint{Parameters: 80, Active: []int64{40, 30}, ExpertParameters: 2, ExpertBytes: 4000, Capacity: 3}))
	require.NoError(t, err)
	return r
}

func TestComparisonReport(t *testing.T) {
	result := models(t, true)
	r, err := ComparisonReport(result)
	require.NoError(t, err)
	assert.Equal(t, "one against two", r.Title)
	var html bytes.Buffer
	require.NoError(t, r.WriteHTML(&html))
	for _, row := range result.Rows {
		assert.Contains(t, html.String(), strings.ReplaceAll(strings.TrimSpace(row.Label()), "'", "&#39;"))
	}
	dir := t.TempDir()
	names := []string{"balance", "overflow", "repetition", "information", "reuse", "recall-share", "recall-bytes", "cache", "sets"}
	for _, name := range names {
		f := r.Figure("models-" + name)
		require.NotNil(t, f, name)
		_, err := Save(dir, f, Style{})
		require.NoError(t, err, name)
	}
	// Each curve is a column's, in its order, in percent and in MB.
	cache := r.Figure("models-cache").(Panels).Figures[2].(Lines)
	assert.Equal(t, []string{"one", "two, encoder: one step a text", "two, decoder"}, []string{cache.Curves[0].Name, cache.Curves[1].Name, cache.Curves[2].Name})
	assert.Equal(t, "OPT", cache.Title)
	n := len(cache.Curves[2].X) - 1
	assert.InDelta(t, 27*.004, cache.Curves[2].X[n], 1e-12)
	assert.InDelta(t, 100*(1-result.Columns[2].Measures[comparison.WorkingSet].Mean.Value*16*3/float64(result.Columns[2].Tokens*3)), cache.Curves[2].Y[n], 1e-9, "all but first uses")
	share := r.Figure("models-recall-share").(Panels).Figures[0].(Lines)
	last := len(share.Curves[0].X) - 1
	assert.Equal(t, "frequency", share.Title)
	assert.InDelta(t, 100./6, share.Curves[0].X[0], 1e-9)
	assert.InDelta(t, 400./6, share.Curves[0].X[last], 1e-9)
	assert.Equal(t, "two, encoder: none", r.Figure("models-recall-share").(Panels).Figures[1].(Lines).Curves[1].Name, "an encoder's tokens come together")
	assert.Len(t, r.Figure("models-reuse").(Panels).Figures[0].(Lines).Curves, 1, "one model has gates")
	information := r.Figure("models-information").(bars)
	assert.InDelta(t, 100*result.Columns[1].Measures[comparison.TokenShare].Mean.Value, information.Groups[1].Y[1], 1e-9)

	r, err = ComparisonReport(models(t, false))
	require.NoError(t, err)
	assert.Nil(t, r.Figure("models-recall-bytes"))
	assert.Nil(t, r.Figure("models-reuse"))
	assert.Equal(t, "share of the stack's experts (%)", r.Figure("models-cache").(Panels).Figures[0].(Lines).XAxis)
	_, err = ComparisonReport(&comparison.Result{})
	assert.ErrorContains(t, err, "nothing")
}

func TestAboveChanceValue(t *testing.T) {
	v := aboveChanceValue(comparison.Value{Value: .625, Low: .25, High: 1}, .25)
	assert.Equal(t, "0.5 0 1", fmt.Sprint(v.Value, v.Low, v.High))
	assert.True(t, math.IsNaN(aboveChanceValue(v, 1).Value))
}
