package convert

import (
	"bufio"
	"context"
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
	place  func(error) error // puts file and tensor before an error
	id     string
	read   func() (values []int32, shape []int, err error)
	tokens func() (values []int32, shape []int, err error) // nil: unknown
}

// suffixes of names in a file or folder that hold token ids or experts.
const (
	idsSuffix     = ".input_ids"
	expertsSuffix = ".experts"
)

// openVLLM reads the routed experts that vLLM and SGLang return: integers
// [T,L,K], one document each, as .npy files or tensors of safetensors files. A
// tensor NAME or NAME.experts may stand beside NAME.input_ids [T], as may a file
// NAME.npy beside NAME.input_ids.npy. There are no routing weights.
func openVLLM(path string, o Options) (*source, error) {
	arrays, err := vllmArrays(path)
	if err != nil {
		return nil, err
	}
	m := trace.Model{Experts: o.Experts}
	most := int32(-1)
	for _, a := range arrays {
		values, shape, err := a.read()
		if err != nil || len(shape) != 3 || len(values) == 0 {
			continue // told when it is its turn
		}
		if m.Layers == 0 {
			m.Layers, m.TopK = shape[1], shape[2]
		}
		if shape[1] == m.Layers && shape[2] == m.TopK {
			most = max(most, slices.Max(values))
		}
	}
	if m.Layers == 0 {
		if len(arrays) > 0 {
			_, shape, err := arrays[0].read()
			if err == nil {
				err = fmt.Errorf("shape %v is not [T,L,K]", shape)
			}
			return nil, arrays[0].place(err)
		}
		return nil, fmt.Errorf("%s: no array of experts [T,L,K]", path)
	}
	var notes []string
	if m.Experts == 0 {
		m.Experts = max(int(most)+1, m.TopK)
		notes = append(notes, fmt.Sprintf("%d experts: the largest id and one", m.Experts))
	}
	h := header(o, m, nil)
	h.NoWeights = true
	notes = append(notes, "no routing weights in this format")
	return &source{header: h, notes: notes, documents: func(yield func(*trace.Document, error) bool) {
		for _, a := range arrays {
			d, err := vllmDocument(&a, &m)
			if err != nil {
				err = leftOut{a.place(err)}
			} else {
				d.Dataset = datasetOr(o, base(path))
			}
			if !yield(d, err) {
				return
			}
		}
	}}, nil
}

func vllmDocument(a *array, m *trace.Model) (*trace.Document, error) {
	values, shape, err := a.read()
	if err != nil {
		return nil, err
	}
	if len(shape) != 3 || shape[1] != m.Layers || shape[2] != m.TopK {
		return nil, fmt.Errorf("shape %v, want [T,%d,%d]", shape, m.Layers, m.TopK)
	}
	d := &trace.Document{ID: a.id, Experts: values, Tokens: slices.Repeat([]int32{trace.NoToken}, shape[0])}
	if a.tokens != nil {
		ids, size, err := a.tokens()
		if err != nil {
			return nil, err
		}
		if len(size) != 1 || size[0] != shape[0] {
			return nil, fmt.Errorf("%v token ids for %d tokens", size, shape[0])
		}
		d.Tokens = ids
	}
	return d, nil
}

// vllmArrays lists the arrays of a file, or of the files of a folder.
func vllmArrays(path string) ([]array, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if strings.HasSuffix(path, ".safetensors") {
			return tensorArrays(path)
		}
		return []array{npyArray(path)}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var arrays []array
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		switch {
		case e.IsDir() || strings.HasPrefix(e.Name(), "."):
		case strings.HasSuffix(name, ".safetensors"):
			more, err := tensorArrays(name)
			if err != nil {
				return nil, err
			}
			arrays = append(arrays, more...)
		case strings.HasSuffix(name, ".npy") && !strings.HasSuffix(name, idsSuffix+".npy"):
			arrays = append(arrays, npyArray(name))
		}
	}
	if len(arrays) == 0 {
		return nil, fmt.Errorf("%s: no .npy or .safetensors in the folder", path)
	}
	return arrays, nil
}

func npyArray(path string) array {
	stem := strings.TrimSuffix(path, ".npy")
	a := array{
		id:    strings.TrimSuffix(filepath.Base(stem), expertsSuffix),
		place: func(err error) error { return placed(path, "", err) },
		read:  func() ([]int32, []int, error) { return readNpy(path) },
	}
	ids := strings.TrimSuffix(stem, expertsSuffix) + idsSuffix + ".npy"
	if _, err := os.Stat(ids); err == nil {
		a.tokens = func() ([]int32, []int, error) { return readNpy(ids) }
	}
	return a
}

// placed puts file and item before an error that has no place yet.
func placed(path, item string, err error) error {
	var mine *Error
	var theirs *safetensors.Error
	var file *fs.PathError
	if errors.As(err, &mine) || errors.As(err, &theirs) || errors.As(err, &file) {
		return err
	}
	return &Error{File: path, Item: item, Err: err}
}

