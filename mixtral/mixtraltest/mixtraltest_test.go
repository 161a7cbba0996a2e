package mixtraltest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run returns the logits of a few tokens, [T,V].
func run(t *testing.T, c mixtraltest.Checkpoint, observe mixtral.Hook) []float32 {
	t.Helper()
	backend, err := mixtral.OpenBackend("go:ops_sequential")
	require.NoError(t, err)
	t.Cleanup(backend.Finalize)
	model, err := mixtral.Load(t.Context(), c.FS(), mixtral.Options{Backend: backend})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, model.Close()) })
	out, err := model.Forward(t.Context(), mixtral.Request{
		Tokens: [][]int32{{1, 3, 9, 4, 0, 10}}, Logits: mixtral.AllLogits, Observe: observe})
	require.NoError(t, err)
	return out.Logits[0]
}

// The routing of the model is that of the rule, whatever the shape and the type.
func TestRoute(t *testing.T) {
	for _, c := range []mixtraltest.Checkpoint{
		{Layers: 2, Experts: 4, TopK: 2},
		{Layers: 5, Experts: 7, TopK: 3, Hidden: 24, Heads: 3, KVHeads: 1, ExpertWidth: 5, DType: safetensors.BF16, Fused: true, Shards: 2},
		{Layers: 12, Experts: 16, TopK: 4, Hidden: 64, DType: safetensors.F16, Shards: 3, Vocabulary: 11},
		{Layers: 1, Experts: 1, TopK: 1, Hidden: 8, Heads: 1},
	} {
		t.Run(fmt.Sprintf("%d layers", c.Layers), func(t *testing.T) {
			c.Route = func(layer int, token int32) (experts []int32) {
				for k := range c.TopK {
					experts = append(experts, (token*int32(layer+1)+2*int32(layer)+int32(k))%int32(c.Experts))
				}
				return experts
			}
			layers := 0
			run(t, c, func(_ context.Context, r *mixtral.Routing) error {
				var want []int32
				for _, token := range r.Token {
					want = append(want, c.Route(r.Layer, token)...)
				}
				assert.Equal(t, want, r.Experts, "layer %d", r.Layer)
				layers++
				return nil
			})
			assert.Equal(t, c.Layers, layers)
		})
	}
}

// The layout does not change the model, and the seed does.
func TestLayouts(t *testing.T) {
	plain := run(t, mixtraltest.Checkpoint{}, nil)
	assert.Equal(t, plain, run(t, mixtraltest.Checkpoint{Fused: true}, nil))
	assert.Equal(t, plain, run(t, mixtraltest.Checkpoint{Shards: 2}, nil))
	assert.Equal(t, plain, run(t, mixtraltest.Checkpoint{Shards: 3, Fused: true}, nil))
	assert.NotEqual(t, plain, run(t, mixtraltest.Checkpoint{Seed: 1}, nil))
	files := mixtraltest.Checkpoint{Shards: 2}.FS()
	assert.Len(t, files, 5)
	assert.Contains(t, files, "model-00002-of-00002.safetensors")
}

func TestRoutePanics(t *testing.T) {
	for want, route := range map[string]func(int, int32) []int32{
		"mixtraltest: Route has 64 classes of tokens; must be at most Hidden, 32": func(_ int, token int32) []int32 {
			return []int32{token / 8, 8 + token%8}
		},
		"mixtraltest: Route(0, 0) is [1 1]; must be 2 different experts in [0, 16)":   func(int, int32) []int32 { return []int32{1, 1} },
		"mixtraltest: Route(1, 0) is [1]; must be 2 different experts in [0, 16)":     func(l int, _ int32) []int32 { return []int32{1, 2}[:2-l] },
		"mixtraltest: Route(0, 5) is [0 16]; must be 2 different experts in [0, 16)":  func(_ int, t int32) []int32 { return []int32{0, 11 + t} },
		"mixtraltest: Route(0, 0) is [-1 1]; must be 2 different experts in [0, 16)":  func(int, int32) []int32 { return []int32{-1, 1} },
		"mixtraltest: Route(0, 0) is []; must be 2 different experts in [0, 16)":      func(int, int32) []int32 { return nil },
		"mixtraltest: Route(0, 0) is [1 2 3]; must be 2 different experts in [0, 16)": func(int, int32) []int32 { return []int32{1, 2, 3} },
	} {
		assert.PanicsWithValue(t, want, func() { mixtraltest.Checkpoint{Experts: 16, Route: route}.FS() })
	}
}

func TestConfigAndEdit(t *testing.T) {
	const norm = "model.norm.weight"
	c := mixtraltest.Checkpoint{
		Config: map[string]any{"sliding_window": 3, "tie_word_embeddings": true},
		Edit: func(tensors map[string]*mixtraltest.Tensor) {
			delete(tensors, "lm_head.weight")
			tensors[norm] = &mixtraltest.Tensor{DType: safetensors.F32, Shape: []int{32}, Data: make([]byte, 4*32)}
		},
	}
	checkpoint, err := mixtral.OpenCheckpoint(c.FS())
	require.NoError(t, err)
	defer checkpoint.Close()
	assert.Equal(t, 3, checkpoint.Config().SlidingWindow)
	assert.True(t, checkpoint.Config().TieEmbeddings)
	for _, x := range run(t, c, nil) {
		require.Zero(t, x)
	}
}

func TestTokenizer(t *testing.T) {
	for v, want := range map[int]string{4: "", 64: "hello, world 1", 2000: "Hello, World 1 {}\n"} {
		tk, err := tokenizer.Load(mixtraltest.Checkpoint{Vocabulary: v}.FS(), "tokenizer.json")
		require.NoError(t, err)
		assert.Equal(t, v, tk.VocabSize())
		ids := tk.Encode(want, true)
		assert.Equal(t, int32(1), ids[0])
		assert.NotContains(t, ids, int32(0))
		text, err := tk.Decode(ids, true)
		require.NoError(t, err)
		assert.Equal(t, want, text)
	}
	tk, err := tokenizer.Load(mixtraltest.Checkpoint{}.FS(), "tokenizer.json")
	require.NoError(t, err)
	assert.Equal(t, []int32{1, 3, 0, 4, 0}, tk.Encode("éeX", true))
}
