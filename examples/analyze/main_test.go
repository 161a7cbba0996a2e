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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// planted writes a trace of 3 layers, 5 experts, top-2: prefill goes to the
// experts of even number, decode to all.
func planted(t *testing.T, dir string) {
	t.Helper()
	h := trace.Header{Model: trace.Model{Name: "planted", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 5, TopK: 2, Vocabulary: 97}}
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	for i := range 24 {
		d := &trace.Document{Dataset: []string{"a", "b"}[i%2], ID: fmt.Sprint(i)}
		for p := range 20 {
			d.Tokens = append(d.Tokens, int32(p*i%97))
			phase := trace.Prefill
			if p >= 13 {
				phase = trace.Decode
			}
			d.Phases = append(d.Phases, phase)
			for l := range 3 {
				first, second := (p+l)%3*2, (p+l+1)%3*2
				if phase == trace.Decode {
					first, second = (p+l)%5, (p+l+2)%5
				}
				d.Experts = append(d.Experts, int32(first), int32(second))
				d.Weights = append(d.Weights, 0.75, 0.25)
			}
		}
		require.NoError(t, w.Write(d))
	}
	require.NoError(t, w.Close())
}

func TestAnalyze(t *testing.T) {
	dir := t.TempDir()
	in, out, file := filepath.Join(dir, "trace"), filepath.Join(dir, "out"), filepath.Join(dir, "s.json")
	planted(t, in)
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
	if err := json.Unmarshal(raw, &s); err != nil || s.Documents != 5 { // 1, 6, 11, 16, 21
		t.Errorf("part 2 of 5 has %d documents, %v; want 5", s.Documents, err)
	}
	// A second run writes the same report.
	ok(append(args, "-figures=false")...)
	again, err := os.ReadFile(filepath.Join(out, "report.html"))
	require.NoError(t, err)
	assert.Equal(t, again, report)
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "trace")
	planted(t, in)
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
