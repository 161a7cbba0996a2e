package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fiveExperts routes each token to the expert that its id names.
type fiveExperts struct{ router tracetest.Router }

func (m fiveExperts) TraceHeader() trace.Header { return m.router.Header }

func (m fiveExperts) Record(_ context.Context, h *trace.Header, tokens [][]int32, _ []*trace.Document) ([]*trace.Document, error) {
	m.router.Header = *h
	docs := make([]*trace.Document, len(tokens))
	for i, ids := range tokens {
		docs[i] = m.router.Document("", "", ids)
	}
	return docs, nil
}

// letters tokenizes a text into its bytes.
type letters struct{}

func (letters) Encode(text string, _ bool) (ids []int32) {
	for _, b := range []byte(text) {
		ids = append(ids, int32(b))
	}
	return ids
}

// collectParts writes parts of a trace of 40 shards, divided between 9 parts, of which
// one document is omitted, in shard 1.
func collectParts(t *testing.T, dir string, parts ...int) {
	m := fiveExperts{tracetest.Router{
		Header: trace.Header{Model: trace.Model{Name: "five", Layers: 3, Experts: 5, TopK: 1, Vocabulary: 128}},
		Rule:   tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{s.Token % 5} }),
	}}
	docs := make([]collect.Document, 79)
	for i := range docs {
		docs[i] = collect.Document{Dataset: "b", ID: strings.Repeat("i", i+1), Text: "some letters"}
	}
	docs[0] = collect.Document{Dataset: "a", ID: "accent", Text: "\u00e9 is beyond the vocabulary"}
	docs[1].Dataset, docs[2].Dataset = "a", "a"
	for _, part := range parts {
		_, err := collect.Run(t.Context(), m, letters{}, []collect.Source{collect.Slice("x", docs)}, dir,
			collect.Options{DocumentsPerShard: 2, Part: part, Parts: 9})
		require.NoError(t, err)
	}
}

func TestMissing(t *testing.T) {
	dir := t.TempDir()
	call := func(args ...string) (int, string, string) { return clitest.Run(t, new(options).program(), args...) }
	status, _, errs := call("-missing", dir)
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "_collect.json")

	collectParts(t, dir, 5, 8, 2, 0)
	status, out, errs := call("-missing", dir)
	assert.Equal(t, cli.Partial, status)
	assert.Equal(t, "1,3-4,6-7\n", out)
	assert.Contains(t, errs, "shards 1,3-4,6-7,10,12-13,15-16,19,21-22,24-25,28,30-31,33-34,37,39 of 0-39")
	status, out, errs = call("-validate", dir)
	assert.Equal(t, cli.Partial, status)
	assert.Contains(t, out, "is valid: ")
	assert.Contains(t, errs, "shards of parts 1,3-4,6-7 of 0-8, to be run again")

	collectParts(t, dir, 1, 3, 4, 6, 7)
	for _, flag := range []string{"-missing", "-validate"} {
		status, out, errs = call(flag, dir)
		assert.Equal(t, cli.Partial, status)
		assert.NotContains(t, errs, "missing")
		assert.Contains(t, errs, "omitted: a: document accent: token 0: id 195 is not in the model's vocabulary")
		assert.Contains(t, errs, "1 documents of ")
	}
	assert.Contains(t, out, "78 documents, 936 tokens in 40 shards")

	// Without the file that names it, the document is missing unnamed.
	named, err := filepath.Glob(filepath.Join(dir, "_omitted-*.json"))
	require.NoError(t, err)
	require.Len(t, named, 1)
	require.NoError(t, os.Remove(named[0]))
	status, _, errs = call("-validate", dir)
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "78 documents in the shards and 0 named as omitted are not the 79 that were chosen")

	// The shards say themselves how many they are.
	require.NoError(t, os.Remove(filepath.Join(dir, "_collect.json")))
	require.NoError(t, os.Remove(filepath.Join(dir, "shard-00017.parquet")))
	status, _, errs = call("-validate", dir)
	assert.Equal(t, cli.Partial, status)
	assert.Contains(t, errs, "missing: shards 17 of 0-39")
	assert.NotContains(t, errs, "parts")
}

// A part of another model is refused, and a shard of one is named by the validator.
func TestMixedModels(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	collectParts(t, dir, 0)
	m := fiveExperts{tracetest.Router{Header: trace.Header{Model: trace.Model{Name: "six", Layers: 3, Experts: 6, TopK: 1, Vocabulary: 128}},
		Rule: tracetest.Choose(func(*tracetest.Step) []int32 { return []int32{5} })}}
	o := collect.Options{DocumentsPerShard: 2, Part: 1, Parts: 9}
	docs := make([]collect.Document, 79)
	for i := range docs {
		docs[i] = collect.Document{ID: strings.Repeat("x", i+1), Text: "some letters"}
	}
	source := []collect.Source{collect.Slice("x", docs)}
	_, err := collect.Run(t.Context(), m, letters{}, source, dir, o)
	assert.ErrorContains(t, err, filepath.Join(dir, "_collect.json")+`: the trace was made with other settings, so it cannot be continued: experts was "5" and is now "6"; model was "five" and is now "six"`)
	_, err = collect.Run(t.Context(), m, letters{}, source, other, o)
	require.NoError(t, err)
	require.NoError(t, os.Rename(filepath.Join(other, "shard-00010.parquet"), filepath.Join(dir, "shard-00010.parquet")))
	status, _, errs := clitest.Run(t, new(options).program(), "-validate", dir)
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, filepath.Join(dir, "shard-00010.parquet")+": expertspec.model is ")
}

func TestRanges(t *testing.T) {
	for want, list := range map[string][]int{"": nil, "0": {0}, "0-1": {0, 1}, "3,17-19": {3, 17, 18, 19}, "1-2,4,9-11,13": {1, 2, 4, 9, 10, 11, 13}} {
		assert.Equal(t, want, ranges(list))
	}
}
