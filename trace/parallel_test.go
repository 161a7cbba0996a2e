package trace_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// processors sets GOMAXPROCS for one test.
func processors(t *testing.T, n int) {
	old := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(old) })
}

// TestWriteAlike writes the same bytes with one processor and with many.
func TestWriteAlike(t *testing.T) {
	h := benchHeader(true, true)
	docs := benchDocuments(23, 321, &h)
	for _, o := range []trace.WriterOptions{{GroupTokens: 2000, Float: trace.Float16}, {GroupTokens: 3000, Split: true}, {}} {
		var want []byte
		for _, n := range []int{1, 2, 7, 7} {
			processors(t, n)
			dir := t.TempDir()
			w, err := trace.Create(dir, h, o)
			require.NoError(t, err)
			for _, d := range docs {
				require.NoError(t, w.Write(d))
			}
			require.NoError(t, w.Close())
			got, err := os.ReadFile(dir + "/shard-00000.parquet")
			require.NoError(t, err)
			if want == nil {
				want = got
			}
			assert.Equal(t, want, got)
		}
	}
}
