package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// planted writes traces of 24 documents: of a model like the embedded one, L 16, E 8,
// K 2, D 96, and of one with an encoder of L 2 and a decoder of L 3, E 5, K 1.
func planted(t *testing.T) (decoder, stacks string) {
	t.Helper()
	write := func(m trace.Model, inputs bool) string {
		r := tracetest.Router{Header: trace.Header{Model: m, LogitLayers: m.AllLayers()}, Rule: tracetest.Random(3)}
		if inputs {
			r.Header.InputLayers = m.AllLayers()
		}
		var docs []*trace.Document
		for i := range 24 {
			ids := make([]int32, 20)
			for p := range ids {
				ids[p] = int32(p * i % 97)
			}
			docs = append(docs, r.Document([]string{"a", "b"}[i%2], fmt.Sprint(i), ids))
		}
		return tracetest.Write(t, r.Header, docs, trace.WriterOptions{})
	}
	decoder = write(trace.Model{Name: "one", Layers: 16, Stacks: []trace.Stack{{Name: trace.Decoder, Layers: 16}}, Experts: 8, TopK: 2, Hidden: 96, Vocabulary: 97}, true)
	stacks = write(trace.Model{Name: "two", Layers: 5, Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 2}, {Name: trace.Decoder, Layers: 3}}, Experts: 5, TopK: 1, Vocabulary: 97}, false)
	return decoder, stacks
}

func TestCompare(t *testing.T) {
	a, b := planted(t)
	dir := filepath.Join(t.TempDir(), "out")
	file := dir + ".json"
	status, out, errs := clitest.Run(t, new(options).program(), "-trace", a, "-model", "mini", "-against", b, "-against-name", "T", "-json", file, "-out", dir)
	require.Equal(t, cli.Done, status, errs)
	for _, want := range []string{"one ", "T, encoder", "T, decoder", "top-2 of 8", "8,272,992", "24 documents", "entropy / log E: "} {
		assert.Contains(t, out, want)
	}
	assert.Contains(t, errs, "measuring T, encoder")
	for _, name := range []string{"report.html", "figures/models-balance.png", "figures/models-cache.svg", "figures/models-reuse.csv"} {
		_, err := os.Stat(filepath.Join(dir, name))
		assert.NoError(t, err)
	}
	var r comparison.Result
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &r))
	require.Len(t, r.Columns, 3)
	assert.Equal(t, 24, r.Documents)
	assert.Contains(t, string(raw), `"gate reuse"`)
	status, again, errs := clitest.Run(t, new(options).program(), "-trace", a, "-model", "mini", "-against", b, "-against-name", "T", "-short", "-quiet")
	require.Equal(t, cli.Done, status, errs)
	assert.Empty(t, errs)
	assert.NotContains(t, again, "entropy / log E: ")
	assert.True(t, strings.HasPrefix(out, again))
}

func TestRefusals(t *testing.T) {
	a, b := planted(t)
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"", cli.Usage, "-out is required"},
		{"-out x -model mini", cli.Usage, "-against-model"},
		{"-out x -docs 1", cli.Usage, "-docs is 1"},
		{"-trace " + a, cli.Usage, "-against"},
		{"-trace " + a + " -against none", cli.Failed, "none"},
		{"-trace " + a + " -against " + a, cli.Failed, `two models are named "one"`},
		{"-trace " + a + " -against " + b + " -against-model mini", cli.Failed, "two: a checkpoint of 1 stacks for a trace of 2"},
		{"-trace " + a + " -model " + t.TempDir() + " -against " + b, cli.Failed, "config.json"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), strings.Fields(c.args)...)
		assert.Equal(t, c.status, status, c.args)
		assert.Contains(t, errs, c.want)
	}
}

// TestRecord records both embedded models over the same texts, and resumes.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-out", dir, "-docs", "5", "-tokens", "12", "-short", "-json", filepath.Join(dir, "c.json")}
	status, out, errs := clitest.Run(t, new(options).program(), args...)
	require.Equal(t, cli.Done, status, errs)
	for _, want := range []string{"Mixtral ", "Switch, encoder", "top-1 of 32", "48 (factor 219 to 219)", "11,042,112", "50 documents"} {
		assert.Contains(t, out, want)
	}
	assert.Contains(t, out, "warning: Switch, decoder: too few tokens, 350")
	assert.Contains(t, out, "shorter texts")
	assert.NotContains(t, out, "not recorded")
	assert.Contains(t, errs, "mini-switch, collecting: 50 of 50 documents")
	r, err := trace.Open(filepath.Join(dir, "trace-mini-switch"))
	require.NoError(t, err)
	assert.True(t, r.Header().Dropped)
	assert.EqualValues(t, 50*(12+2), r.Tokens()) // an end of text and a start
	first, err := os.ReadFile(filepath.Join(dir, "c.json"))
	require.NoError(t, err)
	status, _, errs = clitest.Run(t, new(options).program(), append(args, "-quiet")...)
	require.Equal(t, cli.Done, status, errs)
	second, err := os.ReadFile(filepath.Join(dir, "c.json"))
	require.NoError(t, err)
	assert.Equal(t, first, second)
}
