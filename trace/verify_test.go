package trace_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// TestVerifyShard flips each byte of a shard before its footer. VerifyShard must
// detect it, except where it makes no difference to what is read.
func TestVerifyShard(t *testing.T) {
	b := smallTrace(t)
	path := filepath.Join(t.TempDir(), "t.parquet")
	_, want, err := readBytes(path, b)
	require.NoError(t, err)
	require.NoError(t, trace.VerifyShard(path))
	footer := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	harmless := 0
	for i := range footer {
		flipped := bytes.Clone(b)
		flipped[i] ^= byte(1 << (i % 8))
		require.NoError(t, os.WriteFile(path, flipped, 0o600))
		if err := trace.VerifyShard(path); err != nil {
			assert.ErrorContains(t, err, path)
			continue
		}
		_, got, err := readBytes(path, flipped)
		require.NoErrorf(t, err, "byte %d of %d", i, footer)
		require.Equalf(t, want, got, "byte %d of %d", i, footer)
		harmless++
	}
	assert.Less(t, harmless, footer/20)
}

// TestVerifyRewritten accepts shards that other programs wrote.
func TestVerifyRewritten(t *testing.T) {
	paths, err := filepath.Glob("../testdata/traces/rewritten/*.parquet")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		assert.NoError(t, trace.VerifyShard(path))
	}
}
