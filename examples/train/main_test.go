package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// wheel writes a trace in which a token's expert moves on by one from layer to
// layer.
func wheel(t *testing.T, docs int, datasets ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	h := trace.Header{Model: trace.Model{Name: "wheel", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 4, TopK: 1, Vocabulary: 5}}
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range docs {
		d := &trace.Document{Dataset: datasets[i%len(datasets)], ID: fmt.Sprint(i)}
		for p := range 9 {
			e := int32(i*7+p*p) % 4
			d.Tokens = append(d.Tokens, e+1)
			d.Experts = append(d.Experts, e, (e+1)%4, (e+2)%4)
			d.Weights = append(d.Weights, 1, 1, 1)
		}
		if err := w.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTrain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "predictors")
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-trace", wheel(t, 40, "wheel"), "-out", out, "-horizons", "1,2", "-only", "transition,inter-layer,ensemble", "-tokens", "600", "-batch", "32", "-width", "8"}, &stdout, &stderr); code != 0 {
		t.Fatalf("status %d: %s", code, &stderr)
	}
	if s := stdout.String(); !strings.Contains(s, "inter-layer: ") || !strings.Contains(s, "3 predictors") {
		t.Errorf("printed %q", s)
	}
	for _, f := range []string{"predictors.json", "transition.safetensors", "inter-layer.safetensors", "ensemble.safetensors"} {
		if _, err := os.Stat(filepath.Join(out, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestLeaveOut(t *testing.T) {
	dir, out := wheel(t, 40, "wheel", "axle"), t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each"}, &stdout, &stderr); code != 0 {
		t.Fatalf("status %d: %s", code, &stderr)
	}
	if s := stdout.String(); !strings.Contains(s, "axle           3          1.000 / 1.000") || !strings.Contains(s, "mean") {
		t.Errorf("printed %q", s)
	}
	stdout.Reset()
	if code := run(context.Background(), []string{"-trace", dir, "-test", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each"}, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "40 test documents") {
		t.Errorf("status %d, printed %q, %s", code, &stdout, &stderr)
	}
	stdout.Reset()
	if code := run(context.Background(), []string{"-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-datasets", "axle", "-leave-out", "axle"}, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "no documents") {
		t.Errorf("status %d, %s", code, &stderr)
	}
	if text, err := os.ReadFile(filepath.Join(out, "leave-out.json")); err != nil || !strings.Contains(string(text), `"wheel"`) {
		t.Errorf("%v, %.100s", err, text)
	}
	stdout.Reset()
	if code := run(context.Background(), []string{"-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "axle"}, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "1 predictors") {
		t.Errorf("status %d, printed %q, %s", code, &stdout, &stderr)
	}
}

func TestStatus(t *testing.T) {
	dir := wheel(t, 20, "wheel")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "-trace"},
		{[]string{"-h"}, 0, "Flags"},
		{[]string{"-trace", dir, "more"}, 2, "no other arguments"},
		{[]string{"-trace", dir, "-horizons", "1,x"}, 2, `"x"`},
		{[]string{"-trace", filepath.Join(dir, "none")}, 1, "none"},
		{[]string{"-trace", dir, "-horizons", "3"}, 1, "3"},
		{[]string{"-trace", dir, "-horizons", "1", "-only", "oracel"}, 1, "oracel"},
		{[]string{"-trace", dir, "-backend", "abacus"}, 1, "abacus"},
		{[]string{"-trace", dir, "-split", ".9,.2"}, 1, ".15,.15"},
		{[]string{"-trace", dir, "-leave-out", "axle"}, 1, `["wheel"]`},
		{[]string{"-trace", dir, "-datasets", "wheel,axle"}, 1, `"axle"`},
		{[]string{"-trace", dir, "-with", "nowhere"}, 1, "nowhere"},
		{[]string{"-trace", dir, "-limit", "-1s", "-horizons", "1"}, 1, "limit"},
		{[]string{"-trace", dir, "-horizons", "1", "-leave-out", "wheel"}, 1, "no documents"},
		{[]string{"-trace", dir, "-valid", dir, "-leave-out", "each"}, 2, "-test"},
		{[]string{"-trace", dir, "-test", dir}, 2, "-test"},
		{[]string{"-trace", dir, "-horizons", "1", "-leave-out", "each", "-test", "nowhere"}, 1, "nowhere"},
	} {
		var stdout, stderr bytes.Buffer
		c.args = append([]string{"-out", t.TempDir()}, c.args...)
		if code := run(context.Background(), c.args, &stdout, &stderr); code != c.code || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%q: status %d, want %d; printed %q, want %q in it", c.args, code, c.code, &stderr, c.says)
		}
	}
}
