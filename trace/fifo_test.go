//go:build unix

package trace_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// TestFIFO opens a FIFO, by itself and as a shard of a trace. Opening it as a
// file would block.
func TestFIFO(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.parquet")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	for _, p := range []string{dir, path} {
		_, err := trace.Open(p)
		assert.ErrorContains(t, err, path+": not a regular file")
	}
	_, err := trace.OpenFS(os.DirFS(dir))
	assert.ErrorContains(t, err, "x.parquet: not a regular file")
	report, err := trace.ValidateFS(os.DirFS(dir), trace.ValidateOptions{})
	require.NoError(t, err)
	assert.ErrorContains(t, report.Err(), "x.parquet: not a regular file")
}
