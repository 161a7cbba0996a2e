package mixtral

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// Names of files in a checkpoint's folder.
const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
)

// maxJSON is the maximum size of config.json and of an index, in bytes: an index
// of some hundred thousand tensors.
const maxJSON = 64 << 20

// Checkpoint is a Mixtral's weights on disk. Opening it reads the configuration
// and the headers of the files; Read reads a tensor's data. All methods except
// Close may be called concurrently.
type Checkpoint struct {
	config  Config
	text    []byte                // config.json
	shards  []*safetensors.Reader // by name
	tensors map[string]stored     // by the file's names
}

// stored is a tensor in a file.
type stored struct {
	file *safetensors.Reader
	info safetensors.Info
}

// part is a tensor by the hub's name: some or all of a stored one.
type part struct {
	stored
	offset int64 // in bytes, from the stored tensor's beginning
	shape  []int
}

func (p part) elements() int { return elements(p.shape) }

// elements returns the number of values of a shape.
func elements(shape []int) int {
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	return n
}

// OpenCheckpoint opens the checkpoint at the root of a file system: config.json
// beside model.safetensors, or beside model.safetensors.index.json and the
// shards that it names. If both exist, model.safetensors is read, as in
// transformers. Tensors are F32, F16 or BF16, also mixed in one model, and have
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
	if err := checkFolder(fsys); err != nil {
		return nil, err
	}
	text, err := readSmall(fsys, configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &safetensors.Error{File: configFile, Err: fmt.Errorf(
			"%w: this is not the folder of a model, which contains %s and %s", fs.ErrNotExist, configFile, singleFile)}
	}
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{config: config, text: text, tensors: map[string]stored{}}
	if err := c.open(fsys); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// checkFolder reports a file system whose root is missing or not a folder.
func checkFolder(fsys fs.FS) error {
	info, err := fs.Stat(fsys, ".")
	if err != nil {
		return withoutPath(err)
	}
	if !info.IsDir() {
		return errors.New("not a directory")
	}
	return nil
}

// withoutPath removes operation and path from an error that will get a better
// name.
func withoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (c *Checkpoint) open(fsys fs.FS) error {
	_, err := fs.Stat(fsys, singleFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := fs.Stat(fsys, indexFile); e == nil {
			err = c.openShards(fsys)
		} else if errors.Is(e, fs.ErrNotExist) {
			return &safetensors.Error{File: singleFile, Err: fmt.Errorf(
				"%w, nor does %s; weights in other formats are not read", fs.ErrNotExist, indexFile)}
		} else {
			err = e
		}
	} else if err == nil {
		err = c.openShard(fsys, singleFile)
	}
	if err != nil {
		return err
	}
	return c.check()
}

// openShard opens one file and adds its tensors.
func (c *Checkpoint) openShard(fsys fs.FS, name string) error {
	file, err := safetensors.Open(fsys, name)
	if err != nil {
		return err
	}
	c.shards = append(c.shards, file)
	for _, info := range file.Tensors() {
		if other, twice := c.tensors[info.Name]; twice {
			return &safetensors.Error{File: name, Tensor: info.Name,
				Err: fmt.Errorf("is also in %s", other.file.Name())}
		}
		c.tensors[info.Name] = stored{file, info}
	}
	return nil
}

// openShards opens the files that the index names, and checks that they contain
// the index's tensors and no others.
func (c *Checkpoint) openShards(fsys fs.FS) error {
	text, err := readSmall(fsys, indexFile)
	if err != nil {
		return err
	}
	index, err := parseIndex(text)
	if err != nil {
		return err
	}
	opened := map[string]bool{}
	for _, tensor := range sortedKeys(index) {
		name := index[tensor]
		if opened[name] {
			continue
		}
		opened[name] = true
		if !fs.ValidPath(name) || name == "." {
			return &safetensors.Error{File: indexFile, Tensor: tensor,
				Err: fmt.Errorf("shard %q is not a file of this folder", name)}
		}
		if _, err := fs.Stat(fsys, name); errors.Is(err, fs.ErrNotExist) {
			return &safetensors.Error{File: indexFile, Tensor: tensor, Err: fmt.Errorf("shard %s is missing", name)}
		}
		if err := c.openShard(fsys, name); err != nil {
			return err
		}
	}
	slices.SortFunc(c.shards, func(a, b *safetensors.Reader) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, tensor := range sortedKeys(index) {
		have, ok := c.tensors[tensor]
		switch {
		case !ok:
			return &safetensors.Error{File: index[tensor], Tensor: tensor,
				Err: fmt.Errorf("is missing, but %s names this file", indexFile)}
		case have.file.Name() != index[tensor]:
			return &safetensors.Error{File: have.file.Name(), Tensor: tensor,
				Err: fmt.Errorf("is here, but %s says it is in %s", indexFile, index[tensor])}
		}
	}
	for _, tensor := range sortedKeys(c.tensors) {
		if _, ok := index[tensor]; !ok {
			return &safetensors.Error{File: c.tensors[tensor].file.Name(), Tensor: tensor,
				Err: fmt.Errorf("is not in %s", indexFile)}
		}
	}
	return nil
}

// parseIndex returns the index's weight_map: each tensor's file.
func parseIndex(text []byte) (map[string]string, error) {
	fail := func(field string, err error) error {
		return fmt.Errorf("%s: %s: %w", indexFile, field, err)
	}
	top, err := parseFields(text)
	if err != nil {
		return nil, &safetensors.Error{File: indexFile, Err: err}
	}
	if top.absent("weight_map") {
		return nil, fail("weight_map", errors.New("is missing"))
	}
	entries, err := parseFields(top.values["weight_map"])
	if err != nil {
		return nil, fail("weight_map", err)
	}
	if len(entries.values) == 0 {
		return nil, fail("weight_map", errors.New("is empty"))
	}
	index := make(map[string]string, len(entries.values))
	for tensor := range entries.values {
		file := entries.string(tensor, "")
		if file == "" {
			return nil, &safetensors.Error{File: indexFile, Tensor: tensor, Err: errors.New("its file is not a string")}
		}
		index[tensor] = file
	}
	return index, nil
}

// Close closes the checkpoint's files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, file := range c.shards {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

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
	return slices.Clone(p.shape), err
}

// DType returns the type in which a tensor is stored: Float32, Float16, BFloat16
// or Int8. The names are those of Shape.
func (c *Checkpoint) DType(name string) (dtypes.DType, error) {
	p, err := c.resolve(name)
	if err != nil {
		return dtypes.InvalidDType, err
	}
	if p.info.DType == safetensors.I8 {
		return dtypes.Int8, nil
	}
	return computeTypes[p.info.DType], nil
}

// computeTypes are the types that weights may be stored in.
var computeTypes = map[safetensors.DType]dtypes.DType{
	safetensors.F32:  dtypes.Float32,
	safetensors.F16:  dtypes.Float16,
	safetensors.BF16: dtypes.BFloat16,
}

// readSmall reads a whole file. Its error names the file.
func readSmall(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err == nil && info.Size() > maxJSON {
		err = fmt.Errorf("%d bytes, above the limit of %d", info.Size(), maxJSON)
	}
	var text []byte
	if err == nil {
		text, err = fs.ReadFile(fsys, name)
	}
	if err != nil {
		return nil, &safetensors.Error{File: name, Err: withoutPath(err)}
	}
	return text, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
