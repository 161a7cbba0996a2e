package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wheel writes a trace in which a token's expert moves on by one from layer to
// layer.
func wheel(t *testing.T, docs int, datasets ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	h := trace.Header{Model: trace.Model{Name: "wheel", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 4, TopK: 1, Vocabulary: 200}}
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	require.NoError(t, err)
	for i := range docs {
		d := &trace.Document{Dataset: datasets[i%len(datasets)], ID: fmt.Sprint(i)}
		for p := range 9 {
			e := int32(i*7+p*p) % 4
			d.Tokens = append(d.Tokens, int32(4*i)+e) // no two documents are equal
			d.Experts = append(d.Experts, e, (e+1)%4, (e+2)%4)
			d.Weights = append(d.Weights, 1, 1, 1)
		}
		require.NoError(t, w.Write(d))
	}
	require.NoError(t, w.Close())
	return dir
}

func TestTrain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "predictors")
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", wheel(t, 40, "wheel"), "-out", out, "-horizons", "1,2", "-only", "transition,inter-layer,ensemble", "-tokens", "600", "-batch", "32", "-width", "8")
	require.Equal(t, cli.Done, status, stderr)
	s := stdout
	assert.Contains(t, s, "inter-layer: ")
	assert.Contains(t, s, "3 predictors")
	for _, f := range []string{"predictors.json", "transition.safetensors", "inter-layer.safetensors", "ensemble.safetensors"} {
		_, err := os.Stat(filepath.Join(out, f))
		assert.NoError(t, err)
	}
}

func TestLeaveOut(t *testing.T) {
	dir, out := wheel(t, 40, "wheel", "axle"), t.TempDir()
	status, stdout, stderr := clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each")
	require.Equal(t, cli.Done, status, stderr)
	s := stdout
	assert.Contains(t, s, "axle           3          1.000 / 1.000")
	assert.Contains(t, s, "mean")
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-test", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "each")
	assert.Equal(t, 0, status, stderr)
	assert.Contains(t, stdout, "40 test documents")
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-datasets", "axle", "-leave-out", "axle")
	assert.Equal(t, 1, status, stderr)
	assert.Contains(t, stderr, "no documents")
	text, err := os.ReadFile(filepath.Join(out, "leave-out.json"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `"wheel"`)
	status, stdout, stderr = clitest.Run(t, new(options).program(), "-trace", dir, "-out", out, "-horizons", "1", "-only", "transition", "-leave-out", "axle")
	assert.Equal(t, 0, status, stderr)
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
