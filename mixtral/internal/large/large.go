// Package large makes checkpoints of the shapes of Mixtral 8x7B and 8x22B, and of
// others, without a file, to measure with.
package large

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// pattern is a file that begins with head and continues with repetitions of data,
// and between loud[0] and loud[1] after head, with repetitions of large.
type pattern struct {
	name        string
	head        []byte
	size        int64
	data, large []byte
	loud        [2]int64
	at          int64
}

func (p *pattern) ReadAt(dst []byte, offset int64) (int, error) {
	n := 0
	if offset < int64(len(p.head)) {
		n = copy(dst, p.head[offset:])
	}
	for n < len(dst) && offset+int64(n) < p.size {
		at := offset + int64(n) - int64(len(p.head))
		data, end := p.data, p.size-offset
		switch {
		case at < p.loud[0]:
			end = min(end, p.loud[0]-at+int64(n))
		case at < p.loud[1]:
			data, end = p.large, min(end, p.loud[1]-at+int64(n))
		}
		n += copy(dst[n:min(int64(len(dst)), end)], data[at%int64(len(data)):])
	}
	if n < len(dst) {
		return n, io.EOF
	}
	return n, nil
}

func (p *pattern) Read(dst []byte) (int, error) {
	n, err := p.ReadAt(dst, p.at)
	p.at += int64(n)
	return n, err
}

func (p *pattern) Close() error               { return nil }
func (p *pattern) Stat() (fs.FileInfo, error) { return p, nil }
func (p *pattern) Name() string               { return p.name }
func (p *pattern) Size() int64                { return p.size }
func (p *pattern) Mode() fs.FileMode          { return 0o444 }
func (p *pattern) ModTime() time.Time         { return time.Time{} }
func (p *pattern) IsDir() bool                { return p.name == "." }
func (p *pattern) Sys() any                   { return nil }

type patterns map[string]*pattern

func (s patterns) Open(name string) (fs.File, error) {
	p, ok := s[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	file := *p
	return &file, nil
}

// Shape is that of a model with 8 experts, of which 2 are chosen.
type Shape struct {
	Layers, Hidden, ExpertWidth, Heads, KVHeads, Vocabulary int
	Scale                                                   float64 // of the weights; 0: .02
}

// Named returns the shape of a published model: "8x7B", which is also that of "", or
// "8x22B", of version 0.3 (before, its vocabulary had 32000 tokens).
func Named(name string) (Shape, error) {
	switch name {
	case "", "8x7B":
		return Shape{Layers: 32, Hidden: 4096, ExpertWidth: 14336, Heads: 32, KVHeads: 8, Vocabulary: 32000}, nil
	case "8x22B":
		return Shape{Layers: 56, Hidden: 6144, ExpertWidth: 16384, Heads: 48, KVHeads: 8, Vocabulary: 32768}, nil
	}
	return Shape{}, fmt.Errorf("shape %q: must be 8x7B or 8x22B", name)
}

// Model returns a checkpoint in bfloat16, whose weights are repeated random patterns.
// Embeddings are large, so that tokens remain different and choose different experts,
// as in a trained model. size is that of the weights in bytes.
func (s Shape) Model() (fsys fs.FS, size int64) {
	d, f, kv := s.Hidden, s.ExpertWidth, s.Hidden/s.Heads*s.KVHeads
	config, _ := json.Marshal(map[string]any{"architectures": []string{"MixtralForCausalLM"}, "model_type": "mixtral",
		"hidden_act": "silu", "hidden_size": d, "intermediate_size": f, "num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads,
		"num_hidden_layers": s.Layers, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": s.Vocabulary,
		"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
		"tie_word_embeddings": false, "sliding_window": nil})
	shapes := map[string][]int{"model.embed_tokens.weight": {s.Vocabulary, d}, "model.norm.weight": {d}, "lm_head.weight": {s.Vocabulary, d}}
	for l := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		shapes[p+"input_layernorm.weight"], shapes[p+"post_attention_layernorm.weight"] = []int{d}, []int{d}
		shapes[p+"self_attn.q_proj.weight"], shapes[p+"self_attn.o_proj.weight"] = []int{d, d}, []int{d, d}
		shapes[p+"self_attn.k_proj.weight"], shapes[p+"self_attn.v_proj.weight"] = []int{kv, d}, []int{kv, d}
		shapes[p+"block_sparse_moe.gate.weight"] = []int{8, d}
		for e := range 8 {
			q := fmt.Sprintf("%sblock_sparse_moe.experts.%d.", p, e)
			shapes[q+"w1.weight"], shapes[q+"w3.weight"], shapes[q+"w2.weight"] = []int{f, d}, []int{f, d}, []int{d, f}
		}
	}
	return files(config, shapes, "model.embed_tokens.weight", cmp.Or(s.Scale, .02))
}

// files are a checkpoint of a configuration and tensors in bfloat16 of a scale, of which
// one is large. size is that of the weights in bytes.
func files(config []byte, shapes map[string][]int, large string, scale float64) (fsys fs.FS, size int64) {
	header := map[string]any{}
	var loud [2]int64
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		bytes := int64(2)
		for _, n := range shapes[name] {
			bytes *= int64(n)
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shapes[name], "data_offsets": []int64{size, size + bytes}}
		if name == large {
			loud = [2]int64{size, size + bytes}
		}
		size += bytes
	}
	text, _ := json.Marshal(header)
	head := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(scale float64) []byte {
		data := make([]byte, 2*1000003)
		for i := 0; i < len(data); i += 2 {
			binary.LittleEndian.PutUint16(data[i:], uint16(math.Float32bits(float32(r.NormFloat64()*scale))>>16))
		}
		return data
	}
	return patterns{
		".":           {name: "."},
		"config.json": {name: "config.json", head: config, size: int64(len(config)), data: []byte{0}},
		"model.safetensors": {name: "model.safetensors", head: head, size: int64(len(head)) + size,
			data: normal(scale), large: normal(1), loud: loud},
	}, size
}
