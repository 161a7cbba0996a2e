package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestForward runs the program on a document of variant b, which transformers computed, with wrong lines around it, on one
// device and on four.
func TestForward(t *testing.T) {
	testForward(t)
	if plugin := os.Getenv("EXPERTSPEC_TEST_XLA"); plugin != "" {
		testForward(t, "-backend", "xla:"+plugin, "-devices", "2x2")
	}
}

func testForward(t *testing.T, args ...string) {
	model := filepath.Join("..", "..", "testdata", "variants", "b")
	ref, err := safetensors.Open(os.DirFS(model), "reference.safetensors")
	require.NoError(t, err)
	defer ref.Close()
	ids, err := ref.Int32s("case2.input_ids")
	require.NoError(t, err)
	line, err := json.Marshal(map[string]any{"id": "x", "ids": ids})
	require.NoError(t, err)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.safetensors")
	text := "\n{\"id\": \"y\"}\n" + string(line) + "\n[1]\n{\"id\": \"x\", \"ids\": [1]}\n{\"ids\": [1]}\n{\"id\": \"z\", \"ids\": [67]}"
	require.NoError(t, os.WriteFile(in, []byte(text), 0o600))
	status, _, errs := clitest.Run(t, new(options).program(), append(args, "-model", model, "-in", in, "-out", out, "-greedy", "24")...)
	require.Equal(t, cli.Partial, status, errs)
	for _, want := range []string{"in.jsonl:2: document \"y\": has both or neither", "in.jsonl:4: not a document", "in.jsonl:5: id \"x\" is in line 3 already",
		"in.jsonl:6: the document has no id", "in.jsonl:7: document \"z\": mixtral: document 0, token 0: id 67", "5 lines"} {
		assert.Contains(t, errs, want)
	}
	got, err := safetensors.Open(os.DirFS(dir), "out.safetensors")
	require.NoError(t, err)
	defer got.Close()
	want := map[string][]int{"x.input_ids": {33}, "x.logits": {33, 67}, "x.router_logits": {2, 33, 6}, "x.experts": {33, 2, 3}, "x.weights": {33, 2, 3}, "x.greedy_ids": {24}}
	assert.Len(t, got.Names(), len(want))
	for name, shape := range want {
		info, ok := got.Info(name)
		require.True(t, ok, "%s is %v, expected %v", name, info.Shape, shape)
		assert.Equal(t, shape, info.Shape, "%s is %v, expected %v", name, info.Shape, shape)
	}
	a, errA := got.Int32s("x.greedy_ids")
	b, errB := ref.Int32s("case2.greedy_ids")
	require.NoError(t, errA)
	require.NoError(t, errB)
	assert.Equal(t, b, a)
	x, errX := got.Float32s("x.router_logits")
	y, errY := ref.Float32s("case2.router_logits")
	require.NoError(t, errX)
	require.NoError(t, errY)
	require.Len(t, x, len(y))
	for i := range x {
		d := x[i] - y[i]
		require.LessOrEqual(t, d, float32(1e-4), "router logit %d is %v, expected %v", i, x[i], y[i])
		require.GreaterOrEqual(t, d, float32(-1e-4), "router logit %d is %v, expected %v", i, x[i], y[i])
	}
}

