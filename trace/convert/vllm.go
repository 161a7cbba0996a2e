package convert

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// array is one [T,L,K] array of experts, with the token ids of the same name
// where there are any.
type array struct {
	file     string
	tensor   string       // of a safetensors file; "": file is .npy
	ids      string       // .npy file or tensor of token ids; "": unknown
	stem     string       // the name without suffixes
	document *documentKey // nil: stem is the id
}

// Suffixes of names in a file or folder that hold token ids or experts.
const (
	idsSuffix     = ".input_ids"
	expertsSuffix = ".experts"
)

// keysFile is a file in a folder of arrays that holds the data set and the id of
// each document by its name, which may be shortened, as a JSON object. In a
// safetensors file they are the metadata of metaDocument.
const keysFile = "documents.json"

// openVLLM reads the routed experts that vLLM and SGLang return: integers
// [T,L,K], one document each, as .npy files or tensors of safetensors files. A
// tensor NAME or NAME.experts may have token ids NAME.input_ids [T], and a file
// NAME.npy may have NAME.input_ids.npy. There are no routing weights.
func openVLLM(ctx context.Context, path string, o Options) (*source, error) {
	in, err := listInputs(path, ".npy", ".safetensors")
	if err != nil {
		return nil, err
	}
	arrays, err := vllmArrays(ctx, path, in)
	if err != nil {
		return nil, err
	}
	s := survey{topK: o.TopK, largest: -1}
	var first error
	reader := &arrayReader{ctx: ctx}
	defer reader.close()
	for _, a := range arrays {
		values, shape, err := reader.read(a.file, a.tensor)
		if err == nil && (len(shape) != 3 || len(values) == 0) {
			err = a.located(fmt.Errorf("shape %v is not [T,L,K]", shape))
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil { // errors are reported later
			s.add(values, shape[1], shape[2])
		} else if first == nil {
			first = err
		}
	}
	if s.layers == 0 {
		return nil, first
	}
	h, notes := s.header(o)
	return &source{header: h, notes: notes, omitted: in.omitted, documents: func(yield func(*trace.Document, error) bool) {
		reader := &arrayReader{ctx: ctx}
		defer reader.close()
		for _, a := range arrays {
			d, err := reader.document(a, &h.Model)
			if err != nil {
				err = omission{a.located(err)}
			} else if a.document != nil {
				d.Dataset, d.ID = datasetOr(o, a.document[0]), a.document[1]
			} else {
				d.Dataset, d.ID = datasetOr(o, base(path)), a.stem
			}
			if !yield(d, err) {
				return
			}
		}
	}}, nil
}

func (a *array) located(err error) error {
	item := ""
	if a.tensor != "" {
		item = fmt.Sprintf("tensor %q", a.tensor)
	}
	return located(a.file, item, err)
}

// vllmArrays lists the arrays of the files of path.
func vllmArrays(ctx context.Context, path string, in *inputs) ([]*array, error) {
	var keys map[string]documentKey
	if in.folder {
		var err error
		if keys, err = readKeys(ctx, filepath.Join(path, keysFile)); err != nil {
			return nil, err
		}
	}
	var arrays []*array
	for _, file := range in.files {
		if filepath.Ext(file) == ".safetensors" {
			more, err := tensorArrays(file)
			if err != nil {
				return nil, err
			}
			arrays = append(arrays, more...)
			continue
		}
		stem := strings.TrimSuffix(file, ".npy")
		if in.folder && strings.HasSuffix(stem, idsSuffix) {
			continue
		}
		stem = strings.TrimSuffix(stem, expertsSuffix)
		a := &array{file: file, stem: filepath.Base(stem)}
		if key, ok := keys[a.stem]; ok {
			a.document = &key
		}
		if ids := stem + idsSuffix + ".npy"; regular(ids) == nil {
			a.ids = ids
		}
		arrays = append(arrays, a)
	}
	if len(arrays) == 0 {
		return nil, fmt.Errorf("%s: no array of experts [T,L,K]", path)
	}
	return arrays, nil
}

// readKeys reads a keysFile, which may not exist.
func readKeys(ctx context.Context, path string) (keys map[string]documentKey, err error) {
	text, err := readAll(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = located(path, "", json.Unmarshal(text, &keys))
	}
	return keys, err
}

func tensorArrays(path string) ([]*array, error) {
	f, err := openTensors(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var arrays []*array
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		if _, ok := intTypeOf(info.DType); !ok || len(info.Shape) != 3 {
			continue
		}
		a := &array{file: path, tensor: name, stem: strings.TrimSuffix(name, expertsSuffix)}
		if _, ok := f.Info(a.stem + idsSuffix); ok {
			a.ids = a.stem + idsSuffix
		}
		arrays = append(arrays, a)
	}
	if len(arrays) == 0 {
		return nil, fmt.Errorf("%s: no tensor of integers [T,L,K]", path)
	}
	if text := f.Metadata()[metaDocument]; text != "" {
		var keys map[string]documentKey
		if err := json.Unmarshal([]byte(text), &keys); err != nil {
			return nil, &place{file: path, item: "metadata " + metaDocument, err: err}
		}
		for _, a := range arrays {
			if key, ok := keys[a.stem]; ok {
				a.document = &key
			}
		}
	}
	return arrays, nil
}

func openTensors(path string) (*safetensors.Reader, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	return safetensors.Open(os.DirFS(filepath.Dir(path)), filepath.Base(path))
}

// arrayReader reads integer arrays, and keeps the last safetensors file open.
type arrayReader struct {
	ctx  context.Context
	path string
	file *safetensors.Reader
}

func (r *arrayReader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// read returns the values of a .npy file, or of a tensor, and their shape.
func (r *arrayReader) read(path, tensor string) (values []int32, shape []int, err error) {
	if tensor == "" {
		return readNpy(r.ctx, path)
	}
	if r.path != path || r.file == nil {
		r.close()
		if r.file, err = openTensors(path); err != nil {
			return nil, nil, err
		}
		r.path = path
	}
	info, _ := r.file.Info(tensor)
	values, err = readInts(r.file, tensor)
	return values, info.Shape, located(path, fmt.Sprintf("tensor %q", tensor), err)
}

func (r *arrayReader) document(a *array, m *trace.Model) (*trace.Document, error) {
	values, shape, err := r.read(a.file, a.tensor)
	if err != nil {
		return nil, err
	}
	if len(shape) != 3 || shape[1] != m.Layers || shape[2] != m.TopK {
		return nil, fmt.Errorf("shape %v, expected [T,%d,%d]", shape, m.Layers, m.TopK)
	}
	d := &trace.Document{Experts: values, Tokens: slices.Repeat([]int32{trace.NoToken}, shape[0])}
	if a.ids == "" {
		return d, nil
	}
	file, tensor := a.ids, ""
	if a.tensor != "" {
		file, tensor = a.file, a.ids
	}
	ids, size, err := r.read(file, tensor)
	if err == nil && (len(size) != 1 || size[0] != shape[0]) {
		err = fmt.Errorf("token ids of shape %v for %d tokens", size, shape[0])
	}
	d.Tokens = ids
	return d, err
}

// readInts reads an integer tensor as 32-bit integers.
func readInts(f *safetensors.Reader, name string) ([]int32, error) {
	info, _ := f.Info(name)
	t, ok := intTypeOf(info.DType)
	if !ok {
		return nil, fmt.Errorf("%s values are not integers", info.DType)
	}
	values, at := make([]int32, info.Len()), int64(0)
	return values, t.decode(values, func(p []byte) error {
		err := f.ReadAt(name, p, at)
		at += int64(len(p))
		return err
	})
}

// maxStem leaves room for the longest suffix in a file name of 255 bytes.
const maxStem = 255 - len(idsSuffix+".npy")

// writeVLLM writes a safetensors file, where out ends so, or else a folder of
// .npy files and a keysFile: experts [T,L,K] int32 (-1 where a token has fewer
// than K) and input_ids [T].
func writeVLLM(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	report := &Report{Header: r.Header(), Notes: []string{"not kept: weights, positions, phases, logits"}}
	if filepath.Ext(out) == ".safetensors" {
		return report, writeTensors(ctx, r, report, out)
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		return nil, err
	}
	m := &report.Header.Model
	names := newNames()
	err := report.each(ctx, routing(r).Documents(), func(d *trace.Document) error {
		stem := filepath.Join(out, names.add(d, fileStem(d), maxStem))
		err := writeFile(stem+".npy", func(w *bufio.Writer) error {
			return writeNpy(w, d.Experts, d.Len(), m.Layers, m.TopK)
		})
		if err != nil || slices.Contains(d.Tokens, trace.NoToken) {
			return err
		}
		return writeFile(stem+idsSuffix+".npy", func(w *bufio.Writer) error { return writeNpy(w, d.Tokens, d.Len()) })
	})
	if err != nil {
		return report, err
	}
	return report, writeFile(filepath.Join(out, keysFile), func(w *bufio.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "\t")
		return e.Encode(names.keys)
	})
}

func writeTensors(ctx context.Context, r *trace.Reader, report *Report, out string) error {
	m := &report.Header.Model
	names := newNames()
	var tensors []safetensors.Tensor
	err := report.each(ctx, routing(r).Documents(), func(d *trace.Document) error {
		name := names.add(d, d.Dataset+"."+d.ID, maxTensorName)
		tensors = append(tensors, safetensors.Int32s(name+expertsSuffix, []int{d.Len(), m.Layers, m.TopK}, d.Experts))
		if !slices.Contains(d.Tokens, trace.NoToken) {
			tensors = append(tensors, safetensors.Int32s(name+idsSuffix, []int{d.Len()}, d.Tokens))
		}
		return nil
	})
	if err != nil {
		return err
	}
	keys, err := json.Marshal(names.keys)
	if err != nil {
		return err
	}
	return safetensors.WriteFile(out, tensors, map[string]string{"format": "expertspec", metaDocument: string(keys)})
}

// maxTensorName bounds the names in the header of a safetensors file, in bytes.
const maxTensorName = 1 << 10
