package trace_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var rewrittenDir = flag.String("rewritten", "../testdata/traces/rewritten", "folder of planted traces rewritten by other libraries")

// TestReadRewritten reads the planted trace as pyarrow, polars and DuckDB wrote
// it anew (testdata/read_trace.py): other encodings, page versions, codecs and
// row groups that cut documents in two.
func TestReadRewritten(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(*rewrittenDir, "*.parquet"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(paths), 4)
	h := plantedHeader()
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r, err := trace.Open(path)
			require.NoError(t, err)
			assert.Equal(t, h, r.Header())
			all, err := r.ReadAll()
			require.NoError(t, err)
			require.Len(t, all, 23)
			for i, d := range all {
				assert.Equal(t, plantedDocument(i, plantedLen(i), h), d)
			}
		})
	}
}
