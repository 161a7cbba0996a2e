// Package mixtraltest makes small synthetic Mixtral checkpoints for unit tests,
// with random weights or with a router that follows a known rule. They are read
// as those of a model hub are, for example by mixtral.Load.
//
// Axis letters are those of package mixtral: L layers, E experts, K experts per
// token, D hidden, F expert width, H heads, V vocabulary.
package mixtraltest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing/fstest"

	"github.com/expertspec/expertspec/trace/safetensors"
)

// Checkpoint describes a synthetic checkpoint. Each size that is 0 has the default
// that its comment states.
type Checkpoint struct {
	Layers      int // L; default 2
	Experts     int // E; default 4
	TopK        int // K; default 2, or E if that is smaller
	Hidden      int // D; default 32
	ExpertWidth int // F; default 16
	Heads       int // H; default 4. A head has D/H dimensions, which must be even
	KVHeads     int // heads of keys and values; default H
	Vocabulary  int // V, at least 4; default 64

	// Seed determines the random weights.
	Seed uint64
	// Route, if not nil, determines the routing: it returns the experts of a token
	// at a layer, [K], first choice first. It is called for every token id and
	// layer. Tokens are of one class if their experts are the same at all layers;
	// there must be at most D classes. Weights other than the router's remain
	// random, except that nothing is added to the first dimensions of the residual
	// stream, one for each class, which the router reads.
	Route func(layer int, token int32) []int32

	// DType is the type of all tensors: F32 (the default), F16 or BF16.
	DType safetensors.DType
	// Fused stores the experts of a layer in one tensor under the names of
	// transformers 5, instead of the model hub's names.
	Fused bool
	// Shards is the number of weight files. With 0 there is no index file.
	Shards int
	// Config adds or replaces fields of config.json.
	Config map[string]any
	// Edit, if not nil, is called with all tensors by name before they are written,
	// and may change them, for example to test how damage is reported.
	Edit func(tensors map[string]*Tensor)
}

// Tensor is one tensor of a checkpoint.
type Tensor struct {
	DType safetensors.DType
	Shape []int
	Data  []byte // row-major, little-endian
}

// FS returns a new file system with config.json, the weights and tokenizer.json.
// That tokenizer's tokens are <unk>, <s>, </s> and single ASCII characters, the most
// frequent ones first, as far as V admits; any other character is <unk>.
//
// FS panics if Route returns experts that do not exist or has too many classes.
func (c Checkpoint) FS() fstest.MapFS {
	c = c.withDefaults()
	files := fstest.MapFS{"tokenizer.json": {Data: tokenizerJSON(c.Vocabulary)}}
	files["config.json"] = &fstest.MapFile{Data: c.config()}
	w := weights{rng: rand.New(rand.NewPCG(c.Seed, 1)), tensors: map[string]*Tensor{}}
	w.fill(c)
	if c.Fused {
		w.fuse(c)
	}
	for _, t := range w.tensors {
		data := make([]byte, len(t.Data)/4*c.DType.Size())
		must(safetensors.Convert(data, c.DType, t.Data, safetensors.F32))
		t.DType, t.Data = c.DType, data
	}
	if c.Edit != nil {
		c.Edit(w.tensors)
	}
	c.write(files, w.tensors)
	return files
}

func (c Checkpoint) withDefaults() Checkpoint {
	c.Layers = cmp.Or(c.Layers, 2)
	c.Experts = cmp.Or(c.Experts, 4)
	c.TopK = cmp.Or(c.TopK, min(2, c.Experts))
	c.Hidden = cmp.Or(c.Hidden, 32)
	c.ExpertWidth = cmp.Or(c.ExpertWidth, 16)
	c.Heads = cmp.Or(c.Heads, 4)
	c.KVHeads = cmp.Or(c.KVHeads, c.Heads)
	c.Vocabulary = cmp.Or(c.Vocabulary, 64)
	c.DType = cmp.Or(c.DType, safetensors.F32)
	return c
}

