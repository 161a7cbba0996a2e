package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// planted writes a trace of 3 layers, 5 experts, top-2: prefill goes to the
// experts of even number, decode to all.
func planted(t *testing.T, dir string) {
	t.Helper()
	h := trace.Header{Model: trace.Model{Name: "planted", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 5, TopK: 2, Vocabulary: 97}}
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
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
		if err := w.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnalyze(t *testing.T) {
	dir := t.TempDir()
	in, out, file := filepath.Join(dir, "trace"), filepath.Join(dir, "out"), filepath.Join(dir, "s.json")
	planted(t, in)
	args := []string{"-trace", in, "-phase", "prefill", "-against", in, "-against-phase", "decode", "-out", out, "-json", file}
	var said bytes.Buffer
	if err := run(context.Background(), args, &said, io.Discard); err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"planted, prefill against planted, decode", "Difference of usage", "Predictability above chance", "Expert cache", "LRU with prefetch, 25 % resident"} {
		if !strings.Contains(string(report), want) {
			t.Errorf("%q is not in the report", want)
		}
	}
	for _, name := range []string{"against-report.html", "figures/usage.png", "figures/usage.svg", "figures/usage.csv", "figures/comparison-layers.png", "figures/cache-hit-rate.png", "figures/prefetch-timeline.png", "figures/comparison-prefetch.png", "against-figures/cache-hit-rate.png", "against-figures/usage.png", "statistics.json"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	var s trace.Summary
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if s.Tokens != 24*13 || s.Overall.Layers[1].Usage.Active != 3 {
		t.Errorf("%d tokens on %d experts, want %d on 3", s.Tokens, s.Overall.Layers[1].Usage.Active, 24*13)
	}
	if err := run(context.Background(), []string{"-trace", in, "-part", "2/5", "-json", file}, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &s); err != nil || s.Documents != 5 { // 1, 6, 11, 16, 21
		t.Errorf("part 2 of 5 has %d documents, %v; want 5", s.Documents, err)
	}
	// The same again is the same.
	if err := run(context.Background(), append(args, "-figures=false"), io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(report, again) {
		t.Error("a second run writes another report")
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "trace")
	planted(t, in)
	bad := filepath.Join(dir, "results.json")
	if err := os.WriteFile(bad, []byte(`{"shape": {"layers": 9, "experts": 5, "top_k": 2}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  string
		usage bool
		want  string
	}{
		{"", true, "-trace"},
		{"-trace " + in, true, "-out"},
		{"-trace " + in + " -out x -phase both", true, "phase"},
		{"-trace " + in + " -out x more", true, "more"},
		{"-trace " + in + " -out x -baselines -1", true, "-baselines"},
		{"-trace " + in + " -out x -cache -1", true, "-cache"},
		{"-trace " + in + " -out x -load 0s", true, "-load"},
		{"-trace " + in + " -out x -part 3/2", true, "part"},
		{"-nothing", true, "nothing"},
		{"-trace " + dir + "/none -json x", false, "none"},
		{"-trace " + in + " -datasets c -json x", false, "no tokens"},
		{"-trace " + in + " -results " + bad + " -out " + dir + "/o", false, "9 layers"},
		{"-trace " + in + " -tokenizer " + bad + " -json x", false, "results.json"},
	} {
		err := run(context.Background(), strings.Fields(c.args), io.Discard, io.Discard)
		if err == nil || errors.Is(err, errUsage) != c.usage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := run(ctx, []string{"-trace", in, "-json", filepath.Join(dir, "x")}, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}
