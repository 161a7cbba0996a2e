package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With a limit of device memory, a trace has the same files.
func TestDeviceMemory(t *testing.T) {
	dir := t.TempDir()
	collected := func(name string, args ...string) map[string]string {
		out := filepath.Join(dir, name)
		args = append([]string{"-quiet", "-out", out, "-docs", "2", "-tokens", "24", "-batch", "64", "-logits", "-router-input"}, args...)
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		require.Equal(t, cli.Done, status, errs)
		files := map[string]string{}
		shards, err := filepath.Glob(filepath.Join(out, "*.parquet"))
		require.NoError(t, err)
		for _, f := range shards {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			files[filepath.Base(f)] = string(b)
		}
		return files
	}
	want := collected("resident")
	require.Greater(t, len(want), 2)
	for name, args := range map[string][]string{
		"least": {"-slots", "2"}, "half": {"-device-memory", "18.9MB"}, "host": {"-device-memory", "6MB", "-host-memory", "1GB", "-at-once", "2"},
	} {
		assert.Equal(t, want, collected(name, args...), name)
	}
	for want, args := range map[string][]string{
		"-device-memory 5222783: offload: device memory of 5222783 bytes is too little: the model needs 5222784 bytes": {"-device-memory", "5222783"},
		"-host-memory requires -device-memory": {"-host-memory", "1GB"},
	} {
		_, _, errs := clitest.Run(t, new(options).program(), append(args, "-out", filepath.Join(dir, "none"))...)
		assert.Contains(t, errs, want)
	}
}

// A batch takes what is left, within bounds.
func TestBatch(t *testing.T) {
	big := mixtral.Config{VocabSize: 32000, HiddenSize: 4096, IntermediateSize: 14336, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, Experts: 8, TopK: 2}
	src := mixtral.ExpertSource{Layers: 32, Experts: 8, TopK: 2, Bytes: 176e6, Resident: 2e9}
	document := documentBytes(big, 512)
	assert.InDelta(t, 270e6, float64(document), 20e6, "512 tokens of half a megabyte")
	for _, c := range []struct {
		memory    float64
		documents int
	}{{24e9, 32}, {6e9, 12}, {3e9, 1}, {2.5e9, 1}, {1e9, 1}} {
		n, bytes := batch(int64(c.memory), src, document, 512)
		assert.Equal(t, c.documents, n, c.memory)
		assert.LessOrEqual(t, bytes, int64(n)*document)
		assert.LessOrEqual(t, bytes, max(0, int64(c.memory)-src.Resident-4*int64(src.Bytes)), "the experts in use have their memory")
	}
	assert.Greater(t, documentBytes(big, 4096), document, "its keys and values are kept")
}
