package switchtransformer_test

import (
	"context"
	"os"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// hostOutputs are logits of the encoder's and the decoder's both forms.
func hostOutputs(t *testing.T, m *switchtransformer.Model) (logits [][]float32) {
	cache := m.NewCache(1)
	defer cache.Close()
	req := switchtransformer.Request{Tokens: [][]int32{someTokens(70, 4128, 1)}, Cache: cache, Logits: switchtransformer.AllLogits}
	for _, n := range []int{1, 40, 1, 7, 1} {
		req.DecoderTokens = [][]int32{someTokens(n, 4128, n)}
		out, err := m.Forward(context.Background(), req)
		require.NoError(t, err)
		logits = append(logits, out.Logits[0])
		req.Tokens = nil
	}
	return logits
}

// The number of processors does not change results.
func TestLanes(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		m := load(t, mini.FS(), switchtransformer.Options{Backend: b, DType: dtype})
		runtime.GOMAXPROCS(1)
		want := hostOutputs(t, m)
		for _, lanes := range []int{2, 5} {
			runtime.GOMAXPROCS(lanes)
			require.Equal(t, want, hostOutputs(t, m), "%d lanes", lanes)
		}
	}
}

// Executor Auto computes on XLA CPU what it computes on the Go backend.
func TestAuto(t *testing.T) {
	plugin := os.Getenv(xlaVariable)
	if plugin == "" {
		plugin = "go" // the test then shows that two passes are equal
	} else {
		plugin = "xla:" + plugin
	}
	var outputs [2][][]float32
	for i, name := range []string{"go", plugin} {
		b, err := mixtral.OpenBackend(name)
		require.NoError(t, err)
		outputs[i] = hostOutputs(t, load(t, mini.FS(), switchtransformer.Options{Backend: b}))
	}
	require.Equal(t, outputs[0], outputs[1])
}
