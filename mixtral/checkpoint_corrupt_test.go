package mixtral

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	w2Name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
	kName  = "model.layers.0.self_attn.k_proj.weight"
	shard1 = "model-00001-of-00002.safetensors"
	shard2 = "model-00002-of-00002.safetensors"
)

// replaceHeader swaps text in a file's header for text of the same length.
func replaceHeader(files fstest.MapFS, name, old, new string) {
	if len(old) != len(new) || !bytes.Contains(files[name].Data, []byte(old)) {
		panic(old)
	}
	files[name].Data = bytes.Replace(files[name].Data, []byte(old), []byte(new), 1)
}

// damaged are checkpoints that OpenCheckpoint must refuse, and how its error begins:
// file, tensor and cause.
var damaged = []struct {
	name  string
	spoil func(f *fake)
	want  string
}{
	{"no config", func(f *fake) { f.spoil = func(m fstest.MapFS) { delete(m, "config.json") } }, `config.json: file does not exist: this is not the folder of a model`},
	{"config of no JSON", func(f *fake) { f.spoil = func(m fstest.MapFS) { m["config.json"].Data = []byte("{") } }, `config.json: bad JSON`},
	{"architecture", func(f *fake) { f.config["architectures"] = []string{"LlamaForCausalLM"} }, `config.json: architectures: `},
	{"activation", func(f *fake) { f.config["hidden_act"] = "relu" }, `config.json: hidden_act: "relu"`},
	{"rope scaling", func(f *fake) { f.config["rope_scaling"] = map[string]any{"type": "dynamic", "factor": 2} }, `config.json: rope_scaling.type: "dynamic"`},
	{"no weights", func(f *fake) { f.spoil = func(m fstest.MapFS) { delete(m, checkpoint.SingleFile) } }, `model.safetensors: file does not exist, nor do model.safetensors.index.json, pytorch_model.bin and pytorch_model.bin.index.json; weights in other formats`},
	{"weights are a folder", func(f *fake) {
		f.spoil = func(m fstest.MapFS) {
			delete(m, checkpoint.SingleFile)
			m[checkpoint.SingleFile+"/x"] = &fstest.MapFile{}
		}
	}, `model.safetensors: is a directory`},
	{"missing expert", func(f *fake) { delete(f.tensors, w2Name) }, `model.safetensors: tensor "` + w2Name + `": is missing`},
	{"missing norm", func(f *fake) { delete(f.tensors, "model.norm.weight") }, `model.safetensors: tensor "model.norm.weight": is missing`},
	{"missing embedding", func(f *fake) { delete(f.tensors, embedName) }, `model.safetensors: tensor "model.embed_tokens.weight": is missing`},
	{"missing own head", func(f *fake) { delete(f.tensors, headName) }, `model.safetensors: tensor "lm_head.weight": is missing`},
	{"more layers", func(f *fake) { f.config["num_hidden_layers"] = 3 }, `model.safetensors: tensor "model.layers.2.input_layernorm.weight": is missing`},
	{"very many layers", func(f *fake) { f.config["num_hidden_layers"] = math.MaxInt32 }, `model.safetensors: tensor "model.layers.2.input_layernorm.weight": is missing`},
	{"fewer layers", func(f *fake) { f.config["num_hidden_layers"] = 1 }, `model.safetensors: tensor "model.layers.1.block_sparse_moe.experts.0.w1.weight": is surplus`},
	{"fewer experts", func(f *fake) { f.config["num_local_experts"] = 2 }, `model.safetensors: tensor "model.layers.0.block_sparse_moe.gate.weight": has shape [3 12], expected [2 12]`},
	{"surplus bias", func(f *fake) { f.add("model.layers.0.self_attn.q_proj.bias", 12) }, `model.safetensors: tensor "model.layers.0.self_attn.q_proj.bias": is surplus`},
	{"both names of the router", func(f *fake) { f.add("model.layers.1.mlp.gate.weight", 3, 12) }, `model.safetensors: tensor "model.layers.1.block_sparse_moe.gate.weight": is surplus`},
	{"both names of experts", func(f *fake) { f.add("model.layers.1.mlp.experts.down_proj", 3, 12, 5) }, `model.safetensors: tensor "model.layers.1.block_sparse_moe.experts.0.w2.weight": is surplus`},
	{"leading zero", func(f *fake) { f.add("model.layers.01.input_layernorm.weight", 12) }, `model.safetensors: tensor "model.layers.01.input_layernorm.weight": is surplus`},
	{"wrong shape", func(f *fake) { f.add(kName, 12, 4) }, `model.safetensors: tensor "` + kName + `": has shape [12 4], expected [4 12] as in config.json`},
	{"flat shape", func(f *fake) { f.add(kName, 48) }, `model.safetensors: tensor "` + kName + `": has shape [48], expected [4 12]`},
	{"wrong head_dim", func(f *fake) { f.config["head_dim"] = 6 }, `model.safetensors: tensor "model.layers.0.self_attn.q_proj.weight": has shape [12 12], expected [18 12]`},
	{"wrong vocabulary", func(f *fake) { f.config["vocab_size"] = 12 }, `model.safetensors: tensor "model.embed_tokens.weight": has shape [11 12], expected [12 12]`},
	{"integer weights", func(f *fake) { f.tensors[kName].DType = safetensors.I32 }, `model.safetensors: tensor "` + kName + `": is I32, expected F32, F16 or BF16`},
	{"fused of wrong shape", func(f *fake) { f.fuse(); f.tensors["model.layers.1.mlp.experts.gate_up_proj"].Shape = []int{3, 12, 10} },
		`model.safetensors: tensor "model.layers.1.mlp.experts.gate_up_proj": has shape [3 12 10], expected [3 10 12]`},
	{"fused without down", func(f *fake) { f.fuse(); delete(f.tensors, "model.layers.0.mlp.experts.down_proj") },
		`model.safetensors: tensor "model.layers.0.block_sparse_moe.experts.0.w2.weight": is missing`},
	{"tied head differs", func(f *fake) { f.config["tie_word_embeddings"] = true }, `model.safetensors: tensor "lm_head.weight": differs from model.embed_tokens.weight, but tie_word_embeddings is true`},
	{"tied head's type", func(f *fake) { f.config["tie_word_embeddings"] = true; f.to(headName, safetensors.BF16) }, `model.safetensors: tensor "lm_head.weight": differs in shape or type`},
	{"truncated", func(f *fake) {
		f.spoil = func(m fstest.MapFS) {
			m[checkpoint.SingleFile].Data = m[checkpoint.SingleFile].Data[:len(m[checkpoint.SingleFile].Data)-1]
		}
	}, `model.safetensors: tensor "model.norm.weight": truncated: `},
	{"empty file", func(f *fake) { f.spoil = func(m fstest.MapFS) { m[checkpoint.SingleFile].Data = nil } }, `model.safetensors: truncated: 0 bytes`},
	{"header length beyond the file", func(f *fake) {
		f.spoil = func(m fstest.MapFS) { binary.LittleEndian.PutUint64(m[checkpoint.SingleFile].Data, 1<<60) }
	}, `model.safetensors: header length 1152921504606846976 goes beyond the file`},
	{"overlap", func(f *fake) {
		f.spoil = func(m fstest.MapFS) {
			replaceHeader(m, checkpoint.SingleFile, `"data_offsets":[528,1056]`, `"data_offsets":[524,1052]`)
		}
	}, `model.safetensors: tensor "model.embed_tokens.weight": data_offsets [524,1052] overlap those of tensor "lm_head.weight"`},
	{"header's JSON", func(f *fake) {
		f.spoil = func(m fstest.MapFS) { replaceHeader(m, checkpoint.SingleFile, `"shape":[`, `"shape"=[`) }
	}, `model.safetensors: bad JSON`},
	{"unknown dtype", func(f *fake) {
		f.spoil = func(m fstest.MapFS) { replaceHeader(m, checkpoint.SingleFile, `"F32"`, `"F31"`) }
	}, `model.safetensors: tensor "lm_head.weight": unknown dtype "F31"`},

	{"missing shard", func(f *fake) { f.shard(); f.spoil = func(m fstest.MapFS) { delete(m, shard2) } },
		`model.safetensors.index.json: tensor "model.layers.1.block_sparse_moe.experts.0.w1.weight": shard ` + shard2 + ` is missing`},
	{"truncated shard", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { m[shard2].Data = m[shard2].Data[:len(m[shard2].Data)-40] }
	}, shard2 + `: tensor "model.layers.1.self_attn.v_proj.weight": truncated`},
	{"missing in the shards", func(f *fake) { delete(f.tensors, w2Name); f.shard() }, `model.safetensors.index.json: tensor "` + w2Name + `": is missing`},
	{"index names a tensor that is not there", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { editIndex(m, func(w map[string]any) { w["model.extra"] = shard2 }) }
	}, shard2 + `: tensor "model.extra": is missing, but model.safetensors.index.json names this file`},
	{"index names the other shard", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { editIndex(m, func(w map[string]any) { w[kName] = shard2 }) }
	}, shard1 + `: tensor "` + kName + `": is here, but model.safetensors.index.json says it is in ` + shard2},
	{"index lacks a tensor", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { editIndex(m, func(w map[string]any) { delete(w, kName) }) }
	}, shard1 + `: tensor "` + kName + `": is not in model.safetensors.index.json`},
	{"tensor in two shards", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) {
			m["model-3.safetensors"] = m[shard2]
			editIndex(m, func(w map[string]any) { w["model.layers.1.input_layernorm.weight"] = "model-3.safetensors" })
		}
	}, `model-3.safetensors: tensor "model.layers.1.`},
	{"shard outside of the folder", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { editIndex(m, func(w map[string]any) { w[kName] = "../" + shard1 }) }
	}, `model.safetensors.index.json: tensor "` + kName + `": shard "../` + shard1 + `" is not a file of this folder`},
	{"shard of no name", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { editIndex(m, func(w map[string]any) { w[kName] = 7 }) }
	}, `model.safetensors.index.json: tensor "` + kName + `": its file is not a string`},
	{"index without weight_map", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { m[checkpoint.IndexFile].Data = []byte(`{"metadata":{}}`) }
	}, `model.safetensors.index.json: weight_map: is missing`},
	{"index of nothing", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { m[checkpoint.IndexFile].Data = []byte(`{"weight_map":{}}`) }
	}, `model.safetensors.index.json: weight_map: is empty`},
	{"index of no JSON", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) { m[checkpoint.IndexFile].Data = []byte(`{"weight_map":`) }
	}, `model.safetensors.index.json: bad JSON`},
	{"index with a tensor twice", func(f *fake) {
		f.shard()
		f.spoil = func(m fstest.MapFS) {
			m[checkpoint.IndexFile].Data = []byte(`{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}`)
		}
	}, `model.safetensors.index.json: weight_map: duplicate field "a"`},
}

