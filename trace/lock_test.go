package trace_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// names lists a directory, hidden files included.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// TestTwoWriters opens two writers of one prefix. The second must be refused
// while the first is open, and the first's documents must be kept.
func TestTwoWriters(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	first, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	require.NoError(t, first.Write(plantedDocument(1, 6, h)))
	_, err = trace.Create(dir, h, trace.WriterOptions{})
	require.ErrorContains(t, err, `another writer with prefix "shard" is open`)

	for _, prefix := range []string{"other", "shard-x", "shar"} {
		other, err := trace.Create(dir, h, trace.WriterOptions{Prefix: prefix})
		require.NoError(t, err)
		require.NoError(t, other.Write(plantedDocument(2, 6, h)))
		other.Abort()
	}
	require.NoError(t, first.Close())
	assert.Equal(t, []string{"shard-00000.parquet"}, names(t, dir))

	next, err := trace.Create(dir, h, trace.WriterOptions{Append: true})
	require.NoError(t, err)
	require.NoError(t, next.Write(plantedDocument(3, 6, h)))
	require.NoError(t, next.Close())
	report, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	assert.NoError(t, report.Err())
	assert.Equal(t, 2, report.Documents)
}

// TestTwoWritersUnlocked takes the lock away from an open writer, as on a file
// system without locks: Close must keep its documents or return an error.
func TestTwoWritersUnlocked(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	var writers []*trace.Writer
	for i := range 2 {
		w, err := trace.Create(dir, h, trace.WriterOptions{})
		require.NoError(t, err)
		require.NoError(t, w.Write(plantedDocument(i, 6, h)))
		require.NoError(t, os.Remove(filepath.Join(dir, ".shard.lock")))
		writers = append(writers, w)
	}
	assert.Error(t, writers[0].Close())
	assert.NoError(t, writers[1].Close())
	r, err := trace.Open(dir)
	require.NoError(t, err)
	docs, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, docs, 1)
	assert.Equal(t, "doc-001", docs[0].ID)
}

// TestReplacedTemporary replaces the temporary file of an open writer: Close
// must not report success for the other file.
func TestReplacedTemporary(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	require.NoError(t, w.Write(plantedDocument(1, 6, h)))
	temps, err := filepath.Glob(filepath.Join(dir, ".*.tmp"))
	require.NoError(t, err)
	require.Len(t, temps, 1)
	require.NoError(t, os.Rename(temps[0], temps[0]+".gone"))
	require.NoError(t, os.WriteFile(temps[0], []byte("other"), 0o600))
	assert.ErrorContains(t, w.Close(), "replaced by another file")
	assert.NoFileExists(t, filepath.Join(dir, "shard-00000.parquet"))
}

// TestAppendWithoutWeights refuses to append documents without routing weights to
// a trace that has them, which could not be read as one trace.
func TestAppendWithoutWeights(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	h.NoWeights = true
	_, err = trace.Create(dir, h, trace.WriterOptions{Append: true})
	assert.ErrorContains(t, err, "routing weights")
}

// TestPrefix refuses prefixes that are not the beginning of a file name.
func TestPrefix(t *testing.T) {
	for _, prefix := range []string{"a/b", `a\b`, ".a", "_a", "a\xff", "a\x00"} {
		_, err := trace.Create(t.TempDir(), plantedHeader(), trace.WriterOptions{Prefix: prefix})
		assert.ErrorContains(t, err, "not the beginning of a visible file name", "%q", prefix)
	}
}

// TestStale removes the temporary files of killed writers of the same prefix,
// and no others.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	kept := []string{".shard-a-00000.parquet.ABCD2345.tmp", ".shard-1.parquet.tmp", "shard.txt"}
	for _, name := range append(kept, ".shard-00000.parquet.tmp", ".shard-00003.parquet.ABCD2345.tmp", ".shard.lock") {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("junk"), 0o600))
	}
	writePlanted(t, dir, 2, plantedHeader(), trace.WriterOptions{})
	assert.ElementsMatch(t, append(kept, "shard-00000.parquet"), names(t, dir))
}
