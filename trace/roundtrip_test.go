package trace_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

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

// TestPlantedRouting writes planted routing and expects it back at the same
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
			if name == "small shards" {
				assert.GreaterOrEqual(t, len(shards), 5)
			} else {
				assert.Len(t, shards, 1)
			}
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
	routing := r.Select(trace.Filter{Datasets: []string{"set-1", "set-3"}, NoLogits: true, NoInput: true})
	all, err := routing.ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 8)
	selected := routing.Header()
	assert.Nil(t, selected.LogitLayers)
	assert.Nil(t, selected.InputLayers)
	assert.NoError(t, all[0].Validate(&selected))
	assert.Equal(t, h, r.Header())
	for i, doc := range []int{4, 5, 6, 7, 12, 13, 14, 15} {
		want := plantedDocument(doc, plantedLen(doc), h)
		want.RouterLogits, want.RouterInput = nil, nil
		assert.Equal(t, want, all[i], "document %d differs", doc)
	}
	all, err = r.Select(trace.Filter{Documents: []string{"doc-017", "doc-009", "none"}}).ReadAll()
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.Equal(t, plantedDocument(17, plantedLen(17), h), all[1])
	// A second selection narrows the first.
	for want, f := range []trace.Filter{{Datasets: []string{"set-0"}}, {Datasets: []string{"set-3", "set-4"}, Documents: []string{"doc-012", "doc-016"}}} {
		all, err := routing.Select(f).ReadAll()
		require.NoError(t, err)
		assert.Len(t, all, want, f)
		for _, d := range all {
			assert.Equal(t, "doc-012", d.ID)
			assert.Nil(t, d.RouterInput)
		}
	}
}

// noReaderAt hides ReadAt of a file system's files, as those of a zip archive.
type noReaderAt struct{ fs.FS }

func (n noReaderAt) Open(name string) (fs.File, error) {
	f, err := n.FS.Open(name)
	return struct{ fs.File }{f}, err
}

func (n noReaderAt) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(n.FS, name) }

func TestOpenFS(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 5, h, trace.WriterOptions{GroupTokens: 20, ShardBytes: 3000})
	embedded := fstest.MapFS{"notes": {Data: []byte("no shard")}, "sub.parquet/x.parquet": {Data: []byte("in a directory")}}
	for _, name := range names(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		embedded[name] = &fstest.MapFile{Data: b}
	}
	for _, fsys := range []fs.FS{os.DirFS(dir), embedded, noReaderAt{os.DirFS(dir)}} {
		r, err := trace.OpenFS(fsys)
		require.NoError(t, err)
		assert.Equal(t, h, r.Header())
		all, err := r.ReadAll()
		require.NoError(t, err)
		require.Len(t, all, 5)
		assert.Equal(t, plantedDocument(4, plantedLen(4), h), all[4])
	}
	embedded["z.parquet"] = &fstest.MapFile{Data: []byte("PAR1 and no footer")}
	_, err := trace.OpenFS(embedded)
	assert.ErrorContains(t, err, "z.parquet: corrupt Parquet")
	_, err = trace.OpenFS(fstest.MapFS{})
	assert.ErrorContains(t, err, "no trace")
	report, err := trace.ValidateFS(embedded, trace.ValidateOptions{})
	require.NoError(t, err)
	assert.Equal(t, 5, report.Documents)
	assert.Equal(t, 1, report.Count)
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	for _, name := range []string{".shard-00000.parquet.tmp", "_SUCCESS", "notes.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("junk"), 0o600))
	}
	_, err := trace.Open(dir)
	assert.ErrorContains(t, err, dir+": no trace")
	writePlanted(t, dir, 2, h, trace.WriterOptions{})
	_, err = trace.Create(dir, h, trace.WriterOptions{})
	assert.ErrorIs(t, err, os.ErrExist)
	writePlanted(t, dir, 2, h, trace.WriterOptions{Append: true})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	require.Len(t, r.Paths(), 2)
	other := h
	other.Source.Seed++
	_, err = trace.Create(dir, other, trace.WriterOptions{Append: true})
	assert.ErrorContains(t, err, "expertspec.source")
	w, err := trace.Create(dir, h, trace.WriterOptions{Prefix: "more"})
	require.NoError(t, err)
	require.NoError(t, w.Write(plantedDocument(0, 4, h)))
	assert.Error(t, w.Write(plantedDocument(0, 5, h)), "a document is written twice")
	w.Abort()
	assert.NotContains(t, strings.Join(names(t, dir), " "), "more")
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
