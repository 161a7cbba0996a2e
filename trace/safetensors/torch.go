package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace/internal/pickle"
)

// maxPickle is the maximum size in bytes of the pickle that lists the tensors:
// some two hundred thousand.
const maxPickle = 32 << 20

// OpenTorch opens a file that torch.save wrote, such as pytorch_model.bin: a
// dictionary of tensors by name, as a module's state_dict. Both of PyTorch's
// formats are read: the zip file, and the one of versions before 1.6. Reading runs
// nothing: the pickle in the file may only build dictionaries and tensors, and
// every other name in it is an error.
//
// Opening reads the pickle, of at most 32 MiB, in memory proportional to its size;
// tensors are read on request as from a file of safetensors. They may be views:
// with an offset, strided (transposed), or sharing a storage; Read returns their
// elements row-major. Checksums of the zip file are not verified, since PyTorch
// can be set not to write them.
//
// An error names the tensor that is quantized, sparse, of complex128 or otherwise
// of a kind that safetensors doesn't have, a view with more elements than its
// storage, or a value that isn't a tensor. Big-endian files, compressed entries
// and overlapping storages are errors.
//
// The unpickler is this module's own: of the libraries for Go,
// github.com/nlpodyssey/gopickle 0.3.0 allocates what a file states before it reads
// it and holds all storages in memory, and github.com/kisielk/og-rek 1.3.0 bounds
// nothing either.
func OpenTorch(fsys fs.FS, name string) (*Reader, error) {
	return openFile(fsys, name, newTorchReader)
}

// newTorchReader reads the list of tensors of a file of size bytes. Errors are of
// type *Error and have the name.
func newTorchReader(r io.ReaderAt, size int64, name string) (*Reader, error) {
	f := &Reader{name: name, r: r, size: size, header: &header{}, strides: map[string][]int64{}}
	if err := f.readTorch(); err != nil {
		return nil, f.error(err)
	}
	f.makeIndex()
	return f, nil
}

func (f *Reader) readTorch() error {
	begin := make([]byte, min(f.size, 2))
	if err := readFull(f.r, begin, 0); err != nil {
		return err
	}
	switch {
	case string(begin) == "PK":
		return f.readTorchZip()
	case len(begin) > 0 && begin[0] == 0x80: // a pickle of protocol 2 or later
		return f.readTorchLegacy()
	}
	return errors.New("is neither a zip file nor a pickle, which torch.save writes; " +
		"with PyTorch, torch.load and safetensors.torch.save_file convert what it can read")
}

// place is a storage in the file, in bytes.
type place struct{ offset, size int64 }

// readTorchLegacy reads what versions before 1.6 wrote: pickles, and then each
// storage's data behind its number of elements.
func (f *Reader) readTorchLegacy() error {
	var (
		env    *torchEnv
		object any
		keys   []string
		at     int64
	)
	most := min(f.size, maxPickle)
	for n := int64(64 << 10); ; n *= 2 { // the pickles do not state their length
		text, err := f.readText(0, min(n, most))
		if err != nil {
			return err
		}
		env = &torchEnv{}
		budget := pickle.NewBudget(len(text))
		d := pickle.NewDecoder(text, &budget, env)
		object, keys, err = d.LoadTorch()
		if errors.Is(err, pickle.ErrEnd) && n < most {
			continue
		}
		if err != nil {
			return err
		}
		at = int64(len(text) - len(d.Rest()))
		break
	}
	f.data = at
	storages := map[string]place{}
	for _, key := range keys {
		s, ok := env.storages[key]
		if _, twice := storages[key]; !ok || twice {
			return fmt.Errorf("storage %s is of no tensor, or exists twice", clip([]byte(key)))
		}
		var count [8]byte
		if err := readFull(f.r, count[:], at); err != nil {
			return fmt.Errorf("truncated: storage %s: %w", clip([]byte(key)), err)
		}
		if at += 8; at > f.size {
			return fmt.Errorf("truncated: storage %s", clip([]byte(key)))
		}
		n, size := binary.LittleEndian.Uint64(count[:]), uint64(s.class.size())
		if n > uint64(f.size-at)/size {
			return fmt.Errorf("truncated: storage %s has %d elements of %d bytes, but the file ends after %d bytes",
				clip([]byte(key)), n, size, f.size-at)
		}
		storages[key] = place{at, int64(n * size)}
		at += int64(n * size)
	}
	return f.addTensors(object, func(key string) (place, error) {
		p, ok := storages[key]
		if !ok {
			return place{}, errors.New("does not exist")
		}
		return p, nil
	})
}

// readText reads n bytes at offset. The buffer grows with what is read, because
// the file's size may be wrong.
func (f *Reader) readText(offset, n int64) ([]byte, error) {
	var text bytes.Buffer
	got, err := io.Copy(&text, io.NewSectionReader(f.r, offset, n))
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("reading %d bytes at %d of the file: %w", n, offset, err)
	}
	return text.Bytes(), nil
}

// addTensors takes the tensors of the unpickled object, whose storages find
// locates.
func (f *Reader) addTensors(object any, find func(key string) (place, error)) error {
	tensors, ok := object.(pickle.Dict)
	if !ok {
		return fmt.Errorf("holds %s, expected a dictionary of tensors by name, as of state_dict", pickle.Kind(object))
	}
	for _, name := range sortedNames(tensors) {
		t, ok := tensors[name].(*torchTensor)
		if !ok {
			return &Error{Tensor: name, Err: fmt.Errorf(
				"is %s, expected a tensor; a file is read whose dictionary holds tensors alone, as of state_dict", pickle.Kind(tensors[name]))}
		}
		if err := f.addTensor(name, t, find); err != nil {
			return &Error{Tensor: name, Err: err}
		}
	}
	slices.SortFunc(f.header.tensors, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	return nil
}

func (f *Reader) addTensor(name string, t *torchTensor, find func(key string) (place, error)) error {
	if t.err != nil {
		return t.err
	}
	storage := t.storage
	p, err := find(storage.id.Key)
	if err == nil && p.size/storage.class.size() != storage.id.Elements || p.size%storage.class.size() != 0 {
		err = fmt.Errorf("has %d bytes, expected %d elements of %d bytes", p.size, storage.id.Elements, storage.class.size())
	}
	if err != nil {
		return fmt.Errorf("storage %s: %w", clip([]byte(storage.id.Key)), err)
	}
	width := int64(t.dtype.Size())
	info := Info{Name: name, DType: t.dtype, Shape: make([]int, len(t.view.Shape)),
		Offset: p.offset + t.view.Offset*width, Size: int64(t.view.Len()) * width}
	for i, axis := range t.view.Shape {
		info.Shape[i] = int(axis)
	}
	if !rowMajor(t.view) {
		f.strides[name], info.Strided = t.view.Strides, true
	}
	f.header.tensors = append(f.header.tensors, info)
	return nil
}

// rowMajor reports whether a view's elements are one after another.
func rowMajor(v pickle.View) bool {
	if v.Len() == 0 {
		return true
	}
	next := int64(1)
	for i, axis := range slices.Backward(v.Shape) {
		if axis > 1 && v.Strides[i] != next {
			return false
		}
		next *= axis
	}
	return true
}
