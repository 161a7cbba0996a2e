package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCacheOfOneLayer reads a model of one layer, which has nothing to predict the
// next from. The section is omitted where there are too few documents.
func TestCacheOfOneLayer(t *testing.T) {
	for documents, want := range map[int]bool{3: false, 11: true} {
		out := t.TempDir()
		r := tracetest.Router{
			Header: trace.Header{Model: trace.Model{Name: "flat", Layers: 1, Stacks: []trace.Stack{{Name: "decoder", Layers: 1}}, Experts: 6, TopK: 2}, NoWeights: true},
			Rule:   tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{s.Token % 6, (s.Token + 1) % 6} }),
		}
		in := tracetest.Write(t, r.Header, r.Documents(documents, 9, 1), trace.WriterOptions{})
		status, _, errs := clitest.Run(t, new(options).program(), "-trace", in, "-out", out, "-figures=false")
		require.Equal(t, cli.Done, status, errs)
		raw, err := os.ReadFile(filepath.Join(out, "report.html"))
		require.NoError(t, err)
		report := string(raw)
		assert.Equal(t, want, strings.Contains(report, "Expert cache"), "%d documents", documents)
		assert.NotContains(t, report, "LRU with prefetch")
		assert.NotContains(t, report, "With prefetch")
	}
}
