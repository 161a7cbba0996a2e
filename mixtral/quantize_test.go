package mixtral_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tensorNames returns the hub's names of a model's tensors.
func tensorNames(c mixtral.Config) []string {
	names := []string{"model.embed_tokens.weight", "model.norm.weight"}
	if !c.TieEmbeddings {
		names = append(names, "lm_head.weight")
	}
	for l := range c.Layers {
		for _, name := range []string{"input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
			"self_attn.v_proj", "self_attn.o_proj", "block_sparse_moe.gate"} {
			names = append(names, fmt.Sprintf("model.layers.%d.%s.weight", l, name))
		}
		for e := range c.Experts {
			for m := 1; m <= 3; m++ {
				names = append(names, fmt.Sprintf("model.layers.%d.block_sparse_moe.experts.%d.w%d.weight", l, e, m))
			}
		}
	}
	return names
}

// isQuantized reports whether Int8 quantizes a tensor.
func isQuantized(name string) bool {
	return strings.Contains(name, "_proj.") || strings.Contains(name, ".experts.")
}

// rounded is a quantized matrix in the words of bitsandbytes: weight and SCB.
type rounded struct {
	weight []int8
	scb    []float32
}

// round quantizes w [O,I] in float64, independently of the package.
func round(w []float32, columns int) rounded {
	r := rounded{weight: make([]int8, len(w)), scb: make([]float32, len(w)/columns)}
	for i := range r.scb {
		row := w[i*columns:][:columns]
		for _, v := range row {
			r.scb[i] = max(r.scb[i], float32(math.Abs(float64(v))))
		}
		for j, v := range row {
			if r.scb[i] > 0 {
				r.weight[i*columns+j] = int8(math.RoundToEven(float64(v * (127 / r.scb[i]))))
			}
		}
	}
	return r
}

// rewrite returns a checkpoint with the tensors that change makes of the original's.
func rewrite(t testing.TB, fsys fs.FS, change func(name string, shape []int, data []float32) []safetensors.Tensor) fstest.MapFS {
	t.Helper()
	ck, err := mixtral.OpenCheckpoint(fsys)
	require.NoError(t, err)
	defer ck.Close()
	var tensors []safetensors.Tensor
	for _, name := range tensorNames(ck.Config()) {
		shape, err := ck.Shape(name)
		require.NoError(t, err)
		n := 4
		for _, axis := range shape {
			n *= axis
		}
		raw := make([]byte, n)
		require.NoError(t, ck.Read(name, dtypes.Float32, raw))
		data := make([]float32, n/4)
		for i := range data {
			data[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		tensors = append(tensors, change(name, shape, data)...)
	}
	var b bytes.Buffer
	require.NoError(t, safetensors.Write(&b, tensors, nil))
	config, err := fs.ReadFile(fsys, "config.json")
	require.NoError(t, err)
	return fstest.MapFS{"config.json": {Data: config}, "model.safetensors": {Data: b.Bytes()}}
}

// dequantized returns the checkpoint whose float32 weights are those of Int8.
func dequantized(t testing.TB, fsys fs.FS) fstest.MapFS {
	return rewrite(t, fsys, func(name string, shape []int, data []float32) []safetensors.Tensor {
		if isQuantized(name) {
			r := round(data, shape[1])
			for i := range data {
				data[i] = float32(float64(r.weight[i]) * float64(r.scb[i/shape[1]]) / 127)
			}
		}
		return []safetensors.Tensor{safetensors.Float32s(name, shape, data)}
	})
}

// stored8 returns the checkpoint as bitsandbytes stores it.
func stored8(t testing.TB, fsys fs.FS) fstest.MapFS {
	return rewrite(t, fsys, func(name string, shape []int, data []float32) []safetensors.Tensor {
		if !isQuantized(name) {
			return []safetensors.Tensor{safetensors.Float32s(name, shape, data)}
		}
		r := round(data, shape[1])
		raw := make([]byte, len(data))
		for i, v := range r.weight {
			raw[i] = byte(v)
		}
		base := strings.TrimSuffix(name, "weight")
		return []safetensors.Tensor{
			safetensors.Bytes(name, safetensors.I8, shape, raw),
			safetensors.Float32s(base+"SCB", shape[:1], r.scb),
			safetensors.Bytes(base+"weight_format", safetensors.U8, nil, []byte{0}),
		}
	})
}

// routed are a model's outputs for one document and its continuation.
func outputs(t testing.TB, m *mixtral.Model, ids []int32) (logits []float32, rec *recorder, greedy []int32) {
	t.Helper()
	rec = newRecorder()
	out, err := m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Observe: rec.hook})
	require.NoError(t, err)
	greedy, err = m.Generate(context.Background(), ids, mixtral.GenerateOptions{MaxTokens: 12, Stop: []int32{}})
	require.NoError(t, err)
	return out.Logits[0], rec, greedy
}

// TestInt8Parity compares int8, quantized while loading and on disk, with a
// float32 model of the dequantized weights.
func TestInt8Parity(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		for model, fsys := range checkpoints() {
			plain := load(t, dequantized(t, fsys), mixtral.Options{Backend: b})
			type wanted struct {
				logits []float32
				rec    *recorder
				greedy []int32
			}
			want := map[string]wanted{}
			for id, c := range references(t, model) {
				logits, rec, greedy := outputs(t, plain, c.ids)
				want[id] = wanted{logits, rec, greedy}
			}
			for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
				for _, disk := range []bool{false, true} {
					if disk && (name == "xla" || model == "mini-mixtral") || name == "xla" && model == "mini-mixtral" && ex == mixtral.Whole {
						continue // minutes of compiling what the others compile too
					}
					t.Run(fmt.Sprintf("%s/%s/%s/disk=%t", name, model, ex, disk), func(t *testing.T) {
						files, o := fsys, mixtral.Options{Backend: b, Executor: ex, Quantize: mixtral.Int8}
						if disk {
							files, o.Quantize = stored8(t, fsys), mixtral.AsStored
						}
						m := load(t, files, o)
						for id, c := range references(t, model) {
							logits, rec, greedy := outputs(t, m, c.ids)
							w := want[id]
							d := maxDiff(t, logits, w.logits)
							t.Logf("%s: T=%d, largest difference of logits %.2g", id, len(c.ids), d)
							assert.LessOrEqual(t, d, 2e-4, "%s: logits", id)
							for l := range w.rec.logits {
								scale := max(1, deviation(w.rec.logits[l]))
								assert.LessOrEqual(t, maxDiff(t, rec.logits[l], w.rec.logits[l])/scale, 1e-4, "%s: router logits", id)
								assert.Equal(t, w.rec.experts[l], rec.experts[l], "%s: experts of layer %d", id, l)
							}
							assert.Equal(t, w.greedy, greedy, "%s: continuation", id)
						}
					})
				}
			}
		}
	})
}
