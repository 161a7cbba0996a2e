package mixtral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// sourceKey is the metadata of a quantized shard that names its checkpoint's hash.
const sourceKey = "expertspec.source"

// copied are the other files of a checkpoint's folder that a quantized one keeps.
var copied = []string{
	"generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
	"added_tokens.json", "chat_template.json", "chat_template.jinja",
}

// WriteInt8 writes the checkpoint in fsys with Int8 matrices to the folder dir, in
// the form of bitsandbytes' Linear8bitLt and transformers 4's names: a shard per
// layer and one for the rest, then the index and config.json with its
// quantization_config. progress, if not nil, is called after each shard.
//
// A shard appears whole or not at all. WriteInt8 resumes: it keeps the shards that
// exist, and returns an error if they are of another checkpoint. It returns an
// error before it writes if the folder's file system has too little space. Memory
// is one layer in 8 bits and one matrix in float32.
func WriteInt8(ctx context.Context, fsys fs.FS, dir string, progress func(shardsDone, shards int)) error {
	c, err := OpenCheckpoint(fsys)
	if err != nil {
		return err
	}
	defer c.Close()
	if attention, experts := c.int8Class(); attention || experts {
		return errors.New("the checkpoint is quantized already")
	}
	config, err := quantizedConfig(c.files.Text)
	if err != nil {
		return fmt.Errorf("%s: %w", configFile, err)
	}
	w := &int8Writer{ctx: ctx, c: c, dir: dir, index: map[string]string{}}
	if w.hash, err = c.Hash(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := w.plan(); err != nil {
		return err
	}
	for i := range w.shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.write(i); err != nil {
			return err
		}
		if progress != nil {
			progress(i+1, len(w.shards))
		}
	}
	return w.finish(fsys, config)
}

type int8Writer struct {
	ctx    context.Context
	c      *Checkpoint
	dir    string
	hash   string
	shards []int8Shard
	index  map[string]string // tensor to shard
	size   int64
	wide   []uint64
}

type int8Shard struct {
	file    string
	tensors []safetensors.Tensor // without data
	exists  bool
}

// quantizedName reports whether WriteInt8 and Options.Quantize quantize a tensor.
func quantizedName(name string) bool {
	return linearPattern.MatchString(name) && name != headName && !strings.HasSuffix(name, hubRouter)
}

// plan lists the shards, finds those that exist, and checks the space for the
// others.
func (w *int8Writer) plan() error {
	cfg := w.c.config
	rest := []string{embedName, normName}
	if !cfg.TieEmbeddings {
		rest = append(rest, headName)
	}
	groups := [][]string{rest}
	for l := range cfg.Layers {
		var names []string
		for _, name := range layerNames {
			names = append(names, layerPrefix(l)+name)
		}
		for e := range cfg.Experts {
			names = append(names, expertName(l, e, "w1"), expertName(l, e, "w2"), expertName(l, e, "w3"))
		}
		groups = append(groups, names)
	}
	var need int64
	for i, names := range groups {
		s := int8Shard{file: fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(groups))}
		var size int64
		for _, name := range names {
			tensors, err := w.c.int8Tensors(name)
			if err != nil {
				return err
			}
			s.tensors = append(s.tensors, tensors...)
		}
		for _, t := range s.tensors {
			size += int64(checkpoint.ElementsOf(t.Shape) * t.DType.Size())
			w.index[t.Name] = s.file
		}
		w.size += size
		var err error
		if s.exists, err = w.exists(s); err != nil {
			return err
		}
		if !s.exists {
			need += size + 1<<20 // the header
		}
		w.shards = append(w.shards, s)
	}
	free, ok := freeSpace(w.dir)
	if ok && free < need {
		return fmt.Errorf("%s: %d MB are free, %d MB are required", w.dir, free/1e6, need/1e6)
	}
	return nil
}

