package safetensors

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxHeaderLen is the maximum length of a header in bytes, as in the format's own
// implementation.
const maxHeaderLen = 100_000_000

// metadataKey is the key of the header that is not a tensor.
const metadataKey = "__metadata__"

// Error is an error about a file or about one tensor of it.
type Error struct {
	File   string // the file's name, as it was opened
	Tensor string // empty: the error is about the whole file
	Err    error
}

// Error returns file, tensor and cause, in this order.
func (e *Error) Error() string {
	if e.Tensor == "" {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s: tensor %q: %v", e.File, e.Tensor, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	// Shape is row-major; empty: a scalar.
	Shape []int
	// Offset is where the data begins, in bytes from the file's beginning. In a file
	// of torch.save it is where the first element is.
	Offset int64
	// Size is the length of the data in bytes.
	Size int64
	// Strided reports that the elements are not one after another in the file, as
	// those of a transposed view, which only a file of torch.save may have. Reading
	// them is fast in pieces of some MiB.
	Strided bool
}

// Len returns the number of elements.
func (t Info) Len() int { return int(t.Size / int64(t.DType.Size())) }

// header is the parsed header: tensors in the order of their data.
type header struct {
	tensors  []Info
	metadata map[string]string
}

// parseHeader reads the JSON of a header whose data begins at dataStart and is
// dataLen bytes long.
func parseHeader(text []byte, dataStart, dataLen int64) (*header, error) {
	text = bytes.TrimRight(text, " ") // the format pads with spaces, and with nothing else
	if len(text) == 0 || text[0] != '{' || text[len(text)-1] != '}' {
		return nil, errors.New("header is not a JSON object")
	}
	if !utf8.Valid(text) {
		return nil, errors.New("header is not valid UTF-8")
	}
	h := &header{}
	err := eachField(text, func(key string, value json.RawMessage) error {
		if key == metadataKey {
			meta, err := parseMetadata(value)
			h.metadata = meta
			return err
		}
		info, err := parseInfo(key, value)
		if err != nil {
			return &Error{Tensor: key, Err: err}
		}
		h.tensors = append(h.tensors, info)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, h.layOut(dataStart, dataLen)
}

// layOut sorts the tensors by their data, checks that they cover dataLen bytes
// with neither holes nor overlap, and changes their offsets to those in the file.
func (h *header) layOut(dataStart, dataLen int64) error {
	slices.SortFunc(h.tensors, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	var end int64
	before := "" // the tensor that ends at end
	for i := range h.tensors {
		t := &h.tensors[i]
		switch {
		case t.Offset < end:
			return &Error{Tensor: t.Name, Err: fmt.Errorf(
				"data_offsets [%d,%d] overlap those of tensor %q, which end at %d",
				t.Offset, t.Offset+t.Size, before, end)}
		case t.Offset > end:
			return &Error{Tensor: t.Name, Err: fmt.Errorf(
				"data_offsets [%d,%d] leave a hole of %d bytes before them",
				t.Offset, t.Offset+t.Size, t.Offset-end)}
		case t.Size > dataLen-end:
			return &Error{Tensor: t.Name, Err: fmt.Errorf(
				"truncated: data_offsets [%d,%d], but the file has %d bytes of data",
				t.Offset, t.Offset+t.Size, dataLen)}
		}
		end += t.Size
		before = t.Name
		t.Offset += dataStart
	}
	if end != dataLen {
		return fmt.Errorf("%d bytes after the last tensor's data belong to no tensor", dataLen-end)
	}
	return nil
}

// eachField calls f for each field of a JSON object in order. A duplicate key is
// an error; encoding/json alone would silently keep the last one.
func eachField(object []byte, f func(key string, value json.RawMessage) error) error {
	if !json.Valid(object) {
		// Unmarshal's error has the position; Valid bounds the nesting.
		var v json.RawMessage
		return fmt.Errorf("bad JSON: %w", json.Unmarshal(object, &v))
	}
	dec := json.NewDecoder(bytes.NewReader(object))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return fmt.Errorf("bad JSON: %w", err)
		}
		key, ok := tok.(string)
		if !ok {
			return errors.New("bad JSON: a key is not a string")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("bad JSON: %w", err)
		}
		if seen[key] {
			return fmt.Errorf("duplicate key %q", key)
		}
		seen[key] = true
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

func parseMetadata(value json.RawMessage) (map[string]string, error) {
	meta := map[string]string{}
	err := eachField(value, func(key string, value json.RawMessage) error {
		if len(value) == 0 || value[0] != '"' {
			return fmt.Errorf("value of %q is not a string", key)
		}
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return err
		}
		meta[key] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metadataKey, err)
	}
	return meta, nil
}

// parseInfo reads one tensor's entry. Its Offset is still that in the data.
func parseInfo(name string, value json.RawMessage) (Info, error) {
	t := Info{Name: name}
	var shape, offsets []int64
	var haveType bool
	err := eachField(value, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "dtype":
			haveType = true
			if err = json.Unmarshal(value, (*string)(&t.DType)); err == nil && t.DType.Size() == 0 {
				return fmt.Errorf("unknown dtype %s", clip(value))
			}
		case "shape":
			shape, err = parseSizes(value)
		case "data_offsets":
			offsets, err = parseSizes(value)
		default:
			err = errors.New("unknown field")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return t, err
	case !haveType:
		return t, errors.New("dtype is missing")
	case shape == nil:
		return t, errors.New("shape is missing")
	case len(offsets) != 2:
		return t, errors.New("data_offsets is not a pair")
	case offsets[0] > offsets[1]:
		return t, fmt.Errorf("data_offsets [%d,%d] go backwards", offsets[0], offsets[1])
	}
	t.Shape = make([]int, len(shape))
	for i, n := range shape {
		if n > math.MaxInt {
			return t, fmt.Errorf("shape %v overflows", shape)
		}
		t.Shape[i] = int(n)
	}
	size, err := byteSize(t.Shape, t.DType)
	if err != nil {
		return t, err
	}
	t.Offset, t.Size = offsets[0], offsets[1]-offsets[0]
	if t.Size != size {
		return t, fmt.Errorf("data_offsets [%d,%d] hold %d bytes, but shape %v of %s needs %d",
			offsets[0], offsets[1], t.Size, t.Shape, t.DType, size)
	}
	return t, nil
}

// parseSizes reads an array of non-negative integers; never nil without error.
func parseSizes(value json.RawMessage) ([]int64, error) {
	var numbers []json.RawMessage
	if err := json.Unmarshal(value, &numbers); err != nil || numbers == nil {
		return nil, fmt.Errorf("%s is not an array", clip(value))
	}
	sizes := make([]int64, len(numbers))
	for i, number := range numbers {
		n, err := strconv.ParseUint(string(number), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%s is not an integer from 0 to 2^63-1", clip(number))
		}
		sizes[i] = int64(n)
	}
	return sizes, nil
}

// byteSize returns the size in bytes of a tensor, checked against overflow.
func byteSize(shape []int, dtype DType) (int64, error) {
	size := uint64(dtype.Size())
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("shape %v has a negative axis", shape)
		}
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		size = lo
	}
	return int64(size), nil
}

// clip shortens what a file holds for use in an error.
func clip(b []byte) string {
	const limit = 60
	if len(b) <= limit {
		return string(b)
	}
	return string(b[:limit]) + "..."
}
