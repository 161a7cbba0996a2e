package mixtral_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRemote compares what a device with memory of its own computes, on XLA's CPU,
// with the Go backend: documents of different lengths, of which all tokens choose
// the same experts at one layer, continued until the recent keys and values are
// flushed, with hooks that observe and that intervene.
func TestRemote(t *testing.T) {
	plugin := os.Getenv(xlaVariable)
	if plugin == "" {
		t.Skipf("set %s to an XLA plugin", xlaVariable)
	}
	xla, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	goBackend, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	// Five layers are two groups of programs.
	checkpoint := mixtraltest.Checkpoint{Layers: 5, Experts: 5, TopK: 2, Heads: 4, KVHeads: 2,
		Route: func(layer int, token int32) []int32 {
			if layer == 1 {
				return []int32{3, 1}
			}
			e := (token + int32(layer)) % 5
			return []int32{e, (e + 2) % 5}
		}}
	hooks := map[string]mixtral.Hook{
		"ablate": mixtral.Ablate(1, 3, mixtral.ZeroWeight),
		"mask":   mixtral.MaskExperts(0, 2),
		"all":    mixtral.Chain(mixtral.Ablate(2, 1, mixtral.ZeroWeight), mixtral.Force(1, []int{4, 0}, []float32{0, 0})),
		"none":   nil,
	}
	want := load(t, checkpoint.FS(), mixtral.Options{Backend: goBackend})
	for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Auto, mixtral.Whole} {
		for _, quantize := range []mixtral.QuantizeMode{mixtral.AsStored, mixtral.Int8} {
			got := load(t, checkpoint.FS(), mixtral.Options{Backend: remote{xla}, Executor: ex, Quantize: quantize, Chunk: 256})
			want := want
			if quantize == mixtral.Int8 {
				want = load(t, checkpoint.FS(), mixtral.Options{Backend: goBackend, Quantize: quantize, DType: dtypes.Float32})
			}
			for name, hook := range hooks {
				if ex == mixtral.Whole && hook != nil || quantize == mixtral.Int8 && name != "none" && name != "all" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s", ex, quantize, name), func(t *testing.T) { testRemote(t, want, got, hook) })
			}
		}
	}
}

func testRemote(t *testing.T, want, got *mixtral.Model, intervene mixtral.Hook) {
	r := rand.New(rand.NewPCG(7, 8))
	vocabulary := int32(want.Config().VocabSize)
	random := func(n int) []int32 {
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = r.Int32N(vocabulary)
		}
		return ids
	}
	var caches []*mixtral.Cache
	step := func(tokens [][]int32, input bool) {
		var outs []*mixtral.Output
		var seen []map[string][]float32
		for i, m := range []*mixtral.Model{want, got} {
			all := map[string][]float32{}
			observe := func(_ context.Context, rt *mixtral.Routing) error {
				for j, doc := range rt.Document {
					key := fmt.Sprint(rt.Layer, doc)
					e := len(rt.Logits) / len(rt.Document)
					k := len(rt.Experts) / len(rt.Document)
					all[key] = append(all[key], rt.Logits[j*e:(j+1)*e]...)
					all[key] = append(all[key], rt.Weights[j*k:(j+1)*k]...)
					for _, x := range rt.Experts[j*k : (j+1)*k] {
						all[key] = append(all[key], float32(x))
					}
					if input {
						d := len(rt.Input) / len(rt.Document)
						all[key] = append(all[key], rt.Input[j*d:(j+1)*d]...)
					}
				}
				return nil
			}
			req := mixtral.Request{Tokens: tokens, Logits: mixtral.AllLogits, Observe: observe, Intervene: intervene, RouterInput: input}
			if caches != nil {
				req.Cache = caches[i]
			}
			out, err := m.Forward(context.Background(), req)
			require.NoError(t, err)
			outs, seen = append(outs, out), append(seen, all)
		}
		for i := range tokens {
			assert.LessOrEqual(t, maxDiff(t, outs[1].Logits[i], outs[0].Logits[i]), 2e-4, "logits of document %d", i)
		}
		require.Len(t, seen[1], len(seen[0]))
		for key, values := range seen[0] {
			require.Equal(t, len(values), len(seen[1][key]), "values of layer and document %s", key)
			assert.LessOrEqual(t, maxDiff(t, seen[1][key], values), 2e-4, "routing of layer and document %s", key)
		}
	}
	step([][]int32{random(250)}, false) // one expert has more than its usual share of rows
	step([][]int32{random(250)}, false)
	step([][]int32{random(40), random(60), random(50), random(33), random(64)}, false)
	caches = []*mixtral.Cache{want.NewCache(3), got.NewCache(3)}
	defer caches[0].Close()
	defer caches[1].Close()
	step([][]int32{random(150), random(7), random(1)}, true)
	for i := range 66 {
		step([][]int32{random(1), random(1), random(1)}, i == 0)
	}
	step([][]int32{random(3), random(1), random(2)}, false)
	step([][]int32{random(1), random(1), random(1)}, false)
}
