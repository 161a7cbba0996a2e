package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func wheel(t *testing.T, docs int, datasets ...string) string {
	_, _, dir := clitest.Wheel(t, docs, datasets...)
	return dir
}

func TestTrain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "predictors")
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", wheel(t, 40, "wheel"), "-out", out, "-horizons", "1,2", "-only", "transition,inter-layer,ensemble", "-tokens", "600", "-batch", "32", "-width", "8")
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "inter-layer: ")
	assert.Contains(t, stdout, "3 predictors")
	for _, f := range []string{"predictors.json", "transition.safetensors", "inter-layer.safetensors", "ensemble.safetensors"} {
		_, err := os.Stat(filepath.Join(out, f))
		assert.NoError(t, err)
	}
}

// Networks of a folder are saved again in 8 bits.
func TestQuantize(t *testing.T) {
	in, dir := wheel(t, 40, "wheel"), t.TempDir()
	full, short := filepath.Join(dir, "full"), filepath.Join(dir, "int8")
	status, _, stderr := clitest.Run(t, new(options).program(), "-trace", in, "-out", full, "-horizons", "1", "-only", "inter-layer", "-tokens", "64", "-batch", "32", "-width", "256")
	require.Equal(t, cli.Done, status, stderr)
	status, _, stderr = clitest.Run(t, new(options).program(), "-trace", in, "-out", short, "-horizons", "1", "-only", "ensemble", "-with", full, "-quantize", "int8")
	require.Equal(t, cli.Done, status, stderr)
	size := func(dir string) int64 {
		info, err := os.Stat(filepath.Join(dir, "inter-layer.safetensors"))
		require.NoError(t, err)
		return info.Size()
	}
	assert.Less(t, size(short), size(full)/3)
	assert.Greater(t, size(short), size(full)/5)
}

func TestLeaveOut(t *testing.T) {
	dir, out := wheel(t, 40, "wheel", "axle"), t.TempDir()
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each")
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "axle           3          1.000 / 1.000")
	assert.Contains(t, stdout, "mean")
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-test", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each")
	assert.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "40 test documents")
	status, _, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-datasets", "axle", "-leave-out", "axle")
	assert.Equal(t, cli.Failed, status, stderr)
	assert.Contains(t, stderr, "no documents")
	text, err := os.ReadFile(filepath.Join(out, "leave-out.json"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `"wheel"`)
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "axle")
	assert.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "1 predictors")
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
		{[]string{"-trace", dir, "more"}, 2, "unexpected argument"},
		{[]string{"-trace", dir, "-horizons", "1,x"}, 2, `"x"`},
		{[]string{"-trace", filepath.Join(dir, "none")}, 1, "none"},
		{[]string{"-trace", dir, "-horizons", "3"}, 1, "3"},
		{[]string{"-trace", dir, "-horizons", "1", "-only", "oracel"}, 1, "oracel"},
		{[]string{"-trace", dir, "-backend", "abacus"}, 1, "abacus"},
		{[]string{"-trace", dir, "-split", ".9,.2"}, 2, "-split"},
		{[]string{"-trace", dir, "-horizons", "1", "-only", "inter-layer", "-devices", "2"}, 1, "2 devices; backend Go Backend has 1"},
		{[]string{"-trace", dir, "-quantize", "int4"}, 2, "-quantize"},
		{[]string{"-trace", dir, "-leave-out", "axle"}, 1, `["wheel"]`},
		{[]string{"-trace", dir, "-datasets", "wheel,axle"}, 1, `"axle"`},
		{[]string{"-trace", dir, "-with", "nowhere"}, 1, "nowhere"},
		{[]string{"-trace", dir, "-limit", "-1s", "-horizons", "1"}, 1, "limit"},
		{[]string{"-trace", dir, "-horizons", "1", "-leave-out", "wheel"}, 1, "no documents"},
		{[]string{"-trace", dir, "-valid", dir, "-leave-out", "each"}, 2, "-test"},
		{[]string{"-trace", dir, "-test", dir}, 2, "-test"},
		{[]string{"-trace", dir, "-horizons", "1", "-leave-out", "each", "-test", "nowhere"}, 1, "nowhere"},
	} {
		c.args = append([]string{"-out", t.TempDir()}, c.args...)
		status, _, stderr := clitest.Run(t, new(options).program(), c.args...)
		assert.Equal(t, c.code, status, c.args)
		assert.Contains(t, stderr, c.says)
	}
}

// Predictors are fitted on a trace of an encoder and a decoder; a transformer, which
// requires a decoder, is an error.
func TestStacks(t *testing.T) {
	out, in := filepath.Join(t.TempDir(), "predictors"), clitest.Stacks(t, 40)
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", in, "-out", out, "-horizons", "1,2,token", "-only", "transition,token id,inter-layer,ensemble", "-tokens", "600", "-batch", "32", "-width", "8")
	require.Equal(t, cli.Done, status, stderr)
	assert.Contains(t, stdout, "inter-layer: ")
	assert.Contains(t, stdout, "4 predictors")
	status, _, stderr = clitest.Run(t, new(options).program(), "-trace", in, "-out", out, "-horizons", "1", "-only", "routing transformer", "-transformer", "1,32,8")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, stderr, "routing transformer reads tokens one after another")
	status, _, stderr = clitest.Run(t, new(options).program(), "-trace", in, "-out", out, "-horizons", "3")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, stderr, "horizon of 3 layers in a model of 3")
}
