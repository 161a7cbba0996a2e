package mixtral

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// The host executor agrees with GoMLX's graph on unusual shapes: in prefill on rows
// and on panels, continued and decoded, in all forms of weights.
func TestHostShapes(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	for i, shape := range []struct {
		mixtraltest.Checkpoint
		window int
	}{
		{Checkpoint: mixtraltest.Checkpoint{Layers: 2, Experts: 3, TopK: 2, Hidden: 12, ExpertWidth: 5, Heads: 3, KVHeads: 1, Vocabulary: 11}},
		{Checkpoint: mixtraltest.Checkpoint{Layers: 1, Experts: 1, TopK: 1, Hidden: 34, ExpertWidth: 7, Heads: 17, KVHeads: 1, Vocabulary: 101}, window: 5},
		{Checkpoint: mixtraltest.Checkpoint{Layers: 2, Experts: 100, TopK: 7, Hidden: 40, ExpertWidth: 33, Heads: 4, KVHeads: 4, Vocabulary: 98}, window: 20},
		{Checkpoint: mixtraltest.Checkpoint{Layers: 1, Experts: 4, TopK: 3, Hidden: 300, ExpertWidth: 290, Heads: 6, KVHeads: 2, Vocabulary: 130}},
		{Checkpoint: mixtraltest.Checkpoint{Layers: 1, Experts: 2, TopK: 2, Hidden: 576, ExpertWidth: 70, Heads: 3, KVHeads: 1, Vocabulary: 57}, window: 33},
	} {
		if shape.window > 0 {
			shape.Config = map[string]any{"sliding_window": shape.window}
		}
		for _, form := range []Options{{}, {Quantize: Int8}, {DType: dtypes.BFloat16}, {DType: dtypes.BFloat16, Quantize: Int8}} {
			t.Run(fmt.Sprint(i, form.DType, form.Quantize), func(t *testing.T) {
				tolerance := 1e-5
				if form.DType == dtypes.BFloat16 { // which changes some of the routing
					tolerance = .1
				}
				form.Backend, form.Chunk = b, 45
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				steps := [][]int32{make([]int32, 1+rng.IntN(12)), make([]int32, 13+rng.IntN(60)), make([]int32, 1), make([]int32, 3), make([]int32, 1)}
				for _, s := range steps {
					for j := range s {
						s[j] = rng.Int32N(int32(shape.Vocabulary))
					}
				}
				want, got := logitsOf(t, shape.Checkpoint, form, Whole, steps), logitsOf(t, shape.Checkpoint, form, Stepped, steps)
				for s := range steps {
					require.Less(t, distance(want[s], got[s]), tolerance, "step %d of %d tokens", s, len(steps[s]))
				}
			})
		}
	}
}

// distance returns the length of a-b relative to that of a.
func distance(a, b []float32) float64 {
	var off, size float64
	for i, v := range a {
		off += float64(v-b[i]) * float64(v-b[i])
		size += float64(v) * float64(v)
	}
	return math.Sqrt(off / size)
}

// logitsOf returns all logits of a document that is computed in steps.
func logitsOf(t *testing.T, c mixtraltest.Checkpoint, o Options, e Executor, steps [][]int32) (logits [][]float32) {
	t.Helper()
	o.Executor = e
	m, err := Load(context.Background(), c.FS(), o)
	require.NoError(t, err)
	defer m.Close()
	cache := m.NewCache(1)
	defer cache.Close()
	for _, step := range steps {
		out, err := m.Forward(context.Background(), Request{Tokens: [][]int32{step}, Cache: cache, Logits: AllLogits})
		require.NoError(t, err)
		logits = append(logits, out.Logits[0])
	}
	return logits
}

// The number of processors does not change results, in prefill and decoding.
func TestLanes(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	m, err := Load(context.Background(), mini.FS(), Options{Backend: b})
	require.NoError(t, err)
	defer m.Close()
	run := func(lanes int) (logits [][]float32) {
		m.lanes = lanes
		cache := m.NewCache(1)
		defer cache.Close()
		tokens := make([]int32, 70)
		for i := range tokens {
			tokens[i] = int32(3 + 57*i%4000)
		}
		for _, step := range [][]int32{tokens, {5}, {6, 7, 8}} {
			out, err := m.Forward(context.Background(), Request{Tokens: [][]int32{step}, Cache: cache, Logits: AllLogits})
			require.NoError(t, err)
			logits = append(logits, out.Logits[0])
		}
		return logits
	}
	want := run(1)
	for _, lanes := range []int{2, 5} {
		require.Equal(t, want, run(lanes), "%d lanes", lanes)
	}
}
