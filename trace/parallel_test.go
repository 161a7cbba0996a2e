package trace_test

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
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
	docs := benchDocuments(9, 321, &h)
	for _, o := range []trace.WriterOptions{{GroupTokens: 1000, Float: trace.Float16}, {GroupTokens: 1500, Split: true}, {}} {
		var want []byte
		for _, n := range []int{1, 2, 7, 7} {
			processors(t, n)
			got, err := os.ReadFile(tracetest.Write(t, h, docs, o) + "/shard-00000.parquet")
			require.NoError(t, err)
			if want == nil {
				want = got
			}
			assert.True(t, bytes.Equal(want, got), "%+v: %d processors write other bytes than one", o, n)
		}
	}
}
