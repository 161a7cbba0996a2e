package trace_test

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/trace"
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
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range docs {
				if err := w.Write(d); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dir + "/shard-00000.parquet")
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%+v: %d processors write other bytes than one", o, n)
			}
		}
	}
}
