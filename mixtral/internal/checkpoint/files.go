// Package checkpoint opens and reads a model's files as a model hub ships them:
// config.json beside one file of weights, or beside an index and the shards that it
// names. What is common to all models is here; which tensors there must be is the
// model's to say.
package checkpoint

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
	ConfigFile = "config.json"
	SingleFile = "model.safetensors"
	IndexFile  = "model.safetensors.index.json"
	TorchFile  = "pytorch_model.bin"
	TorchIndex = "pytorch_model.bin.index.json"
)

// MaxJSON is the maximum size of config.json and of an index, in bytes: an index
// of some hundred thousand tensors.
const MaxJSON = 64 << 20

// Files are a checkpoint's files. All methods except Close may be called
// concurrently.
type Files struct {
	Text    []byte                // config.json
	Shards  []*safetensors.Reader // by name
	Tensors map[string]Stored     // by the file's names

	index string // the name of the index, if there is one
	read  func(fsys fs.FS, name string) (*safetensors.Reader, error)
}

// Stored is a tensor in a file.
type Stored struct {
	File *safetensors.Reader
	Info safetensors.Info
}

// Part is a tensor by the hub's name: some or all of a stored one.
type Part struct {
	Stored
	Offset int64 // in bytes, from the stored tensor's beginning
	Shape  []int
}

func (p Part) Elements() int { return ElementsOf(p.Shape) }

// ElementsOf returns the number of values of a shape.
func ElementsOf(shape []int) int {
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	return n
}

// ReadConfig returns the text of config.json at the root of a file system.
func ReadConfig(fsys fs.FS) ([]byte, error) {
	if err := checkFolder(fsys); err != nil {
		return nil, err
	}
	text, err := ReadSmall(fsys, ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &safetensors.Error{File: ConfigFile, Err: fmt.Errorf(
			"%w: this is not the folder of a model, which contains %s and %s", fs.ErrNotExist, ConfigFile, SingleFile)}
	}
	return text, err
}

