// Package switchtest makes small synthetic checkpoints of Switch Transformer for unit
// tests, with random weights. They are read as those of a model hub are, for example by
// switchtransformer.Load.
package switchtest

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

// Checkpoint describes a synthetic checkpoint. Each size that is 0 has the default that
// its comment states.
type Checkpoint struct {
	EncoderBlocks int // default 2
	DecoderBlocks int // default EncoderBlocks
	Step          int // of blocks with experts, as encoder_sparse_step; default 2
	Experts       int // E; default 4
	Capacity      int // C; default 64
	Hidden        int // D; default 32
	ExpertWidth   int // F; default 16
	Heads         int // H; default 4
	HeadDim       int // default D/H
	Vocabulary    int // V; default 64
	RouterBias    bool
	// Seed determines the random weights.
	Seed uint64
	// DType is the type of all tensors: F32 (the default), F16 or BF16.
	DType safetensors.DType
	// Config adds or replaces fields of config.json, which do not change the weights.
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

// FS returns a new file system with config.json and the weights. The decoder starts
// with 0, which is padding; 1 ends a text.
func (c Checkpoint) FS() fstest.MapFS {
	c = c.withDefaults()
	w := weights{c: &c, rng: rand.New(rand.NewPCG(c.Seed, 2)), tensors: map[string]*Tensor{}}
	w.fill()
	if c.Edit != nil {
		c.Edit(w.tensors)
	}
	var list []safetensors.Tensor
	for _, name := range slices.Sorted(maps.Keys(w.tensors)) {
		t := w.tensors[name]
		list = append(list, safetensors.Bytes(name, t.DType, t.Shape, t.Data))
	}
	var file bytes.Buffer
	must(safetensors.Write(&file, list, nil))
	return fstest.MapFS{"config.json": {Data: c.config()}, "model.safetensors": {Data: file.Bytes()}}
}

func (c Checkpoint) withDefaults() Checkpoint {
	c.EncoderBlocks = cmp.Or(c.EncoderBlocks, 2)
	c.DecoderBlocks = cmp.Or(c.DecoderBlocks, c.EncoderBlocks)
	c.Step = cmp.Or(c.Step, 2)
	c.Experts = cmp.Or(c.Experts, 4)
	c.Capacity = cmp.Or(c.Capacity, 64)
	c.Hidden = cmp.Or(c.Hidden, 32)
	c.ExpertWidth = cmp.Or(c.ExpertWidth, 16)
	c.Heads = cmp.Or(c.Heads, 4)
	c.HeadDim = cmp.Or(c.HeadDim, c.Hidden/c.Heads)
	c.Vocabulary = cmp.Or(c.Vocabulary, 64)
	c.DType = cmp.Or(c.DType, safetensors.F32)
	return c
}

// buckets is the number of buckets of relative positions.
const buckets = 8

func (c *Checkpoint) config() []byte {
	fields := map[string]any{
		"model_type": "switch_transformers", "architectures": []string{"SwitchTransformersForConditionalGeneration"},
		"vocab_size": c.Vocabulary, "d_model": c.Hidden, "d_kv": c.HeadDim, "d_ff": c.ExpertWidth, "num_heads": c.Heads,
		"num_experts": c.Experts, "expert_capacity": c.Capacity, "num_layers": c.EncoderBlocks, "num_decoder_layers": c.DecoderBlocks,
		"encoder_sparse_step": c.Step, "decoder_sparse_step": c.Step, "router_bias": c.RouterBias,
		"relative_attention_num_buckets": buckets, "relative_attention_max_distance": 20,
		"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
	}
	maps.Copy(fields, c.Config)
	text, err := json.Marshal(fields)
	must(err)
	return text
}

type weights struct {
	c       *Checkpoint
	rng     *rand.Rand
	tensors map[string]*Tensor
}

func (w *weights) fill() {
	c := w.c
	w.random("shared.weight", 1, c.Vocabulary, c.Hidden)
	for s, blocks := range []int{c.EncoderBlocks, c.DecoderBlocks} {
		stack := []string{"encoder", "decoder"}[s]
		w.random(stack+".final_layer_norm.weight", 0, c.Hidden)
		for i := range blocks {
			w.block(fmt.Sprintf("%s.block.%d.layer.", stack, i), s, i)
		}
	}
}

func (w *weights) block(prefix string, stack, i int) {
	c := w.c
	for a, attention := range []string{"SelfAttention", "EncDecAttention"}[:1+stack] {
		p := fmt.Sprintf("%s%d.", prefix, a)
		w.random(p+"layer_norm.weight", 0, c.Hidden)
		for _, m := range []string{"q", "k", "v"} {
			w.random(p+attention+"."+m+".weight", 1, c.Heads*c.HeadDim, c.Hidden)
		}
		w.random(p+attention+".o.weight", 1, c.Hidden, c.Heads*c.HeadDim)
		if i == 0 && a == 0 {
			w.random(p+attention+".relative_attention_bias.weight", 1, buckets, c.Heads)
		}
	}
	p := fmt.Sprintf("%s%d.", prefix, 1+stack)
	w.random(p+"layer_norm.weight", 0, c.Hidden)
	p += "mlp."
	if c.Step != 1 && i%c.Step != 1 {
		w.feedForward(p)
		return
	}
	w.random(p+"router.classifier.weight", 1, c.Experts, c.Hidden)
	if c.RouterBias {
		w.random(p+"router.classifier.bias", 1, c.Experts)
	}
	for e := range c.Experts {
		w.feedForward(fmt.Sprintf("%sexperts.expert_%d.", p, e))
	}
}

func (w *weights) feedForward(prefix string) {
	w.random(prefix+"wi.weight", 1, w.c.ExpertWidth, w.c.Hidden)
	w.random(prefix+"wo.weight", 1, w.c.Hidden, w.c.ExpertWidth)
}

// random adds a tensor: with scale 1 normal numbers divided by the square root of their
// row's length, with 0 ones.
func (w *weights) random(name string, scale float64, shape ...int) {
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	scale /= math.Sqrt(float64(shape[len(shape)-1]))
	data := make([]byte, 0, 4*n)
	for range n {
		v := float32(1)
		if scale > 0 {
			v = float32(w.rng.NormFloat64() * scale)
		}
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	stored := make([]byte, n*w.c.DType.Size())
	must(safetensors.Convert(stored, w.c.DType, data, safetensors.F32))
	w.tensors[name] = &Tensor{w.c.DType, shape, stored}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
