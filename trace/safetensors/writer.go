package safetensors

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Tensor is a tensor to be written.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // row-major; empty: a scalar
	// Data writes the tensor's bytes, little-endian and row-major. Their number
	// must be that of type and shape. Data is called once.
	Data func(w io.Writer) error
}

// Bytes returns a tensor whose bytes are in memory, little-endian and row-major.
func Bytes(name string, dtype DType, shape []int, data []byte) Tensor {
	return Tensor{Name: name, DType: dtype, Shape: shape, Data: func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}}
}

// Float32s returns a tensor of type F32.
func Float32s(name string, shape []int, data []float32) Tensor {
	return numbers(name, F32, shape, data, func(p []byte, v float32) {
		binary.LittleEndian.PutUint32(p, math.Float32bits(v))
	})
}

// Int32s returns a tensor of type I32.
func Int32s(name string, shape []int, data []int32) Tensor {
	return numbers(name, I32, shape, data, func(p []byte, v int32) {
		binary.LittleEndian.PutUint32(p, uint32(v))
	})
}

// Int64s returns a tensor of type I64.
func Int64s(name string, shape []int, data []int64) Tensor {
	return numbers(name, I64, shape, data, func(p []byte, v int64) {
		binary.LittleEndian.PutUint64(p, uint64(v))
	})
}

func numbers[T any](name string, dtype DType, shape []int, data []T, put func([]byte, T)) Tensor {
	return Tensor{Name: name, DType: dtype, Shape: shape, Data: func(w io.Writer) error {
		width := dtype.Size()
		buffer := make([]byte, min(len(data)*width, typedChunk))
		for len(data) > 0 {
			n := min(len(data), len(buffer)/width)
			for i, v := range data[:n] {
				put(buffer[i*width:], v)
			}
			if _, err := w.Write(buffer[:n*width]); err != nil {
				return err
			}
			data = data[n:]
		}
		return nil
	}}
}

// Write writes a whole file to w: the header, then each tensor's data. As in the
// format's own implementation, wider types come first, then tensors are sorted
// by name, so that each is aligned to its type; the order of the arguments does
// not matter. Without metadata, nil, the header has none. Errors about a tensor
// are of type *Error, with an empty File.
func Write(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	tensors = slices.Clone(tensors)
	slices.SortStableFunc(tensors, func(a, b Tensor) int {
		return cmp.Or(
			cmp.Compare(slices.Index(layoutOrder, a.DType), slices.Index(layoutOrder, b.DType)),
			strings.Compare(a.Name, b.Name))
	})
	sizes, err := checkTensors(tensors)
	if err != nil {
		return err
	}
	head, err := encodeHeader(tensors, sizes, metadata)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for i, t := range tensors {
		counted := &exactWriter{w: w, left: sizes[i]}
		err := t.Data(counted)
		if err == nil && counted.left != 0 {
			err = fmt.Errorf("data is %d bytes short of %d", counted.left, sizes[i])
		}
		if err != nil {
			return &Error{Tensor: t.Name, Err: err}
		}
	}
	return nil
}

// checkTensors checks names, types and shapes, and returns the sizes in bytes.
func checkTensors(tensors []Tensor) ([]int64, error) {
	sizes := make([]int64, len(tensors))
	seen := map[string]bool{}
	var total int64
	for i, t := range tensors {
		size, err := byteSize(t.Shape, t.DType)
		switch {
		case err != nil:
		case t.Name == "" || t.Name == metadataKey || !utf8.ValidString(t.Name):
			err = errors.New("invalid name")
		case seen[t.Name]:
			err = errors.New("duplicate name")
		case t.DType.Size() == 0:
			err = fmt.Errorf("unknown dtype %q", t.DType)
		case t.Data == nil:
			err = errors.New("no data")
		case size > math.MaxInt64-total:
			err = errors.New("the file's size overflows")
		}
		if err != nil {
			return nil, &Error{Tensor: t.Name, Err: err}
		}
		seen[t.Name] = true
		sizes[i] = size
		total += size
	}
	return sizes, nil
}

// encodeHeader returns the length prefix and the header, padded so that the data
// begin at a multiple of eight bytes.
func encodeHeader(tensors []Tensor, sizes []int64, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if metadata != nil {
		for k, v := range metadata {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				return nil, fmt.Errorf("%s: %q: %q is not valid UTF-8", metadataKey, k, v)
			}
		}
		if err := encodeField(&b, metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	var offset int64
	for i, t := range tensors {
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		err := encodeField(&b, t.Name, struct {
			DType   DType    `json:"dtype"`
			Shape   []int    `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}{t.DType, shape, [2]int64{offset, offset + sizes[i]}})
		if err != nil {
			return nil, err
		}
		offset += sizes[i]
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head := b.Bytes()
	if len(head)-8 > maxHeaderLen {
		return nil, fmt.Errorf("header of %d bytes is above the limit of %d", len(head)-8, maxHeaderLen)
	}
	binary.LittleEndian.PutUint64(head, uint64(len(head)-8))
	return head, nil
}

// encodeField appends one field of the header's object; maps are sorted.
func encodeField(b *bytes.Buffer, key string, value any) error {
	if b.Len() > len("{")+8 {
		b.WriteByte(',')
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(key); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // Encode ends with a newline
	b.WriteByte(':')
	if err := enc.Encode(value); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1)
	return nil
}

// exactWriter writes no more than a tensor's bytes.
type exactWriter struct {
	w    io.Writer
	left int64
}

func (e *exactWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		return 0, fmt.Errorf("data is at least %d bytes too long", int64(len(p))-e.left)
	}
	n, err := e.w.Write(p)
	e.left -= int64(n)
	return n, err
}

// WriteFile writes a file as Write does, to a temporary name in the same
// directory, syncs it and renames it. After an error path holds what it held
// before. Errors are of type *Error and name path.
func WriteFile(path string, tensors []Tensor, metadata map[string]string) error {
	err := writeAside(path, func(w io.Writer) error { return Write(w, tensors, metadata) })
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return &Error{File: path, Tensor: e.Tensor, Err: e.Err}
	}
	return &Error{File: path, Err: err}
}

func writeAside(path string, write func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, "."+base+"."+rand.Text()[:8]+".tmp")
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = os.Remove(temp)
		}
	}()
	buffered := bufio.NewWriterSize(file, 1<<20)
	if err = write(buffered); err != nil {
		return err
	}
	if err = buffered.Flush(); err != nil {
		return err
	}
	if err = file.Sync(); err != nil {
		return err
	}
	if err = file.Close(); err != nil {
		return err
	}
	if err = os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable, except where a directory cannot be synced
// (Windows, some network file systems).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	_ = d.Sync()
	return d.Close()
}
