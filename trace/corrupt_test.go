package trace_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// smallTrace returns the bytes of a shard of three planted documents.
func smallTrace(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	writePlanted(t, dir, 3, plantedHeader(), trace.WriterOptions{GroupTokens: 10})
	b, err := os.ReadFile(filepath.Join(dir, "shard-00000.parquet"))
	require.NoError(t, err)
	return b
}

func readBytes(path string, b []byte) (*trace.Reader, []*trace.Document, error) {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		panic(err)
	}
	r, err := trace.Open(path)
	if err != nil {
		return nil, nil, err
	}
	all, err := r.ReadAll()
	return r, all, err
}

func TestTruncated(t *testing.T) {
	b := smallTrace(t)
	path := filepath.Join(t.TempDir(), "t.parquet")
	for n := 0; n < len(b); n += 1 + n/50 {
		_, _, err := readBytes(path, b[:n])
		require.ErrorContains(t, err, path, "%d of %d bytes", n, len(b))
	}
}

// TestFlipped flips one bit in every fifth byte. Each either makes an error or no
// difference to the routing; no page may be read wrongly.
func TestFlipped(t *testing.T) {
	b := smallTrace(t)
	path := filepath.Join(t.TempDir(), "t.parquet")
	_, want, err := readBytes(path, b)
	require.NoError(t, err)
	footer := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	flipped := bytes.Clone(b)
	tries, failed := 0, 0
	for i := 0; i < len(b); i += 5 {
		tries++
		flipped[i] ^= 1 << (i * 5 % 8)
		_, got, err := readBytes(path, flipped)
		flipped[i] = b[i]
		if err != nil {
			failed++
			continue
		}
		if i < footer {
			assert.Equal(t, want, got, "a flipped bit in byte %d of %d is not detected", i, len(b))
		}
	}
	assert.GreaterOrEqual(t, failed, tries/2)
}

// TestHostile checks that false sizes are errors before memory is allocated.
func TestHostile(t *testing.T) {
	b := smallTrace(t)
	path := filepath.Join(t.TempDir(), "t.parquet")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	lie := bytes.Clone(b)
	binary.LittleEndian.PutUint32(lie[len(lie)-8:], 0xfffffff0)
	_, _, err := readBytes(path, lie)
	assert.Error(t, err, "a footer of 4 GiB")
	// A footer that lists 2^31 columns.
	lie = append([]byte("PAR1"), 0x15, 2, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 7, 0)
	lie = append(binary.LittleEndian.AppendUint32(lie, uint32(len(lie)-4)), "PAR1"...)
	_, _, err = readBytes(path, lie)
	assert.Error(t, err, "a schema of 2^31 columns")
	// A footer of a million nested structs.
	lie = append([]byte("PAR1"), bytes.Repeat([]byte{0x1c}, 1<<20)...)
	lie = append(binary.LittleEndian.AppendUint32(lie, 1<<20), "PAR1"...)
	_, _, err = readBytes(path, lie)
	assert.Error(t, err, "a footer nested 2^20 deep")
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

func TestForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.parquet")
	type row struct {
		A int32 `parquet:"a"`
	}
	write := func(options ...parquet.WriterOption) error {
		var b bytes.Buffer
		require.NoError(t, parquet.Write(&b, []row{{1}, {2}}, options...))
		_, _, err := readBytes(path, b.Bytes())
		return err
	}
	err := write()
	assert.ErrorContains(t, err, path+": not an expertspec trace")
	err = write(parquet.KeyValueMetadata("expertspec.schema", "2"))
	assert.ErrorContains(t, err, "trace has schema version 2")
	assert.ErrorContains(t, write(parquet.KeyValueMetadata("expertspec.schema", "1")), `no "expertspec.`)
	err = write(parquet.KeyValueMetadata("expertspec.schema", "1"), parquet.KeyValueMetadata("expertspec.source", "{}"),
		parquet.KeyValueMetadata("expertspec.model", `{"name":"x","layers":2,"experts":4,"top_k":5}`))
	assert.ErrorContains(t, err, "top-k 5 of 4 experts")
	err = write(parquet.KeyValueMetadata("expertspec.schema", "1"), parquet.KeyValueMetadata("expertspec.source", "{}"),
		parquet.KeyValueMetadata("expertspec.model", `{"name":"x","layers":2,"experts":4,"top_k":1}`))
	assert.ErrorContains(t, err, `not an expertspec trace: no column "dataset"`)
	_, err = trace.Open(filepath.Join(t.TempDir(), "none"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestMixed checks that shards of different traces are not read as one.
func TestMixed(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 2, h, trace.WriterOptions{Prefix: "a"})
	h.Source.Seed++
	writePlanted(t, dir, 2, h, trace.WriterOptions{Prefix: "b"})
	_, err := trace.Open(dir)
	require.ErrorContains(t, err, "expertspec.source")
	assert.Contains(t, err.Error(), "b-00000.parquet")
}