// int8Tensors returns what a tensor is written as, without data.
func (c *Checkpoint) int8Tensors(name string) ([]safetensors.Tensor, error) {
	p, err := c.resolve(name)
	if err != nil {
		return nil, err
	}
	if !quantizedName(name) {
		return []safetensors.Tensor{{Name: name, DType: p.Info.DType, Shape: p.Shape}}, nil
	}
	base := strings.TrimSuffix(name, weightSuffix)
	return []safetensors.Tensor{
		{Name: name, DType: safetensors.I8, Shape: p.Shape},
		{Name: base + scaleSuffix, DType: safetensors.F32, Shape: p.Shape[:1]},
		{Name: base + formatSuffix, DType: safetensors.U8},
	}, nil
}

// exists reports whether a shard was written before, of the same checkpoint.
func (w *int8Writer) exists(s int8Shard) (bool, error) {
	if _, err := os.Stat(filepath.Join(w.dir, s.file)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	r, err := safetensors.Open(os.DirFS(w.dir), s.file)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if r.Metadata()[sourceKey] != w.hash {
		return false, &safetensors.Error{File: s.file, Err: errors.New("exists and is of another checkpoint")}
	}
	names := []string{}
	for _, t := range s.tensors {
		names = append(names, t.Name)
	}
	have := r.Names()
	slices.Sort(names)
	slices.Sort(have)
	if !slices.Equal(names, have) {
		return false, &safetensors.Error{File: s.file, Err: errors.New("exists and has other tensors")}
	}
	return true, nil
}

func (w *int8Writer) write(i int) error {
	s := &w.shards[i]
	if s.exists {
		return nil
	}
	var tensors []safetensors.Tensor
	for _, t := range s.tensors {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(t.Name, scaleSuffix) || strings.HasSuffix(t.Name, formatSuffix) {
			continue // with its weight
		}
		made, err := w.tensor(t)
		if err != nil {
			return err
		}
		tensors = append(tensors, made...)
	}
	return safetensors.WriteFile(filepath.Join(w.dir, s.file), tensors, map[string]string{"format": "pt", sourceKey: w.hash})
}

// tensor reads a tensor and what belongs to it.
func (w *int8Writer) tensor(t safetensors.Tensor) ([]safetensors.Tensor, error) {
	n := checkpoint.ElementsOf(t.Shape)
	if t.DType != safetensors.I8 {
		data := make([]byte, n*t.DType.Size())
		err := w.c.Read(t.Name, checkpoint.ComputeTypes[t.DType], data)
		return []safetensors.Tensor{safetensors.Bytes(t.Name, t.DType, t.Shape, data)}, err
	}
	wide := grow(&w.wide, 4*n)
	if err := w.c.Read(t.Name, dtypes.Float32, wide); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	largest := quantizeRows(data, words[float32](wide), t.Shape[1])
	base := strings.TrimSuffix(t.Name, weightSuffix)
	return []safetensors.Tensor{
		safetensors.Bytes(t.Name, safetensors.I8, t.Shape, data),
		safetensors.Float32s(base+scaleSuffix, t.Shape[:1], largest),
		safetensors.Bytes(base+formatSuffix, safetensors.U8, nil, []byte{0}),
	}, nil
}

// finish writes the small files; config.json, which makes the folder a model, last.
func (w *int8Writer) finish(fsys fs.FS, config []byte) error {
	for _, name := range copied {
		text, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = w.small(name, text)
		}
		if err != nil {
			return err
		}
	}
	index, err := json.MarshalIndent(map[string]any{
		"metadata": map[string]any{"total_size": w.size}, "weight_map": w.index}, "", "  ")
	if err != nil {
		return err
	}
	if err := w.small(checkpoint.IndexFile, index); err != nil {
		return err
	}
	return w.small(configFile, config)
}

// small writes a file aside and renames it.
func (w *int8Writer) small(name string, text []byte) error {
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".tmp", text, 0o666); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