func (c Checkpoint) config() []byte {
	types := map[safetensors.DType]string{safetensors.F32: "float32", safetensors.F16: "float16", safetensors.BF16: "bfloat16"}
	config := map[string]any{
		"model_type": "mixtral", "architectures": []string{"MixtralForCausalLM"}, "torch_dtype": types[c.DType],
		"vocab_size": c.Vocabulary, "hidden_size": c.Hidden, "intermediate_size": c.ExpertWidth,
		"num_hidden_layers": c.Layers, "num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads,
		"num_local_experts": c.Experts, "num_experts_per_tok": c.TopK,
		"max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2,
	}
	maps.Copy(config, c.Config)
	return marshal(config)
}

// weights are the tensors of a checkpoint while it is made, in float32.
type weights struct {
	rng     *rand.Rand
	tensors map[string]*Tensor
}

// add makes a tensor of f's values, in order.
func (w *weights) add(name string, shape []int, f func(i int) float32) {
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	data := make([]byte, 4*n)
	for i := range n {
		putFloat32(data, i, f(i))
	}
	w.tensors[name] = &Tensor{safetensors.F32, shape, data}
}

// matrix makes a random matrix, [rows,columns], whose first rows are zero.
func (w *weights) matrix(name string, rows, columns, zero int) {
	scale := 1 / math.Sqrt(float64(columns))
	w.add(name, []int{rows, columns}, func(i int) float32 {
		x := w.rng.NormFloat64() * scale
		if i < zero*columns {
			return 0
		}
		return float32(x)
	})
}

// norm makes the weights of a normalization, [D].
func (w *weights) norm(name string, d int) {
	w.add(name, []int{d}, func(int) float32 { return 1 + float32(w.rng.NormFloat64())/16 })
}

// fill makes all tensors under the model hub's names.
func (w *weights) fill(c Checkpoint) {
	d, f := c.Hidden, c.ExpertWidth
	classes, class := c.classes()
	w.matrix("lm_head.weight", c.Vocabulary, d, 0)
	w.norm("model.norm.weight", d)
	// A token's embedding is 1 at its class, 0 at all others, and random behind them.
	w.add("model.embed_tokens.weight", []int{c.Vocabulary, d}, func(i int) float32 {
		x, at := float32(w.rng.NormFloat64()), i%d
		switch {
		case at >= classes:
			return x
		case at == class[i/d]:
			return 1
		}
		return 0
	})
	for l := range c.Layers {
		layer := fmt.Sprintf("model.layers.%d.", l)
		w.norm(layer+"input_layernorm.weight", d)
		w.norm(layer+"post_attention_layernorm.weight", d)
		kv := d / c.Heads * c.KVHeads
		w.matrix(layer+"self_attn.q_proj.weight", d/c.Heads*c.Heads, d, 0)
		w.matrix(layer+"self_attn.k_proj.weight", kv, d, 0)
		w.matrix(layer+"self_attn.v_proj.weight", kv, d, 0)
		w.matrix(layer+"self_attn.o_proj.weight", d, d/c.Heads*c.Heads, classes)
		w.matrix(layer+"block_sparse_moe.gate.weight", c.Experts, d, 0)
		for e := range c.Experts {
			w.matrix(expertName(l, e, "w1"), f, d, 0)
			w.matrix(expertName(l, e, "w2"), d, f, classes)
			w.matrix(expertName(l, e, "w3"), f, d, 0)
		}
	}
	if c.Route != nil {
		w.plant(c, class)
	}
}

// plant replaces the routers by those of the rule: the logits of a token are K, K-1
// and so on for its experts in order, and 0 for others, times a positive number.
func (w *weights) plant(c Checkpoint, class []int) {
	for l := range c.Layers {
		gate := w.tensors[fmt.Sprintf("model.layers.%d.block_sparse_moe.gate.weight", l)].Data
		clear(gate)
		for token := range c.Vocabulary {
			for k, e := range c.Route(l, int32(token)) {
				putFloat32(gate, int(e)*c.Hidden+class[token], float32(c.TopK-k))
			}
		}
	}
}

