package mixtral

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// fake is a checkpoint whose tensors and files a test changes.
type fake struct {
	checkpoint mixtraltest.Checkpoint
	config     map[string]any // fields that replace those of checkpoint
	tensors    map[string]*mixtraltest.Tensor
	spoil      func(files fstest.MapFS) // changes the files
}

// newFake returns a valid checkpoint whose axes all differ: V 11, D 12, F 5, L 2,
// H 3, one KV head, head size 4, E 3.
func newFake() *fake {
	f := &fake{config: map[string]any{}, checkpoint: mixtraltest.Checkpoint{
		Layers: 2, Experts: 3, TopK: 2, Hidden: 12, ExpertWidth: 5, Heads: 3, KVHeads: 1, Vocabulary: 11}}
	f.capture()
	return f
}

// capture sets f.tensors to those of f.checkpoint.
func (f *fake) capture() {
	f.checkpoint.Edit = func(tensors map[string]*mixtraltest.Tensor) { f.tensors = maps.Clone(tensors) }
	f.checkpoint.FS()
}

// fuse stores the experts as transformers 5 does. Earlier changes are lost.
func (f *fake) fuse() {
	f.checkpoint.Fused = true
	f.capture()
}

// shard stores the second layer in one file and the rest in another.
func (f *fake) shard() { f.checkpoint.Shards = 2 }

// add makes a float32 tensor.
func (f *fake) add(name string, shape ...int) {
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	data := make([]byte, 0, 4*n)
	for i := range n {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(i)/1024))
	}
	f.tensors[name] = &mixtraltest.Tensor{DType: safetensors.F32, Shape: shape, Data: data}
}

// set writes one element of a float32 tensor.
func (f *fake) set(name string, element int, value float32) {
	binary.LittleEndian.PutUint32(f.tensors[name].Data[4*element:], math.Float32bits(value))
}

// to converts a tensor to another type.
func (f *fake) to(name string, dtype safetensors.DType) {
	t := f.tensors[name]
	data := make([]byte, len(t.Data)/t.DType.Size()*dtype.Size())
	if err := safetensors.Convert(data, dtype, t.Data, t.DType); err != nil {
		panic(err)
	}
	t.DType, t.Data = dtype, data
}

// FS returns the checkpoint's files.
func (f *fake) FS() fstest.MapFS {
	c := f.checkpoint
	c.Config = f.config
	c.Edit = func(tensors map[string]*mixtraltest.Tensor) {
		clear(tensors)
		maps.Copy(tensors, f.tensors)
	}
	files := c.FS()
	if f.spoil != nil {
		f.spoil(files)
	}
	return files
}

// editIndex changes the weight_map of a sharded checkpoint.
func editIndex(files fstest.MapFS, edit func(weights map[string]any)) {
	var index map[string]any
	file := files["model.safetensors.index.json"]
	if err := json.Unmarshal(file.Data, &index); err != nil {
		panic(err)
	}
	edit(index["weight_map"].(map[string]any))
	text, err := json.Marshal(index)
	if err != nil {
		panic(err)
	}
	file.Data = text
}