func TestDamagedCheckpoints(t *testing.T) {
	for _, s := range damaged {
		t.Run(s.name, func(t *testing.T) {
			f := newFake()
			s.spoil(f)
			_, err := OpenCheckpoint(f.FS())
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), s.want), "\n got %v\nwant %s", err, s.want)
		})
	}
}

// A NaN or an infinite number in any type and either layout is found when it is
// read, and reported with its index in the requested tensor.
func TestCheckpointNonFinite(t *testing.T) {
	hub := "model.layers.1.block_sparse_moe.experts.2.w3.weight"
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			for _, to := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
				for _, fused := range []bool{false, true} {
					f := newFake()
					name, element := hub, 37
					if fused { // w3 of expert 2, after 2 experts of 2F = 10 rows and w1's 5
						f.fuse()
						name, element = "model.layers.1.mlp.experts.gate_up_proj", (2*10+5)*12+37
					}
					f.set(name, element, bad)
					f.to(name, stored)
					c, err := OpenCheckpoint(f.FS())
					require.NoError(t, err)
					err = c.Read(hub, to, make([]byte, 5*12*to.Size()))
					require.Error(t, err)
					assert.True(t, strings.HasPrefix(err.Error(), `model.safetensors: tensor "`+name+`": `), "%v in %s as %s, fused %v: %v", bad, stored, to, fused, err)
					assert.True(t, strings.HasSuffix(err.Error(), "element 37 is NaN or infinite"), "%v in %s as %s, fused %v: %v", bad, stored, to, fused, err)
					other := "model.layers.1.block_sparse_moe.experts.2.w1.weight"
					assert.NoError(t, c.Read(other, to, make([]byte, 5*12*to.Size())))
				}
			}
		}
	}
}

