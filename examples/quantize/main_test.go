package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestQuantize quantizes variant b, and again after a shard was lost.
func TestQuantize(t *testing.T) {
	model, out := filepath.Join("..", "..", "testdata", "variants", "b"), filepath.Join(t.TempDir(), "int8")
	for range 2 {
		status, stdout, errs := clitest.Run(t, new(options).program(), "-model", model, "-out", out)
		require.Equal(t, cli.Done, status, errs)
		assert.Contains(t, stdout, "3 shards")
		ck, err := mixtral.OpenCheckpoint(os.DirFS(out))
		require.NoError(t, err)
		dtype, err := ck.DType("model.layers.1.block_sparse_moe.experts.5.w2.weight")
		require.NoError(t, err)
		assert.Equal(t, dtypes.Int8, dtype)
		require.NoError(t, ck.Close())
		require.NoError(t, os.Remove(filepath.Join(out, "model-00002-of-00003.safetensors")))
	}
	other := t.TempDir()
	for i, variant := range []string{"a", "c"} { // of as many layers
		model := filepath.Join("..", "..", "testdata", "variants", variant)
		status, _, errs := clitest.Run(t, new(options).program(), "-model", model, "-out", other)
		assert.Equal(t, []int{cli.Done, cli.Failed}[i], status, errs)
		assert.Equal(t, i == 1, strings.Contains(errs, "exists and is of another checkpoint"), errs)
	}
	status, _, errs := clitest.Run(t, new(options).program())
	assert.Equal(t, cli.Usage, status)
	assert.Contains(t, errs, "-out is required")
}