// TestPlan prints the plan of the embedded model, as a table and as JSON, for backends
// that do not exist here too.
func TestPlan(t *testing.T) {
	status, out, errs := clitest.Run(t, new(options).program(), "-plan", "-tokens", "40", "-greedy", "25", "-batch", "3")
	require.Equal(t, cli.Done, status, errs)
	for _, row := range []string{"embedding and head 786432 3.146 MB - -", "attention 393216 1.573 MB - -", "routers and norms 15456 61.82 KB - -",
		"experts 7077888 28.31 MB - -", "cache of 3 x 65 tokens - 872.4 KB - -"} {
		assert.Contains(t, strings.Join(strings.Fields(out), " "), row)
	}
	status, out, errs = clitest.Run(t, new(options).program(), "-plan=json", "-tokens", "40", "-backend", "xla:cuda", "-dtype", "bfloat16", "-quantize", "int8", "-device-memory", "10MB")
	require.Equal(t, cli.Done, status, errs)
	var x struct {
		DType, Quantize string
		Plan            struct {
			Experts     struct{ Device, Parameters int64 }
			Cache       struct{ Device int64 }
			ExpertBytes int64 `json:"expert_bytes"`
		}
		Total struct{ Parameters, Device, Host int64 }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &x), out)
	assert.Equal(t, "bfloat16 int8", x.DType+" "+x.Quantize)
	expert := int64(3*96*192 + 4*(2*192+96))
	assert.Equal(t, expert, x.Plan.ExpertBytes)
	assert.Equal(t, 128*expert, x.Plan.Experts.Device)
	assert.Zero(t, x.Plan.Cache.Device, "nothing is generated")
	assert.EqualValues(t, 8272992, x.Total.Parameters)
	assert.Positive(t, x.Total.Host, "loading")

	dir := t.TempDir()
	for _, args := range [][]string{{"-plan"}, {"-in", filepath.Join(dir, "x"), "-out", filepath.Join(dir, "y")}} {
		status, _, errs = clitest.Run(t, new(options).program(), append(args, "-device-memory", "20MB")...)
		assert.Equal(t, cli.Failed, status)
		assert.Contains(t, errs, "-device-memory 20000000: the weights need 33091968 bytes of memory, there are 20000000: embedding and head 3145728, attention 1572864, "+
			"routers and norms 61824, experts 28311552")
	}
	status, _, errs = clitest.Run(t, new(options).program(), "-plan", "-model", "mini-switch")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "not for a Switch Transformer")
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"-in is required":       {"-out", "x"},
		"-out is required":      {"-in", "x"},
		"-greedy is -1":         {"-in", "x", "-out", "y", "-greedy", "-1"},
		"-tokens is 0":          {"-plan", "-tokens", "0"},
		"-batch is 0 documents": {"-plan", "-batch", "0"},
		"must be table or json": {"-plan=xml"},
		"auto, stepped":         {"-in", "x", "-out", "y", "-executor", "fast"},
		"float32 or bfloat16":   {"-in", "x", "-out", "y", "-dtype", "int8"},
		`devices "two"`:         {"-in", "x", "-out", "y", "-devices", "two"},
		"unexpected argument":   {"-in", "x", "-out", "y", "z"},
		"flag provided but not": {"-nonsense"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		assert.Equal(t, cli.Usage, status, args)
		assert.Contains(t, errs, want)
	}
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"/no/file": {"-in", "/no/file", "-out", "y"},
		"forward: -model /no/model: no such folder\n":                   {"-model", "/no/model", "-in", "/no/file", "-out", "y"},
		"not a checkpoint: it has no config.json":                       {"-model", dir, "-in", "/no/file", "-out", "y"},
		"main.go: not a folder":                                         {"-model", "main.go", "-in", "/no/file", "-out", "y"},
		`backend "abacus"`:                                              {"-backend", "abacus", "-in", "/no/file", "-out", "y"},
		"Options.Mesh is 2x3: 6 devices require an XLA backend, not go": {"-devices", "2x3", "-in", "/no/file", "-out", "y"},
		"-devices 4: a Switch Transformer runs on one":                  {"-devices", "4", "-model", "mini-switch", "-in", "/no/file", "-out", "y"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		assert.Equal(t, cli.Failed, status, args)
		assert.Contains(t, errs, want)
	}
}

// TestForwardSwitch runs the program on a text of the embedded Switch Transformer, which
// transformers computed.
func TestForwardSwitch(t *testing.T) {
	ref, err := safetensors.Open(os.DirFS(filepath.Join("..", "..", "testdata", "mini-switch")), "reference.safetensors")
	require.NoError(t, err)
	defer ref.Close()
	line := map[string]any{"id": "case2"}
	for field, name := range map[string]string{"ids": "input_ids", "decoder_ids": "decoder_input_ids"} {
		line[field], err = ref.Int32s("case2." + name)
		require.NoError(t, err)
	}
	text, err := json.Marshal(line)
	require.NoError(t, err)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.safetensors")
	text = append(text, "\n{\"id\": \"text\", \"text\": \"Call me\"}\n{\"id\": \"none\", \"ids\": [5], \"decoder_ids\": []}\n"...)
	require.NoError(t, os.WriteFile(in, text, 0o600))
	status, _, errs := clitest.Run(t, new(options).program(), "-model", "mini-switch", "-in", in, "-out", out, "-greedy", "24")
	require.Equal(t, cli.Partial, status, errs)
	assert.Contains(t, errs, `in.jsonl:3: document "none": switchtransformer: document 0, decoder: no tokens`)
	got, err := safetensors.Open(os.DirFS(dir), "out.safetensors")
	require.NoError(t, err)
	defer got.Close()
	assert.Len(t, got.Names(), 20)
	for _, name := range ref.Names() {
		if !strings.HasPrefix(name, "case2.") || name == "case2.greedy_nocache_ids" {
			continue
		}
		want, _ := ref.Info(name)
		info, ok := got.Info(name)
		require.True(t, ok, name)
		require.Equal(t, want.Shape, info.Shape, name)
		require.Equal(t, want.DType, info.DType, name)
		if want.DType == safetensors.I32 {
			a, errA := got.Int32s(name)
			b, errB := ref.Int32s(name)
			require.NoError(t, errors.Join(errA, errB))
			assert.Equal(t, b, a, name)
			continue
		}
		a, errA := got.Float32s(name)
		b, errB := ref.Float32s(name)
		require.NoError(t, errors.Join(errA, errB))
		assert.InDeltaSlice(t, b, a, 1e-4, name)
	}
	// without decoder_ids the decoder reads its start token
	start, err := got.Int32s("text.decoder_input_ids")
	require.NoError(t, err)
	assert.Equal(t, []int32{0}, start)

	status, _, errs = clitest.Run(t, new(options).program(), "-model", "mini-switch", "-in", in, "-out", out, "-quantize", "int8")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "-quantize int8: not for a Switch Transformer")
	status, _, errs = clitest.Run(t, new(options).program(), "-model", "mini", "-in", in, "-out", out)
	assert.Equal(t, cli.Partial, status)
	assert.Contains(t, errs, "decoder_ids are for a Switch Transformer")
}
