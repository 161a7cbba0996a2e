package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/parquet-go/parquet-go"
)

// wheel writes a trace in which a token's expert moves on by one from layer to
// layer, and predictors fitted on it.
func wheel(t *testing.T) (traceDir, predictors string) {
	t.Helper()
	traceDir, predictors = filepath.Join(t.TempDir(), "trace"), t.TempDir()
	h := trace.Header{Model: trace.Model{Name: "wheel", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 4, TopK: 1, Vocabulary: 5}}
	w, err := trace.Create(traceDir, h, trace.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var docs []*trace.Document
	for i := range 30 {
		d := &trace.Document{Dataset: "wheel", ID: fmt.Sprint(i)}
		for p := range 9 {
			e := int32(i*7+p*p) % 4
			d.Tokens = append(d.Tokens, e+1)
			d.Experts = append(d.Experts, e, (e+1)%4, (e+2)%4)
			d.Weights = append(d.Weights, 1, 1, 1)
		}
		if err := w.Write(d); err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ps := []speculate.Predictor{speculate.NewFrequency(), speculate.NewTransition()}
	if err := speculate.Fit(context.Background(), speculate.Slice(h, docs), speculate.FitOptions{Horizons: speculate.LayersAhead(1, 2)}, ps...); err != nil {
		t.Fatal(err)
	}
	if err := speculate.SaveAll(predictors, nil, ps...); err != nil {
		t.Fatal(err)
	}
	return traceDir, predictors
}

func TestEvaluate(t *testing.T) {
	dir, predictors := wheel(t)
	js, pq := filepath.Join(t.TempDir(), "r.json"), filepath.Join(t.TempDir(), "p.parquet")
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-trace", dir, "-predictors", predictors, "-json", js, "-predictions", pq, "-horizons", "1,2", "-resamples", "100"}, &stdout, &stderr); code != 0 {
		t.Fatalf("status %d: %s", code, &stderr)
	}
	if s := stdout.String(); !strings.Contains(s, "transition  1.000") || !strings.Contains(s, "oracle") || !strings.Contains(s, "decision (us)") {
		t.Errorf("printed %q", s)
	}
	var r speculate.Results
	text, err := os.ReadFile(js)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Documents != 30 || r.Tokens != 270 || r.Costs["transition"].Microseconds <= 0 || r.Costs["transition"].Parameters == 0 {
		t.Errorf("%d documents, %d tokens, costs %v, %v", r.Documents, r.Tokens, r.Costs, err)
	}
	rows, err := parquet.ReadFile[speculate.PredictionRow](pq)
	if err != nil {
		t.Fatal(err)
	}
	// Layers 1 and 2 at distance 1, layer 2 at distance 2; three predictors.
	if len(rows) != 270*3*3 {
		t.Errorf("%d rows, want %d", len(rows), 270*3*3)
	}
}

func TestPart(t *testing.T) {
	dir, predictors := wheel(t)
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-trace", dir, "-split", ".2,.3", "-predictors", predictors, "-horizons", "1", "-by", "layer"}, &stdout, &stderr); code != 0 {
		t.Fatalf("status %d: %s", code, &stderr)
	}
	if s := stdout.String(); !strings.Contains(s, "9 documents, 81 tokens") || !strings.Contains(s, "transition  h=1      2      9") {
		t.Errorf("printed %q", s)
	}
}

func TestStatus(t *testing.T) {
	dir, predictors := wheel(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "-trace"},
		{[]string{"-h"}, 0, "Flags"},
		{[]string{"-trace", dir, "-predictors", predictors, "-horizons", "0"}, 2, `"0"`},
		{[]string{"-trace", dir, "-by", "token"}, 2, "-by layer"},
		{[]string{"-trace", dir, "-split", ".5"}, 1, ".15,.15"},
		{[]string{"-trace", dir, "-predictors", t.TempDir()}, 1, "predictors.json"},
		{[]string{"-trace", dir, "-predictors", predictors, "-horizons", "1", "-only", "no one"}, 1, "no one"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), c.args, &stdout, &stderr); code != c.code || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%q: status %d, want %d; printed %q, want %q in it", c.args, code, c.code, &stderr, c.says)
		}
	}
}
