package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wheel returns a trace and predictors that were fitted on it.
func wheel(t *testing.T) (traceDir, predictors string) {
	t.Helper()
	h, docs, traceDir := clitest.Wheel(t, 30, "wheel")
	predictors = t.TempDir()
	set := &speculate.Set{Predictors: []speculate.Predictor{&speculate.Frequency{}, &speculate.Transition{}}}
	parts, err := speculate.Split(t.Context(), speculate.Slice(h, docs), speculate.Fractions{Valid: .2, Test: .3}, 1)
	require.NoError(t, err)
	require.NoError(t, speculate.Fit(t.Context(), parts.Train, speculate.LayersAhead(1, 2), set.Predictors...))
	set.Provenance, err = speculate.NewProvenance(t.Context(), parts)
	require.NoError(t, err)
	require.NoError(t, speculate.SaveAll(predictors, set))
	return traceDir, predictors
}

func TestEvaluate(t *testing.T) {
	dir, predictors := wheel(t)
	js, pq := filepath.Join(t.TempDir(), "r.json"), filepath.Join(t.TempDir(), "p.parquet")
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", dir, "-predictors", predictors, "-json", js, "-predictions", pq, "-horizons", "1,2", "-resamples", "100")
	require.Equal(t, cli.Done, status, stderr)
	s := stdout
	assert.Contains(t, s, "transition  1.000")
	assert.Contains(t, s, "oracle")
	assert.Contains(t, s, "decision (us)")
	var r speculate.Results
	text, err := os.ReadFile(js)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &r))
	assert.Equal(t, 30, r.Documents)
	assert.Equal(t, 270, r.Tokens)
	assert.Greater(t, r.Costs["transition"].Microseconds, float64(0))
	assert.NotEqual(t, int64(0), r.Costs["transition"].Parameters)
	rows, err := parquet.ReadFile[speculate.PredictionRow](pq)
	require.NoError(t, err)
	// Layers 1 and 2 at distance 1, layer 2 at distance 2; three predictors.
	assert.Len(t, rows, 270*3*3)
}

func TestPart(t *testing.T) {
	dir, predictors := wheel(t)
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", dir, "-split", ".2,.3", "-predictors", predictors, "-horizons", "1", "-by", "layer")
	require.Equal(t, cli.Done, status, stderr)
	s := stdout
	assert.Contains(t, s, "9 documents, 81 tokens")
	assert.Contains(t, s, "transition  h=1      2      9")
	assert.NotContains(t, s, "fitted on")
}

// The embedded predictors are for the embedded model.
func TestEmbedded(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "x", Layers: 16, Experts: 8, TopK: 2, Hidden: 96, Vocabulary: 4096}}
	h.LogitLayers, h.InputLayers = h.Model.AllLayers(), h.Model.AllLayers()
	r := tracetest.Router{Header: h, Rule: tracetest.Random(1)}
	dir := tracetest.Write(t, h, r.Documents(2, 9, 1), trace.WriterOptions{})
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", dir, "-predictors", "mini", "-horizons", "4")
	require.Equal(t, cli.Done, status, stderr)
	for _, name := range []string{"routing transformer", "router-logit transformer", "hidden transformer"} {
		assert.Contains(t, stdout, name)
	}
	assert.NotContains(t, stdout, "fitted on")
	dir, _ = wheel(t)
	status, _, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-predictors", "mini", "-horizons", "1")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, stderr, "transformer")
}

// TestSeen evaluates on documents that the predictors were fitted on.
func TestSeen(t *testing.T) {
	dir, predictors := wheel(t)
	args := []string{"-trace", dir, "-predictors", predictors, "-horizons", "1"}
	status, stdout, stderr := clitest.Run(t, new(options).program(), args...)
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "warning: of 30 documents to evaluate on, the predictors were fitted on 15 and calibrated on 6")
	for _, more := range [][]string{{"-split", ".2,.3", "-seed", "2"}, {"-split", ".2,.4"}} {
		status, _, stderr = clitest.Run(t, new(options).program(), append(args, more...)...)
		assert.Equal(t, cli.Failed, status, more)
		assert.Contains(t, stderr, "fitted on a split of this trace by .2,.3 with seed 1; got .2,")
	}
}

func TestStatus(t *testing.T) {
	dir, predictors := wheel(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "-trace"},
		{[]string{"-h"}, 0, "Flags"},
		{[]string{"-trace", dir, "-predictors", predictors, "-horizons", "0"}, 2, `"0"`},
		{[]string{"-trace", dir, "-by", "token"}, 2, "-by is"},
		{[]string{"-trace", dir, "-split", ".5"}, 2, ".15,.15"},
		{[]string{"-trace", dir, "-predictors", t.TempDir()}, 1, "predictors.json"},
		{[]string{"-trace", dir, "-predictors", predictors, "-horizons", "1", "-only", "no one"}, 1, "no one"},
	} {
		status, _, stderr := clitest.Run(t, new(options).program(), c.args...)
		assert.Equal(t, c.code, status, c.args)
		assert.Contains(t, stderr, c.says)
	}
}

// TestStacks evaluates predictors of an encoder and a decoder: the planted rule is
// known by transition and token id in both, one expert in six by chance.
func TestStacks(t *testing.T) {
	in, predictors, file := clitest.Stacks(t, 40), t.TempDir(), filepath.Join(t.TempDir(), "r.json")
	reader, err := trace.Open(in)
	require.NoError(t, err)
	data := speculate.FromReader(reader)
	parts, err := speculate.Split(t.Context(), data, speculate.Fractions{Valid: .2, Test: .3}, 1)
	require.NoError(t, err)
	set := &speculate.Set{Predictors: []speculate.Predictor{&speculate.Frequency{}, &speculate.Transition{}, &speculate.TokenID{}}}
	hs := []speculate.Horizon{{Layers: 1}, {Layers: 2}, {}}
	require.NoError(t, speculate.Fit(t.Context(), parts.Train, hs, set.Predictors...))
	set.Provenance, err = speculate.NewProvenance(t.Context(), parts)
	require.NoError(t, err)
	require.NoError(t, speculate.SaveAll(predictors, set))
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", in, "-split", ".2,.3", "-predictors", predictors, "-horizons", "1,2,token", "-json", file, "-by", "phase", "-resamples", "100")
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "transition  1.000")
	assert.Regexp(t, `transition +h=1 +encode +12 +1.000`, stdout)
	assert.Regexp(t, `transition +h=1 +decode +12 +1.000`, stdout)
	var r speculate.Results
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &r))
	var stacks []string
	for _, x := range r.Find("transition", hs[0], "layer") {
		stacks = append(stacks, x.Key+" "+x.Stack)
		if x.Stack == trace.Encoder {
			assert.EqualValues(t, 12*9, x.Pairs)
		}
	}
	assert.Equal(t, []string{"1 encoder", "3 decoder", "4 decoder"}, stacks)
	for _, x := range r.Find("frequency", hs[0], "layer") {
		assert.InDelta(t, 1./6, x.RecallK, .2)
	}
}