func TestCheckpointReadErrors(t *testing.T) {
	f := newFake()
	f.set(kName, 5, 1e20)
	c, err := OpenCheckpoint(f.FS())
	require.NoError(t, err)
	size := 4 * 12 * 4
	for _, r := range []struct {
		name  string
		dtype dtypes.DType
		size  int
		want  string
	}{
		{kName, dtypes.Float32, size - 1, `model.safetensors: tensor "` + kName + `": shape [4 12] as Float32 needs 192 bytes, the destination has 191`},
		{kName, dtypes.BFloat16, size, `shape [4 12] as BFloat16 needs 96 bytes, the destination has 192`},
		{kName, dtypes.Float64, 2 * size, `cannot be read as Float64`},
		{kName, dtypes.Float16, size / 2, `element 5 is too large for Float16`},
		{"model.layers.2.input_layernorm.weight", dtypes.Float32, 48, `model.safetensors: tensor "model.layers.2.input_layernorm.weight": no tensor of this model`},
		{"model.layers.0.block_sparse_moe.experts.3.w1.weight", dtypes.Float32, 48, `no tensor of this model`},
		{"model.layers.0.block_sparse_moe.experts.0.w4.weight", dtypes.Float32, 48, `no tensor of this model`},
		{"model.layers.00.input_layernorm.weight", dtypes.Float32, 48, `no tensor of this model`},
		{"model.layers.99999999999999999999.input_layernorm.weight", dtypes.Float32, 48, `no tensor of this model`},
		{"", dtypes.Float32, 0, `no tensor of this model`},
	} {
		err := c.Read(r.name, r.dtype, make([]byte, r.size))
		var e *safetensors.Error
		require.ErrorContains(t, err, r.want)
		require.ErrorAs(t, err, &e, "%s as %s", r.name, r.dtype)
		assert.Equal(t, checkpoint.SingleFile, e.File, "%s as %s", r.name, r.dtype)
	}
	_, err = c.Shape("nothing")
	assert.Error(t, err, "nothing has a shape")
	_, err = c.DType("nothing")
	assert.Error(t, err, "nothing has a type")
	assert.NoError(t, c.Read(kName, dtypes.BFloat16, make([]byte, size/2)))
}

