package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// planted writes a trace of 3 layers, 5 experts, top-2: prefill goes to the
// experts of even number, decode to all.
func planted(t *testing.T) string {
	t.Helper()
	h := trace.Header{Model: trace.Model{Name: "planted", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 5, TopK: 2, Vocabulary: 97}}
	r := tracetest.Router{Header: h, Prompt: 13, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		at := int32(s.Position + s.Layer)
		if s.Position >= 13 {
			return []int32{at % 5, (at + 2) % 5}
		}
		return []int32{at % 3 * 2, (at + 1) % 3 * 2}
	})}
	var docs []*trace.Document
	for i := range 24 {
		ids := make([]int32, 20)
		for p := range ids {
			ids[p] = int32(p * i % 97)
		}
		docs = append(docs, r.Document([]string{"a", "b"}[i%2], fmt.Sprint(i), ids))
	}
	return tracetest.Write(t, h, docs, trace.WriterOptions{})
}

func TestAnalyze(t *testing.T) {
	dir := t.TempDir()
	in, out, file := planted(t), filepath.Join(dir, "out"), filepath.Join(dir, "s.json")
	args := []string{"-trace", in, "-phase", "prefill", "-against", in, "-against-phase", "decode", "-out", out, "-json", file}
	ok := func(args ...string) {
		t.Helper()
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		require.Equal(t, cli.Done, status, errs)
	}
	ok(args...)
	report, err := os.ReadFile(filepath.Join(out, "report.html"))
	require.NoError(t, err)
	for _, want := range []string{"planted, prefill against planted, decode", "Difference of usage", "Predictability above chance", "Expert cache", "LRU with prefetch, 26.7 % resident"} {
		assert.Contains(t, string(report), want)
	}
	for _, name := range []string{"against-report.html", "figures/usage.png", "figures/usage.svg", "figures/usage.csv", "figures/comparison-layers.png", "figures/cache-hit-rate.png", "figures/prefetch-timeline.png", "figures/comparison-prefetch.png", "against-figures/cache-hit-rate.png", "against-figures/usage.png", "statistics.json"} {
		_, err := os.Stat(filepath.Join(out, name))
		assert.NoError(t, err)
	}
	var s trace.Summary
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &s))
	assert.Equal(t, int64(24*13), s.Tokens)
	assert.Equal(t, 3, s.Overall.Layers[1].Usage.Active)
	ok("-trace", in, "-part", "2/5", "-json", file)
	raw, err = os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &s))
	assert.EqualValues(t, 5, s.Documents) // 1, 6, 11, 16, 21
	// A second run writes the same report.
	ok(append(args, "-figures=false")...)
	again, err := os.ReadFile(filepath.Join(out, "report.html"))
	require.NoError(t, err)
	assert.Equal(t, again, report)
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	in := planted(t)
	bad := filepath.Join(dir, "results.json")
	require.NoError(t, os.WriteFile(bad, []byte(`{"shape": {"layers": 9, "experts": 5, "top_k": 2}}`), 0o600))
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"", cli.Usage, "-trace"},
		{"-trace " + in, cli.Usage, "-out"},
		{"-trace " + in + " -out x -phase both", cli.Usage, "phase"},
		{"-trace " + in + " -out x more", cli.Usage, "more"},
		{"-trace " + in + " -out x -baselines -1", cli.Usage, "-baselines"},
		{"-trace " + in + " -out x -cache -1", cli.Usage, "-cache"},
		{"-trace " + in + " -out x -load 0s", cli.Usage, "-load"},
		{"-trace " + in + " -out x -part 3/2", cli.Usage, "part"},
		{"-nothing", cli.Usage, "nothing"},
		{"-trace " + dir + "/none -json x", cli.Failed, "none"},
		{"-trace " + in + " -datasets c -json x", cli.Failed, "no tokens"},
		{"-trace " + in + " -results " + bad + " -out " + dir + "/o", cli.Failed, "9 layers"},
		{"-trace " + in + " -tokenizer " + bad + " -json x", cli.Failed, "results.json"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), strings.Fields(c.args)...)
		assert.Equal(t, c.status, status, c.args)
		assert.Contains(t, errs, c.want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	args := []string{"-trace", in, "-json", filepath.Join(dir, "x")}
	assert.Equal(t, cli.Failed, new(options).program().Start(ctx, args, cli.Streams{Out: io.Discard, Err: &errs}))
	assert.Contains(t, errs.String(), "interrupted")
}

// TestStacks writes the report of a model with an encoder.
func TestStacks(t *testing.T) {
	in, out := clitest.Stacks(t, 40), t.TempDir()
	ok := func(args ...string) {
		t.Helper()
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		require.Equal(t, cli.Done, status, errs)
	}
	ok("-trace", in, "-out", out)
	report, err := os.ReadFile(filepath.Join(out, "report.html"))
	require.NoError(t, err)
	for _, want := range []string{"encoder 2, decoder 3", "From encoder layer 0 to encoder layer 1", "From decoder layer 1 to decoder layer 2", "First choices, layers decoder 0 to decoder 2",
		"Dropped tokens by layer", "after those of the encoder, which are one step a layer", `"names":["encoder 0","encoder 1","decoder 0","decoder 1","decoder 2"]`} {
		assert.Contains(t, string(report), want)
	}
	assert.NotContains(t, string(report), "From encoder layer 1")
	table, err := os.ReadFile(filepath.Join(out, "figures", "recall-by-layer-h1.csv"))
	require.NoError(t, err)
	assert.Contains(t, string(table), "transition,encoder 1,100,")
	assert.Contains(t, string(table), "transition,decoder 2,100,")
	assert.NotContains(t, string(table), "decoder 0,")
	var s trace.Summary
	for phase, layers := range map[string][]int{"encode": {0, 1}, "decode": {2, 3, 4}} {
		file := filepath.Join(out, phase+".json")
		ok("-trace", in, "-phase", phase, "-json", file, "-out", filepath.Join(out, phase), "-figures=false")
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		s = trace.Summary{}
		require.NoError(t, json.Unmarshal(raw, &s))
		for l, x := range s.Overall.Layers {
			assert.Equal(t, x.Layer == layers[0] || x.Layer == layers[len(layers)-1] || x.Layer == 3 && phase == "decode", x.Usage.Active > 0, "%s, layer %d", phase, l)
			if phase == "encode" && l < 2 {
				require.NotNil(t, x.Dropped)
				assert.Positive(t, *x.Dropped)
			}
		}
	}
	ok("-trace", in, "-phase", "encode", "-against", in, "-against-phase", "decode", "-out", filepath.Join(out, "both"), "-figures=false")
}
