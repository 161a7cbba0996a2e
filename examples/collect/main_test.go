package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// command runs the program and returns its status and what it wrote.
func command(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(context.Background(), args, &o, &e)
	return status, o.String(), e.String()
}

func TestStatuses(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "texts.jsonl")
	if err := os.WriteFile(data, []byte(`{"id": "a", "text": "One text."}
{"id": "b", "text": "And another one."}
`), 0o666); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.jsonl")
	if err := os.WriteFile(bad, []byte(`{"id": "a", "text": "One text."}
{"id": "b", "text": "And a cut`), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "trace")
	for _, c := range []struct {
		want int
		said string
		args []string
	}{
		{statusDone, "documents of each data set", []string{"-h"}},
		{statusUsage, "-out is needed", nil},
		{statusUsage, "-data or -sets is needed", []string{"-model", "x", "-out", out}},
		{statusUsage, "want i/n", []string{"-out", out, "-part", "3/2"}},
		{statusUsage, "want i/n", []string{"-out", out, "-part", "1"}},
		{statusUsage, "-tokens 0", []string{"-out", out, "-tokens", "0"}},
		{statusUsage, "-float", []string{"-out", out, "-float", "float64"}},
		{statusUsage, "-dtype", []string{"-out", out, "-dtype", "int8"}},
		{statusUsage, "-executor", []string{"-out", out, "-executor", "fast"}},
		{statusUsage, "-logit-layers", []string{"-out", out, "-logit-layers", "3,2"}},
		{statusUsage, "none of imdb", []string{"-out", out, "-sets", "imbd"}},
		{statusUsage, "format", []string{"-out", out, "-format", "xml"}},
		{statusUsage, "all is said by flags", []string{"-out", out, "data"}},
		{statusUsage, "flag provided but not defined", []string{"-nonsense"}},
		{statusFailed, "no such file", []string{"-out", out, "-data", filepath.Join(dir, "none.jsonl")}},
		{statusFailed, "not in the cache", []string{"-out", out, "-sets", "imdb", "-hub-cache", dir}},
		{statusFailed, "backend", []string{"-out", out, "-data", data, "-backend", "abacus"}},
		{statusFailed, "config.json", []string{"-out", out, "-data", data, "-model", dir, "-tokenizer", "../../testdata/tokenizer/tokenizer.json"}},
		{statusDone, "2 of 2 documents", []string{"-out", out, "-data", data, "-tokens", "8", "-logit-layers", "0,7"}},
		{statusFailed, `seed was "1" and is now "9"`, []string{"-out", out, "-data", data, "-tokens", "8", "-logit-layers", "0,7", "-seed", "9"}},
		{statusPart, "bad.jsonl:2: unexpected end", []string{"-out", out + "2", "-data", bad, "-tokens", "8"}},
	} {
		status, stdout, stderr := command(c.args...)
		if status != c.want || !strings.Contains(stderr, c.said) {
			t.Errorf("%q: status %d, want %d; said %q, want %q", c.args, status, c.want, stderr, c.said)
		}
		if (status == statusDone || status == statusPart) && c.args[0] != "-h" && !strings.Contains(stdout, "tokens in 1 shards written") {
			t.Errorf("%q printed %q", c.args, stdout)
		}
	}
	r, err := trace.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := r.ReadAll()
	if err != nil || len(docs) != 2 || docs[0].Dataset != "texts" {
		t.Errorf("%v, %+v", err, docs)
	}
	if h := r.Header(); len(h.LogitLayers) != 2 || h.Source.Extra["backend"] != "go" || h.Model.Name != "mini" {
		t.Errorf("header %+v", h)
	}
}
