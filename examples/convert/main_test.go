package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const fixtures = "../../testdata/traces/"

func TestConvert(t *testing.T) {
	dir := t.TempDir()
	call := func(args ...string) (int, string, string) { return clitest.Run(t, new(options).program(), args...) }
	status, out, errs := call("-from", "bigmoe", "-in", fixtures+"bigmoeonedge/gptoss-cut.route.csv", "-out", dir+"/trace")
	require.Equal(t, cli.Done, status, errs)
	for _, part := range []string{"1 documents, 6 tokens", "36 layers, 128 experts, top-k 2", "\n   35 "} {
		assert.Contains(t, out, part)
	}
	status, out, errs = call("-validate", dir+"/trace")
	require.Equal(t, cli.Done, status, errs)
	assert.Contains(t, out, "is valid: 1 documents, 6 tokens in 1 shards")
	status, _, errs = call("-to", "vllm", "-in", dir+"/trace", "-out", dir+"/experts")
	require.Equal(t, cli.Done, status, errs)
	files, err := filepath.Glob(dir + "/experts/*.npy")
	require.NoError(t, err)
	assert.Len(t, files, 1)
	status, _, errs = call("-to", "vllm", "-in", dir+"/trace", "-out", dir+"/experts")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "not empty")
}

// TestValidate damages one byte of a trace.
func TestValidate(t *testing.T) {
	dir := t.TempDir()
	status, _, errs := clitest.Run(t, new(options).program(), "-quiet", "-from", "bigmoe", "-in", fixtures+"bigmoeonedge/gptoss-cut.route.csv", "-out", dir)
	require.Equal(t, cli.Done, status, errs)
	shards, err := filepath.Glob(dir + "/*.parquet")
	require.NoError(t, err)
	require.Len(t, shards, 1)
	b, err := os.ReadFile(shards[0])
	require.NoError(t, err)
	b[len(b)/3] ^= 4
	require.NoError(t, os.WriteFile(shards[0], b, 0o600))
	status, _, errs = clitest.Run(t, new(options).program(), "-validate", dir)
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, shards[0])
	assert.Contains(t, errs, "1 problems")
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	lines := dir + "/x.jsonl"
	text := `{"input_ids": [5], "exp_ids": [[[0, 1]]]}` + "\n{\n"
	require.NoError(t, os.WriteFile(lines, []byte(text), 0o600))
	for _, c := range []struct {
		args   string
		status int
		want   string // in standard error
	}{
		{"-from allenai -in " + lines + " -out " + dir + "/a -experts 4 -quiet", cli.Partial, "x.jsonl:2"},
		{"-in a -out b", cli.Usage, "one of -from, -to, -validate and -missing"},
		{"-from x -in a -out b", cli.Usage, `no format "x"`},
		{"-from vllm", cli.Usage, "-in and -out"},
		{"-from vllm -in a -out b c", cli.Usage, "unexpected argument"},
		{"-from vllm -in a -out b -top-k -1", cli.Usage, "negative"},
		{"-from vllm -validate a", cli.Usage, "-validate and -missing take none"},
		{"-none", cli.Usage, "flag provided"},
		{"-h", cli.Done, "specmoe"},
		{"-from vllm -in " + dir + "/none -out " + dir + "/b", cli.Failed, "none"},
		{"-validate " + dir + "/none", cli.Failed, "none"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), strings.Fields(c.args)...)
		assert.Equal(t, c.status, status, c.args)
		assert.Contains(t, errs, c.want)
	}
}
