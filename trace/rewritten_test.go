package trace_test

import (
	"flag"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

var rewrittenDir = flag.String("rewritten", "../testdata/traces/rewritten", "folder of planted traces written anew by other libraries")

// TestReadRewritten reads the planted trace as pyarrow, polars and DuckDB wrote
// it anew (testdata/read_trace.py): other encodings, page versions, codecs and
// row groups that cut documents in two.
func TestReadRewritten(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(*rewrittenDir, "*.parquet"))
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	h := plantedHeader()
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r, err := trace.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(r.Header(), h) {
				t.Errorf("header %+v", r.Header())
			}
			all, err := r.ReadAll()
			if err != nil || len(all) != 23 {
				t.Fatalf("%d documents, %v", len(all), err)
			}
			for i, d := range all {
				if !reflect.DeepEqual(d, plantedDocument(i, plantedLen(i), h)) {
					t.Errorf("document %d differs", i)
				}
			}
		})
	}
}
