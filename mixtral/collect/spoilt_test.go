package collect

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Parquet file with some wrong bytes costs no more memory than a page may
// have, whatever sizes it states.
func TestSpoiltParquetMemory(t *testing.T) {
	type row struct {
		Text string  `parquet:"text,dict"`
		ID   *string `parquet:"id,optional,snappy"`
	}
	var b bytes.Buffer
	id := "i"
	require.NoError(t, parquet.Write(&b, []row{{"a", &id}, {"b", nil}, {"a", &id}}))
	path := filepath.Join(t.TempDir(), "x.parquet")
	source := FileOptions{Format: "parquet"}.source(path, "x", "x")
	r := rand.New(rand.NewPCG(1, 2))
	var before, after runtime.MemStats
	for i := range 1000 {
		data := bytes.Clone(b.Bytes())
		for range 1 + r.IntN(3) {
			data[r.IntN(len(data))] = byte(r.Uint32())
		}
		require.NoError(t, os.WriteFile(path, data, 0o666))
		runtime.ReadMemStats(&before)
		n := 0
		for range source.Documents(context.Background()) {
			n++
		}
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(512<<20), "file %d", i)
		assert.LessOrEqual(t, n, 100, "file %d", i)
	}
}
