package main

import (
	"bytes"
	"context"
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

func TestStatuses(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "texts.jsonl")
	require.NoError(t, os.WriteFile(data, []byte(`{"id": "a", "text": "One text."}
{"id": "b", "text": "And another one."}
`), 0o666))
	bad := filepath.Join(dir, "bad.jsonl")
	require.NoError(t, os.WriteFile(bad, []byte(`{"id": "a", "text": "One text."}
{"id": "b", "text": "And a cut`), 0o666))
	out := filepath.Join(dir, "trace")
	for _, c := range []struct {
		want int
		said string
		args []string
	}{
		{cli.Done, "documents of each data set", []string{"-h"}},
		{cli.Usage, "-out is required", nil},
		{cli.Usage, "-data or -sets is required", []string{"-model", "x", "-out", out}},
		{cli.Usage, "must be i/n", []string{"-out", out, "-part", "3/2"}},
		{cli.Usage, "must be i/n", []string{"-out", out, "-part", "1"}},
		{cli.Usage, "-tokens is 0; must be at least 1", []string{"-out", out, "-tokens", "0"}},
		{cli.Usage, "-docs is -1; must be at least 0", []string{"-out", out, "-docs", "-1"}},
		{cli.Usage, "-float", []string{"-out", out, "-float", "float64"}},
		{cli.Usage, "-dtype", []string{"-out", out, "-dtype", "int8"}},
		{cli.Usage, "-executor", []string{"-out", out, "-executor", "fast"}},
		{cli.Usage, "-logit-layers", []string{"-out", out, "-logit-layers", "3,2"}},
		{cli.Usage, "the sets are", []string{"-out", out, "-sets", "imbd"}},
		{cli.Usage, "-format: unknown format \"xml\"", []string{"-out", out, "-format", "xml"}},
		{cli.Usage, "unexpected argument", []string{"-out", out, "data"}},
		{cli.Usage, "flag provided but not defined", []string{"-nonsense"}},
		{cli.Failed, "no such file", []string{"-out", out, "-data", filepath.Join(dir, "none.jsonl")}},
		{cli.Failed, "not in the cache", []string{"-out", out, "-sets", "imdb", "-hub-cache", dir}},
		{cli.Failed, "backend", []string{"-out", out, "-data", data, "-backend", "abacus"}},
		{cli.Failed, "config.json", []string{"-out", out, "-data", data, "-model", dir, "-tokenizer", "../../testdata/tokenizer/tokenizer.json"}},
		{cli.Done, "2 of 2 documents", []string{"-out", out, "-data", data, "-tokens", "8", "-logit-layers", "0,7"}},
		{cli.Failed, `seed was "1" and is now "9"`, []string{"-out", out, "-data", data, "-tokens", "8", "-logit-layers", "0,7", "-seed", "9"}},
		{cli.Partial, "bad.jsonl:2: unexpected end", []string{"-out", out + "2", "-data", bad, "-tokens", "8"}},
	} {
		status, stdout, stderr := clitest.Run(t, new(options).program(), c.args...)
		assert.Equal(t, c.want, status, "%q: %s", c.args, stderr)
		assert.Contains(t, stderr, c.said)
		if (status == cli.Done || status == cli.Partial) && c.args[0] != "-h" {
			assert.Contains(t, stdout, "tokens in 1 shards written")
		}
	}
	r, err := trace.Open(out)
	require.NoError(t, err)
	docs, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, docs, 2)
	assert.Equal(t, "texts", docs[0].Dataset)
	h := r.Header()
	require.Len(t, h.LogitLayers, 2)
	assert.Equal(t, "go", h.Source.Extra["backend"])
	assert.Equal(t, "mini", h.Model.Name)
}

// All documents of the user's own files are chosen unless -docs is given. The
// program reports how many were not chosen.
func TestDocs(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "{\"text\": \"Number %d.\"}\n", i)
	}
	data := filepath.Join(dir, "texts.jsonl")
	require.NoError(t, os.WriteFile(data, []byte(text.String()), 0o666))
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-quiet", "-data", data, "-tokens", "2", "-out", filepath.Join(dir, "all"))
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "200 documents, 400 tokens in 8 shards written")
	assert.NotContains(t, stdout, "chosen")
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-quiet", "-data", data, "-tokens", "2", "-out", filepath.Join(dir, "some"), "-docs", "150")
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "150 of 200 documents chosen (-docs)")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	status := new(options).program().Start(ctx, []string{"-out", t.TempDir()}, cli.Streams{Out: &stdout, Err: &stderr})
	assert.Equal(t, cli.Failed, status)
	assert.Regexp(t, `^collect: interrupted; 0 shards in \S+ are kept; run the same command to resume\n$`, stderr.String())
	assert.Empty(t, stdout.String())
}
