package collect

import (
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fullDisk is a writer whose disk is full for some of the shards.
type fullDisk struct {
	shardWriter
	err error
}

func (f *fullDisk) Close() error {
	if f.err != nil {
		f.Abort()
		return f.err
	}
	return f.shardWriter.Close()
}

// A shard for which the disk has no room is reported with its documents. The
// others are written, and the next run adds it.
func TestFullDisk(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	defer b.Finalize()
	m, err := mixtral.Load(t.Context(), mini.FS(), mixtral.Options{Backend: b})
	require.NoError(t, err)
	defer m.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(t, err)
	var docs []Document
	for _, id := range strings.Fields("a b c d e f g h i j k l") {
		docs = append(docs, Document{ID: id, Text: "The letter " + id + " is in the alphabet."})
	}
	n := 0
	full := map[int]bool{1: true}
	o := Options{MaxTokens: 6, DocumentsPerShard: 2}
	o.createShard = func(dir string, h trace.Header, w trace.WriterOptions) (shardWriter, error) {
		s, err := createShard(dir, h, w)
		f := &fullDisk{shardWriter: s}
		if full[n] {
			f.err = &fs.PathError{Op: "write", Path: filepath.Join(dir, "x"), Err: syscall.ENOSPC}
		}
		n++
		return f, err
	}
	dir := t.TempDir()
	sources := []Source{Slice("set", docs)}
	rep, err := Run(t.Context(), Mixtral(m), tok, sources, dir, o)
	require.NoError(t, err)
	require.Equal(t, 5, rep.Shards)
	require.Equal(t, int64(10), rep.Documents)
	require.Equal(t, 2, rep.ProblemCount)
	p := rep.Problems[0]
	assert.ErrorIs(t, p, syscall.ENOSPC)
	assert.Equal(t, "set", p.Dataset)
	assert.NotEmpty(t, p.Document)
	assert.Contains(t, p.Error(), "shard-00001.parquet")
	// The disk stays full: the run ends after three shards, even if more are
	// computed ahead.
	o.Concurrency = 4
	full = map[int]bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: true}
	n = 0
	rep, err = Run(t.Context(), Mixtral(m), tok, sources, t.TempDir(), o)
	assert.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, 6, rep.ProblemCount)
	assert.Equal(t, 3, n)
	full = map[int]bool{}
	rep, err = Run(t.Context(), Mixtral(m), tok, sources, dir, o)
	require.NoError(t, err)
	assert.Equal(t, 1, rep.Shards)
	assert.Equal(t, 5, rep.Existing)
	assert.Equal(t, 0, rep.ProblemCount)
}
