package trace_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// manyShards writes a trace of n shards, each of one document.
func manyShards(t *testing.T, n int) (dir string) {
	dir = t.TempDir()
	h := plantedHeader()
	h.Source.Shards = n
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	for i := range n {
		require.NoError(t, w.Write(plantedDocument(i, plantedLen(i), h)))
		require.NoError(t, w.EndShard())
	}
	require.NoError(t, w.Close())
	return dir
}

func shardName(i int) string { return fmt.Sprintf("shard-%05d.parquet", i) }

// A validator lists the shards that were deleted, in the middle and at both ends,
// and does not count them as problems.
func TestMissing(t *testing.T) {
	dir := manyShards(t, 19)
	validate := func(path string) *trace.ValidationReport {
		r, err := trace.Validate(path, trace.ValidateOptions{})
		require.NoError(t, err)
		require.NoError(t, r.Err())
		return r
	}
	assert.Empty(t, validate(dir).Missing)
	gone := []int{0, 3, 7, 8, 9, 18}
	for _, i := range gone {
		require.NoError(t, os.Remove(filepath.Join(dir, shardName(i))))
	}
	r := validate(dir)
	assert.Equal(t, gone, r.Missing)
	assert.Equal(t, 13, r.Shards)
	assert.Equal(t, 13, r.Documents)
	r, err := trace.ValidateFS(os.DirFS(dir), trace.ValidateOptions{})
	require.NoError(t, err)
	assert.Equal(t, gone, r.Missing)
	assert.Empty(t, validate(filepath.Join(dir, shardName(4))).Missing, "one shard was asked for")

	for _, i := range []int{1, 2, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17} { // as another program names files
		require.NoError(t, os.Rename(filepath.Join(dir, shardName(i)), filepath.Join(dir, fmt.Sprintf("data_%d.parquet", i))))
	}
	assert.Empty(t, validate(dir).Missing)
}

// Many shards that are opened at once are read in the order of their names, and
// the error is that of the first that cannot be read.
func TestManyShards(t *testing.T) {
	const n = 90
	dir := manyShards(t, n)
	r, err := trace.Open(dir)
	require.NoError(t, err)
	docs, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, docs, n)
	tokens := 0
	for i, d := range docs {
		assert.Equal(t, fmt.Sprintf("doc-%03d", i), d.ID)
		tokens += d.Len()
	}
	assert.Equal(t, int64(tokens), r.Tokens())

	for _, i := range []int{89, 47, 71} {
		require.NoError(t, os.Truncate(filepath.Join(dir, shardName(i)), 99))
	}
	_, err = trace.Open(dir)
	assert.ErrorContains(t, err, shardName(47)+": ")
	report, err := trace.Validate(dir, trace.ValidateOptions{MaxProblems: 2})
	require.NoError(t, err)
	assert.Equal(t, 3, report.Count)
	require.Len(t, report.Problems, 2)
	assert.Equal(t, filepath.Join(dir, shardName(47)), report.Problems[0].File)
	assert.Equal(t, filepath.Join(dir, shardName(71)), report.Problems[1].File)
	assert.Equal(t, n-3, report.Documents)
}
