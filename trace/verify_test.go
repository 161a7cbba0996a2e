package trace

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestVerifyShard flips a bit in each byte of a shard before its footer. It must
// be detected, except where it makes no difference to what is read.
func TestVerifyShard(t *testing.T) {
	dir, _ := cutTrace(t)
	path := filepath.Join(dir, "s-1.parquet")
	require.NoError(t, VerifyShard(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	s, err := newShard(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	read := func() (docs []*Document) {
		_, err := s.scan(&Filter{}, 0).documents(func(d *Document, _ place) bool {
			docs = append(docs, d)
			return true
		})
		require.NoError(t, err)
		return docs
	}
	want := read()
	footer := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	harmless := 0
	for i := 0; i < footer; i += 1 + i/1000 { // headers in particular
		b[i] ^= byte(1 << (i % 8))
		if s.verify() == nil {
			require.Equalf(t, want, read(), "byte %d of %d", i, footer)
			harmless++
		}
		b[i] ^= byte(1 << (i % 8))
	}
	assert.Less(t, harmless, 200)

	b[footer/2] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o666))
	assert.ErrorContains(t, VerifyShard(path), path)
}

// TestVerifyShardFooter flips bits of the footer, which has no checksum. What
// neither VerifyShard nor the header shows must read as before, or not at all.
func TestVerifyShardFooter(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads the same shard very often")
	}
	dir, _ := cutTrace(t)
	b, err := os.ReadFile(filepath.Join(dir, "s-1.parquet"))
	require.NoError(t, err)
	read := func(s *shard) (docs []*Document, err error) {
		_, err = s.scan(&Filter{}, 0).documents(func(d *Document, _ place) bool {
			docs = append(docs, d)
			return true
		})
		return docs, err
	}
	s, err := newShard(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	header := s.header
	want, err := read(s)
	require.NoError(t, err)
	footer := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	unread := 0
	for i := footer; i < len(b); i++ {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(b)
			bad[i] ^= mask
			s, err := newShard(bytes.NewReader(bad), int64(len(bad)))
			if err != nil || !s.header.Equal(&header) || s.verify() != nil {
				continue
			}
			got, err := read(s)
			if err != nil {
				unread++
				continue
			}
			require.Equalf(t, want, got, "byte %d of %d, mask %#x", i-footer, len(b)-footer, mask)
		}
	}
	assert.Less(t, unread, 10)
}

// TestVerifyRewritten accepts shards that other programs wrote.
func TestVerifyRewritten(t *testing.T) {
	paths, err := filepath.Glob("../testdata/traces/rewritten/*.parquet")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		assert.NoError(t, VerifyShard(path))
	}
}
