package mixtral

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// Checkpoint is a Mixtral's weights on disk. Opening it reads the configuration
// and the headers of the files; Read reads a tensor's data. All methods except
// Close may be called concurrently.
type Checkpoint struct {
	config Config
	files  *checkpoint.Files
}

// OpenCheckpoint opens the checkpoint at the root of a file system: config.json
// beside model.safetensors, or beside model.safetensors.index.json and the
// shards that it names, or, with neither of them, PyTorch's pytorch_model.bin or
// pytorch_model.bin.index.json and its shards. Of several, the first in this order is
// read, as in transformers. PyTorch's files are read by safetensors.OpenTorch, which
// executes nothing. Tensors are F32, F16 or BF16, also mixed in one model, and have
// either the hub's names (block_sparse_moe.experts.N.w1) or those of
// transformers 5 (mlp.experts.gate_up_proj). Linear weights may also be stored in
// 8 bits as bitsandbytes does: weight I8 [O,I] beside SCB F32 [O].
//
// All tensors of the model must exist in their shapes, and no others. The only
// exceptions are buffers of rotary frequencies (…rotary_emb.inv_freq), which old
// programs wrote, and the index's metadata: they are ignored. A tied head may be
// stored if it equals the embedding, for which both are read.
//
// Errors name file and tensor or field; most are of type *safetensors.Error. If
// the folder or one of its files does not exist, they wrap fs.ErrNotExist. NaN and
// infinite weights are found by Read. Close the checkpoint after use.
func OpenCheckpoint(fsys fs.FS) (*Checkpoint, error) {
	text, err := checkpoint.ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	files, err := checkpoint.Open(fsys, text)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{config: config, files: files}
	if err := c.check(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close closes the checkpoint's files.
func (c *Checkpoint) Close() error { return c.files.Close() }

// Config returns the model's configuration.
func (c *Checkpoint) Config() Config {
	config := c.config
	config.EOS = slices.Clone(config.EOS)
	return config
}

// Shape returns the shape of a tensor by the hub's name, for example
//
//	model.embed_tokens.weight                                [V,D]
//	model.layers.3.input_layernorm.weight                    [D]
//	model.layers.3.self_attn.q_proj.weight                   [H*HeadDim,D]
//	model.layers.3.self_attn.k_proj.weight                   [KVHeads*HeadDim,D]
//	model.layers.3.self_attn.v_proj.weight                   [KVHeads*HeadDim,D]
//	model.layers.3.self_attn.o_proj.weight                   [D,H*HeadDim]
//	model.layers.3.post_attention_layernorm.weight           [D]
//	model.layers.3.block_sparse_moe.gate.weight              [E,D]
//	model.layers.3.block_sparse_moe.experts.5.w1.weight      [F,D], gate
//	model.layers.3.block_sparse_moe.experts.5.w2.weight      [D,F], down
//	model.layers.3.block_sparse_moe.experts.5.w3.weight      [F,D], up
//	model.norm.weight                                        [D]
//	lm_head.weight                                           [V,D]
//
// whichever names the files use. For any other name it returns an error.
func (c *Checkpoint) Shape(name string) ([]int, error) {
	p, err := c.resolve(name)
	return slices.Clone(p.Shape), err
}

// DType returns the type in which a tensor is stored: Float32, Float16, BFloat16
// or Int8. The names are those of Shape.
func (c *Checkpoint) DType(name string) (dtypes.DType, error) {
	p, err := c.resolve(name)
	if err != nil {
		return dtypes.InvalidDType, err
	}
	if p.Info.DType == safetensors.I8 {
		return dtypes.Int8, nil
	}
	return checkpoint.ComputeTypes[p.Info.DType], nil
}