// classes returns the number of classes of tokens, and each token's class, [V].
func (c Checkpoint) classes() (n int, class []int) {
	if c.Route == nil {
		return 0, make([]int, c.Vocabulary)
	}
	byExperts := map[string]int{}
	for token := range int32(c.Vocabulary) {
		var all [][]int32
		for l := range c.Layers {
			experts := c.Route(l, token)
			c.check(l, token, experts)
			all = append(all, experts)
		}
		key := fmt.Sprint(all)
		if _, ok := byExperts[key]; !ok {
			byExperts[key] = len(byExperts)
		}
		class = append(class, byExperts[key])
	}
	if len(byExperts) > c.Hidden {
		panic(fmt.Sprintf("mixtraltest: Route has %d classes of tokens; must be at most Hidden, %d", len(byExperts), c.Hidden))
	}
	return len(byExperts), class
}

// check panics unless experts are K different ones.
func (c Checkpoint) check(layer int, token int32, experts []int32) {
	distinct := slices.Compact(slices.Sorted(slices.Values(experts)))
	if len(experts) != c.TopK || len(distinct) != c.TopK || distinct[0] < 0 || int(distinct[c.TopK-1]) >= c.Experts {
		panic(fmt.Sprintf("mixtraltest: Route(%d, %d) is %v; must be %d different experts in [0, %d)", layer, token, experts, c.TopK, c.Experts))
	}
}

// fuse stores the experts as transformers 5 does: gate_up_proj is w1 above w3,
// [E,2F,D], and down_proj is w2, [E,D,F].
func (w *weights) fuse(c Checkpoint) {
	for l := range c.Layers {
		layer := fmt.Sprintf("model.layers.%d.", l)
		gateUp := &Tensor{DType: safetensors.F32, Shape: []int{c.Experts, 2 * c.ExpertWidth, c.Hidden}}
		down := &Tensor{DType: safetensors.F32, Shape: []int{c.Experts, c.Hidden, c.ExpertWidth}}
		for e := range c.Experts {
			for _, m := range []string{"w1", "w3", "w2"} {
				into, name := gateUp, expertName(l, e, m)
				if m == "w2" {
					into = down
				}
				into.Data = append(into.Data, w.tensors[name].Data...)
				delete(w.tensors, name)
			}
		}
		w.tensors[layer+"mlp.experts.gate_up_proj"] = gateUp
		w.tensors[layer+"mlp.experts.down_proj"] = down
		w.tensors[layer+"mlp.gate.weight"] = w.tensors[layer+"block_sparse_moe.gate.weight"]
		delete(w.tensors, layer+"block_sparse_moe.gate.weight")
	}
}

// write writes the weight files and their index. Layers follow each other in the
// files, and other tensors are in the first.
func (c Checkpoint) write(files fstest.MapFS, tensors map[string]*Tensor) {
	byFile := map[string][]safetensors.Tensor{}
	index := map[string]string{}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		file := "model.safetensors"
		if c.Shards > 0 {
			layer := 0
			fmt.Sscanf(name, "model.layers.%d.", &layer)
			file = fmt.Sprintf("model-%05d-of-%05d.safetensors", min(layer*c.Shards/c.Layers, c.Shards-1)+1, c.Shards)
		}
		t := tensors[name]
		index[name] = file
		size += len(t.Data)
		byFile[file] = append(byFile[file], safetensors.Bytes(name, t.DType, t.Shape, t.Data))
	}
	for file, list := range byFile {
		var b bytes.Buffer
		must(safetensors.Write(&b, list, map[string]string{"format": "pt"}))
		files[file] = &fstest.MapFile{Data: b.Bytes()}
	}
	if c.Shards > 0 {
		files["model.safetensors.index.json"] = &fstest.MapFile{Data: marshal(map[string]any{
			"metadata": map[string]int{"total_size": size}, "weight_map": index})}
	}
}

func expertName(layer, expert int, matrix string) string {
	return fmt.Sprintf("model.layers.%d.block_sparse_moe.experts.%d.%s.weight", layer, expert, matrix)
}

// putFloat32 sets element i of little-endian data.
func putFloat32(data []byte, i int, x float32) {
	binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(x))
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	must(err)
	return text
}

// must panics on errors that only a defect of this package causes, or an Edit.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("mixtraltest: %v", err))
	}
}
