package trace_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func writePlanted(t testing.TB, dir string, docs int, h trace.Header, opts trace.WriterOptions) {
	t.Helper()
	w, err := trace.Create(dir, h, opts)
	require.NoError(t, err)
	for i := range docs {
		require.NoError(t, w.Write(plantedDocument(i, plantedLen(i), h)))
	}
	require.NoError(t, w.Close())
}

// TestPlantedRouting writes planted routing and demands it back at the same
// token, layer and expert.
func TestPlantedRouting(t *testing.T) {
	for name, opts := range map[string]trace.WriterOptions{
		"one group":    {},
		"small groups": {GroupTokens: 50},
		"small shards": {GroupTokens: 20, ShardBytes: 3000},
		"float16":      {Float: trace.Float16, GroupTokens: 100},
		"split":        {Split: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "trace")
			h := plantedHeader()
			const docs = 23
			writePlanted(t, dir, docs, h, opts)
			r, err := trace.Open(dir)
			require.NoError(t, err)
			assert.Equal(t, h, r.Header())
			i := 0
			for d, err := range r.Documents() {
				require.NoError(t, err)
				require.Equal(t, plantedDocument(i, plantedLen(i), h), d)
				i++
			}
			assert.Equal(t, docs, i)
			shards, _ := filepath.Glob(filepath.Join(dir, "*"))
			assert.False(t, name == "small shards" && len(shards) < 5, "%d shards", len(shards))
			assert.False(t, name != "small shards" && len(shards) != 1, "%d shards", len(shards))
		})
	}
}

func TestNoWeights(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	h.NoWeights, h.LogitLayers, h.InputLayers = true, nil, nil
	writePlanted(t, dir, 3, h, trace.WriterOptions{})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	all, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 3)
	assert.Equal(t, plantedDocument(2, plantedLen(2), h), all[2])
}

func TestFilter(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 23, h, trace.WriterOptions{GroupTokens: 100})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	all, err := r.Select(trace.Filter{Datasets: []string{"set-1", "set-3"}, NoLogits: true, NoInput: true}).ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 8)
	for i, doc := range []int{4, 5, 6, 7, 12, 13, 14, 15} {
		want := plantedDocument(doc, plantedLen(doc), h)
		want.RouterLogits, want.RouterInput = nil, nil
		assert.Equal(t, want, all[i], "document %d differs", doc)
	}
	all, err = r.Select(trace.Filter{Documents: []string{"doc-017", "doc-009", "none"}}).ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.Equal(t, plantedDocument(17, plantedLen(17), h), all[1])
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	for _, name := range []string{".shard-00000.parquet.tmp", "_SUCCESS", "notes.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("junk"), 0o600))
	}
	if _, err := trace.Open(dir); err == nil {
		t.Error("a directory without shards opens")
	}
	writePlanted(t, dir, 2, h, trace.WriterOptions{})
	if _, err := trace.Create(dir, h, trace.WriterOptions{}); err == nil {
		t.Error("Create writes over a trace")
	}
	writePlanted(t, dir, 2, h, trace.WriterOptions{Append: true})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	require.Len(t, r.Paths(), 2)
	other := h
	other.Source.Seed++
	if _, err := trace.Create(dir, other, trace.WriterOptions{Append: true}); err == nil {
		t.Error("appending with another seed is not refused")
	}
	w, err := trace.Create(dir, h, trace.WriterOptions{Prefix: "more"})
	require.NoError(t, err)
	require.NoError(t, w.Write(plantedDocument(0, 4, h)))
	assert.Error(t, w.Write(plantedDocument(0, 5, h)), "a document is written twice")
	w.Abort()
	names, _ := filepath.Glob(filepath.Join(dir, "*more*"))
	assert.LessOrEqual(t, len(names), 0)
}

func TestEmptyTrace(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 0, h, trace.WriterOptions{})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	all, err := r.ReadAll()
	require.Empty(t, all)
	require.NoError(t, err)
	assert.Equal(t, h, r.Header())
}
