package main

import (
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const documents = `{"id": "a", "text": "Once upon a time there was a little girl."}
{"id": "bad"}
{"id": "b", "ids": [1, 17, 400, 23]}
`

// input writes the documents and what examples/forward writes for them.
func input(t *testing.T, dir string, flags ...string) (in string, want []byte) {
	t.Helper()
	in = filepath.Join(dir, "in.jsonl")
	require.NoError(t, os.WriteFile(in, []byte(documents), 0o600))
	var model cli.Model
	outputs := cli.Outputs{In: in, Out: filepath.Join(dir, "want.safetensors"), Greedy: 5, Logits: true}
	f := flag.NewFlagSet("", flag.PanicOnError)
	model.Flags(f)
	require.NoError(t, f.Parse(flags))
	m, free, err := model.Load(t.Context())
	require.NoError(t, err)
	defer free()
	made, bad, err := outputs.Compute(t.Context(), "forward", &model, m, nil, io.Discard)
	require.NoError(t, err)
	var incomplete *cli.Incomplete
	require.ErrorAs(t, outputs.Write(made, bad), &incomplete)
	want, err = os.ReadFile(outputs.Out)
	require.NoError(t, err)
	return in, want
}

// With each policy the outputs are those of examples/forward.
func TestPolicies(t *testing.T) {
	for _, form := range [][]string{nil, {"-quantize", "int8", "-dtype", "bfloat16"}} {
		dir := t.TempDir()
		in, want := input(t, dir, form...)
		out, figures := filepath.Join(dir, "out.safetensors"), filepath.Join(dir, "figures.json")
		run := func(args ...string) (stdout string) {
			args = append(append([]string{"-in", in, "-out", out, "-greedy", "5", "-json", figures}, args...), form...)
			status, stdout, errs := clitest.Run(t, new(options).program(), args...)
			require.Equal(t, cli.Partial, status, errs)
			require.Equal(t, "offload: "+in+":2: document \"bad\": has both or neither of text and ids\noffload: 1 lines of "+in+" omitted\n", errs)
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			require.Equal(t, want, got, args)
			return stdout
		}
		for _, p := range policies {
			stdout := run("-policy", p.name, "-slots", "9")
			assert.Contains(t, stdout, p.name)
			assert.Contains(t, stdout, "(7.0 % of the experts)")
			raw, err := os.ReadFile(figures)
			require.NoError(t, err)
			var all struct{ Runs []cli.Telemetry }
			require.NoError(t, json.Unmarshal(raw, &all))
			require.Len(t, all.Runs, 1)
			r := all.Runs[0]
			assert.Equal(t, 8, r.Decode.Tokens, "two documents, each without its first token")
			assert.EqualValues(t, 8*32, r.Decode.Total.Requests)
			assert.Len(t, r.Token, 8)
			assert.Len(t, r.FirstToken, 2)
			assert.Equal(t, p.predict, r.Decode.Total.Prefetched > 0, p.name)
			assert.Positive(t, r.Decode.Total.Misses)
			assert.Equal(t, p.evict, r.Store.Policy)
		}
		stdout := run("-compare", "lru, prefetch,on-demand", "-device-memory", "16MB", "-host-memory", "9MiB")
		assert.Contains(t, stdout, "outputs are equal")
		assert.Contains(t, stdout, "prefetch: gate reuse")
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	require.NoError(t, os.WriteFile(in, []byte(documents), 0o600))
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{cli.Usage, "-in is required", []string{"-in", ""}},
		{cli.Usage, "-out is required", []string{"-out", ""}},
		{cli.Usage, "-greedy is -1", []string{"-greedy", "-1"}},
		{cli.Usage, "-distance is 0 layers", []string{"-distance", "0"}},
		{cli.Usage, `-policy: policy "mru"; must be one of on-demand, lru`, []string{"-policy", "mru"}},
		{cli.Usage, `-compare: policy "mru"`, []string{"-compare", "lru,mru"}},
		{cli.Usage, "-predictor is empty", []string{"-policy", "prefetch", "-predictor", ""}},
		{cli.Usage, `for flag -device-memory: size "24XB": must be a number of bytes`, []string{"-device-memory", "24XB"}},
		{cli.Usage, `for flag -host-memory: size "-1"`, []string{"-host-memory", "-1"}},
		{cli.Usage, "-slots is -3", []string{"-slots", "-3"}},
		{cli.Usage, "exclude each other", []string{"-slots", "3", "-device-memory", "1GB"}},
		{cli.Usage, "-host-memory requires -device-memory", []string{"-host-memory", "1GB"}},
		{cli.Usage, "unexpected argument", []string{"x"}},
		{cli.Failed, "-device-memory is required: the model needs at least 5222784 bytes (5.223 MB), for 2 experts of 221184 bytes and 4780416 bytes of other weights; all of its 128 experts need 33091968 bytes (33.09 MB)", nil},
		{cli.Failed, "-device-memory 5222783: offload: device memory of 5222783 bytes is too little: the model needs 5222784 bytes", []string{"-device-memory", "5222783"}},
		{cli.Failed, "1 slots are too few", []string{"-slots", "1"}},
		{cli.Failed, "-model /no/model: no such folder", []string{"-slots", "9", "-model", "/no/model"}},
		{cli.Failed, "/no/file", []string{"-slots", "9", "-in", "/no/file"}},
		{cli.Failed, "-predictor /no/folder: neither gate reuse nor a folder", []string{"-slots", "9", "-policy", "prefetch", "-predictor", "/no/folder"}},
		{cli.Failed, "-predictor " + dir + ": open predictors.json", []string{"-slots", "9", "-policy", "prefetch", "-predictor", dir}},
		{cli.Failed, "-distance 16: speculate: horizon of 16 layers in a model of 16", []string{"-slots", "9", "-policy", "prefetch", "-distance", "16", "-greedy", "2"}},
		{cli.Failed, `backend "abacus"`, []string{"-slots", "9", "-backend", "abacus"}},
	} {
		args := append([]string{"-in", in, "-out", filepath.Join(dir, "out")}, c.args...)
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		assert.Equal(t, c.status, status, "%q: %s", c.args, errs)
		assert.Contains(t, errs, c.want, "%q", c.args)
	}
	_, err := os.Stat(filepath.Join(dir, "out"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