// Open opens the weights beside a config.json of text: the first that exists of
// SingleFile, IndexFile, TorchFile and TorchIndex, which is transformers' order.
func Open(fsys fs.FS, text []byte) (*Files, error) {
	c := &Files{Text: text, Tensors: map[string]Stored{}}
	if err := c.open(fsys); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// checkFolder reports a file system whose root is missing or not a folder.
func checkFolder(fsys fs.FS) error {
	info, err := fs.Stat(fsys, ".")
	if err != nil {
		return WithoutPath(err)
	}
	if !info.IsDir() {
		return errors.New("not a directory")
	}
	return nil
}

// WithoutPath removes operation and path from an error that will get a better
// name.
func WithoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (c *Files) open(fsys fs.FS) error {
	for _, name := range []string{SingleFile, IndexFile, TorchFile, TorchIndex} {
		_, err := fs.Stat(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		c.read = safetensors.Open
		if name == TorchFile || name == TorchIndex {
			c.read = safetensors.OpenTorch
		}
		if name == IndexFile || name == TorchIndex {
			c.index = name
			return c.openShards(fsys)
		}
		return c.openShard(fsys, name)
	}
	return &safetensors.Error{File: SingleFile, Err: fmt.Errorf(
		"%w, nor do %s, %s and %s; weights in other formats are not read", fs.ErrNotExist, IndexFile, TorchFile, TorchIndex)}
}

// openShard opens one file and adds its tensors.
func (c *Files) openShard(fsys fs.FS, name string) error {
	file, err := c.read(fsys, name)
	if err != nil {
		return err
	}
	c.Shards = append(c.Shards, file)
	for _, info := range file.Tensors() {
		if other, twice := c.Tensors[info.Name]; twice {
			return &safetensors.Error{File: name, Tensor: info.Name,
				Err: fmt.Errorf("is also in %s", other.File.Name())}
		}
		c.Tensors[info.Name] = Stored{file, info}
	}
	return nil
}

// openShards opens the files that the index names, and checks that they contain
// the index's tensors and no others.
func (c *Files) openShards(fsys fs.FS) error {
	text, err := ReadSmall(fsys, c.index)
	if err != nil {
		return err
	}
	index, err := parseIndex(c.index, text)
	if err != nil {
		return err
	}
	opened := map[string]bool{}
	for _, tensor := range SortedKeys(index) {
		name := index[tensor]
		if opened[name] {
			continue
		}
		opened[name] = true
		if !fs.ValidPath(name) || name == "." {
			return &safetensors.Error{File: c.index, Tensor: tensor,
				Err: fmt.Errorf("shard %q is not a file of this folder", name)}
		}
		if _, err := fs.Stat(fsys, name); errors.Is(err, fs.ErrNotExist) {
			return &safetensors.Error{File: c.index, Tensor: tensor, Err: fmt.Errorf("shard %s is missing", name)}
		}
		if err := c.openShard(fsys, name); err != nil {
			return err
		}
	}
	slices.SortFunc(c.Shards, func(a, b *safetensors.Reader) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, tensor := range SortedKeys(index) {
		have, ok := c.Tensors[tensor]
		switch {
		case !ok:
			return &safetensors.Error{File: index[tensor], Tensor: tensor,
				Err: fmt.Errorf("is missing, but %s names this file", c.index)}
		case have.File.Name() != index[tensor]:
			return &safetensors.Error{File: have.File.Name(), Tensor: tensor,
				Err: fmt.Errorf("is here, but %s says it is in %s", c.index, index[tensor])}
		}
	}
	for _, tensor := range SortedKeys(c.Tensors) {
		if _, ok := index[tensor]; !ok {
			return &safetensors.Error{File: c.Tensors[tensor].File.Name(), Tensor: tensor,
				Err: fmt.Errorf("is not in %s", c.index)}
		}
	}
	return nil
}

// parseIndex returns the index's weight_map: each tensor's file.
func parseIndex(file string, text []byte) (map[string]string, error) {
	fail := func(field string, err error) error {
		return fmt.Errorf("%s: %s: %w", file, field, err)
	}
	top, err := ParseFields(file, text)
	if err != nil {
		return nil, &safetensors.Error{File: file, Err: err}
	}
	if top.Absent("weight_map") {
		return nil, fail("weight_map", errors.New("is missing"))
	}
	entries, err := ParseFields(file, top.Values["weight_map"])
	if err != nil {
		return nil, fail("weight_map", err)
	}
	if len(entries.Values) == 0 {
		return nil, fail("weight_map", errors.New("is empty"))
	}
	index := make(map[string]string, len(entries.Values))
	for tensor := range entries.Values {
		shard := entries.String(tensor, "")
		if shard == "" {
			return nil, &safetensors.Error{File: file, Tensor: tensor, Err: errors.New("its file is not a string")}
		}
		index[tensor] = shard
	}
	return index, nil
}

// Close closes the checkpoint's files.
func (c *Files) Close() error {
	var errs []error
	for _, file := range c.Shards {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// ComputeTypes are the types that weights may be stored in.
var ComputeTypes = map[safetensors.DType]dtypes.DType{
	safetensors.F32:  dtypes.Float32,
	safetensors.F16:  dtypes.Float16,
	safetensors.BF16: dtypes.BFloat16,
}

// ReadSmall reads a whole file. Its error names the file.
func ReadSmall(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err == nil && info.Size() > MaxJSON {
		err = fmt.Errorf("%d bytes, above the limit of %d", info.Size(), MaxJSON)
	}
	var text []byte
	if err == nil {
		text, err = fs.ReadFile(fsys, name)
	}
	if err != nil {
		return nil, &safetensors.Error{File: name, Err: WithoutPath(err)}
	}
	return text, nil
}

// SortedKeys returns the keys of m in order.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Name returns a name of all files, for errors about what is in none of them.
func (c *Files) Name() string {
	if len(c.Shards) == 1 {
		return c.Shards[0].Name()
	}
	return c.index
}

// Has reports whether a tensor is stored.
func (c *Files) Has(name string) bool {
	_, ok := c.Tensors[name]
	return ok
}

// Whole finds a stored tensor, of any type, and checks its shape.
func (c *Files) Whole(name string, shape []int) (Part, error) {
	t, ok := c.Tensors[name]
	if !ok {
		return Part{}, &safetensors.Error{File: c.Name(), Tensor: name, Err: errors.New("is missing")}
	}
	if !slices.Equal(t.Info.Shape, shape) {
		return Part{}, &safetensors.Error{File: t.File.Name(), Tensor: name,
			Err: fmt.Errorf("has shape %v, expected %v as in %s", t.Info.Shape, shape, ConfigFile)}
	}
	return Part{Stored: t, Shape: shape}, nil
}

// CheckFloat returns an error unless the tensor's type is F32, F16 or BF16.
func (t Stored) CheckFloat() error {
	if _, ok := ComputeTypes[t.Info.DType]; !ok {
		return &safetensors.Error{File: t.File.Name(), Tensor: t.Info.Name,
			Err: fmt.Errorf("is %s, expected F32, F16 or BF16", t.Info.DType)}
	}
	return nil
}

// Without returns an error about a tensor that no model of this configuration has.
func (c *Files) Without(name string) error {
	return &safetensors.Error{File: c.Name(), Tensor: name, Err: errors.New("no tensor of this model has this name")}
}