// What a lying configuration or header asks for is not allocated.
func TestCheckpointOpenAllocatesLittle(t *testing.T) {
	for _, s := range damaged {
		f := newFake()
		s.spoil(f)
		fsys := f.FS()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := OpenCheckpoint(fsys)
		assert.Error(t, err, "%s: no error", s.name)
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "%s", s.name)
	}
}

// What may be there without being needed.
func TestCheckpointTolerated(t *testing.T) {
	f := newFake()
	f.add("model.layers.0.self_attn.rotary_emb.inv_freq", 2)
	f.add("model.rotary_emb.inv_freq", 2)
	f.config["tie_word_embeddings"] = true
	f.tensors[headName] = f.tensors[embedName]
	c, err := OpenCheckpoint(f.FS())
	require.NoError(t, err)
	assert.Equal(t, readFloat32s(t, c, embedName), readFloat32s(t, c, headName))
}

func FuzzOpenCheckpoint(f *testing.F) {
	good := newFake().FS()
	weights := good[checkpoint.SingleFile].Data
	headerLen := int(binary.LittleEndian.Uint64(weights))
	f.Add(good[configFile].Data, weights[8:8+headerLen])
	for _, s := range damaged {
		k := newFake()
		s.spoil(k)
		files := k.FS()
		if config, ok := files[configFile]; ok && files[checkpoint.SingleFile] != nil && len(files[checkpoint.SingleFile].Data) > 8 {
			end := min(8+headerLen, len(files[checkpoint.SingleFile].Data))
			f.Add(config.Data, files[checkpoint.SingleFile].Data[8:end])
		}
	}
	f.Fuzz(func(t *testing.T, config, header []byte) {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		b = append(append(b, header...), weights[8+headerLen:]...)
		c, err := OpenCheckpoint(fstest.MapFS{configFile: {Data: config}, checkpoint.SingleFile: {Data: b}})
		if err != nil {
			require.Regexp(t, "^(config.json|model.safetensors): ", err.Error())
			return
		}
		for _, name := range hubNames(c.Config()) {
			shape, err := c.Shape(name)
			require.NoError(t, err)
			size := 4
			for _, axis := range shape {
				size *= axis
			}
			if err = c.Read(name, dtypes.Float32, make([]byte, size)); err != nil {
				require.ErrorContains(t, err, "NaN")
			}
		}
	})
}