func tensorArrays(path string) ([]array, error) {
	f, err := openTensors(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var arrays []array
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		if _, ok := integerSize(info.DType); !ok || len(info.Shape) != 3 {
			continue
		}
		id := strings.TrimSuffix(name, expertsSuffix)
		a := array{
			id:    id,
			place: func(err error) error { return placed(path, fmt.Sprintf("tensor %q", name), err) },
			read:  func() ([]int32, []int, error) { return tensorInts(path, name) },
		}
		if _, ok := f.Info(id + idsSuffix); ok {
			a.tokens = func() ([]int32, []int, error) { return tensorInts(path, id+idsSuffix) }
		}
		arrays = append(arrays, a)
	}
	if len(arrays) == 0 {
		return nil, fmt.Errorf("%s: no tensor of integers [T,L,K]", path)
	}
	return arrays, nil
}

func openTensors(path string) (*safetensors.Reader, error) {
	return safetensors.Open(os.DirFS(filepath.Dir(path)), filepath.Base(path))
}

// integerSize returns the bytes of an integer type.
func integerSize(t safetensors.DType) (int, bool) {
	switch t {
	case safetensors.U8, safetensors.I8, safetensors.Bool, safetensors.U16, safetensors.I16,
		safetensors.U32, safetensors.I32, safetensors.U64, safetensors.I64:
		return t.Size(), true
	}
	return 0, false
}

// tensorInts reads an integer tensor as 32-bit integers.
func tensorInts(path, name string) ([]int32, []int, error) {
	f, err := openTensors(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	values, shape, err := readInts(f, name)
	if err != nil {
		return nil, nil, placed(path, fmt.Sprintf("tensor %q", name), err)
	}
	return values, shape, nil
}

func readInts(f *safetensors.Reader, name string) ([]int32, []int, error) {
	info, _ := f.Info(name)
	size, ok := integerSize(info.DType)
	if !ok {
		return nil, nil, fmt.Errorf("%s values are not integers", info.DType)
	}
	if info.DType == safetensors.I32 {
		values, err := f.Int32s(name)
		return values, info.Shape, err
	}
	h := npyHeader{kind: 'u', size: size}
	if info.DType[0] == 'I' {
		h.kind = 'i'
	}
	values := make([]int32, info.Len())
	buf := make([]byte, 4096*size)
	for i := 0; i < len(values); {
		k := min(len(values)-i, 4096)
		if err := f.ReadAt(name, buf[:k*size], int64(i*size)); err != nil {
			return nil, nil, err
		}
		for j := range k {
			v := h.value(buf[j*size : (j+1)*size])
			if v != int64(int32(v)) {
				return nil, nil, fmt.Errorf("value %d is %d, which does not fit 32 bits", i+j, v)
			}
			values[i+j] = int32(v)
		}
		i += k
	}
	return values, info.Shape, nil
}

// writeVLLM writes a safetensors file, where out ends so, or else a folder of
// .npy files: experts [T,L,K] int32 (-1 where a token has fewer than K) and
// input_ids [T].
func writeVLLM(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	filter := trace.Filter{NoLogits: true, NoInput: true}
	notes := []string{"not kept: weights, positions, phases, logits"}
	if strings.HasSuffix(out, ".safetensors") {
		if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", out, fs.ErrExist)
		}
		var tensors []safetensors.Tensor
		report, err := each(ctx, r, filter, func(d *trace.Document) error {
			name := d.Dataset + "." + d.ID
			tensors = append(tensors, safetensors.Int32s(name+expertsSuffix, []int{d.Len(), m.Layers, m.TopK}, d.Experts))
			if !slices.Contains(d.Tokens, trace.NoToken) {
				tensors = append(tensors, safetensors.Int32s(name+idsSuffix, []int{d.Len()}, d.Tokens))
			}
			return nil
		})
		if err != nil {
			return report, err
		}
		report.Notes = notes
		return report, safetensors.WriteFile(out, tensors, map[string]string{"format": "expertspec"})
	}
	if err := newFolder(out); err != nil {
		return nil, err
	}
	report, err := each(ctx, r, filter, func(d *trace.Document) error {
		stem := filepath.Join(out, fileName(d))
		if !slices.Contains(d.Tokens, trace.NoToken) {
			if err := whole(stem+idsSuffix+".npy", func(w *bufio.Writer) error { return writeNpy(w, d.Tokens, d.Len()) }); err != nil {
				return err
			}
		}
		return whole(stem+".npy", func(w *bufio.Writer) error {
			return writeNpy(w, d.Experts, d.Len(), m.Layers, m.TopK)
		})
	})
	if report != nil {
		report.Notes = notes
	}
	return report, err
}
