package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCacheOfOneLayer reads a model of one layer, which has nothing to predict the
// next from. The section is omitted where there are too few documents.
func TestCacheOfOneLayer(t *testing.T) {
	for documents, want := range map[int]bool{3: false, 11: true} {
		dir := t.TempDir()
		in, out := filepath.Join(dir, "trace"), filepath.Join(dir, "out")
		w, err := trace.Create(in, trace.Header{Model: trace.Model{Name: "flat", Layers: 1, Stacks: []trace.Stack{{Name: "decoder", Layers: 1}}, Experts: 6, TopK: 2}, NoWeights: true}, trace.WriterOptions{})
		require.NoError(t, err)
		for i := range documents {
			d := &trace.Document{Dataset: "a", ID: fmt.Sprint(i)}
			for p := range int32(9) {
				d.Tokens, d.Experts = append(d.Tokens, p), append(d.Experts, p%6, (p+1)%6)
			}
			require.NoError(t, w.Write(d))
		}
		require.NoError(t, w.Close())
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
