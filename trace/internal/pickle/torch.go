package pickle

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// StorageTypes are the types of PyTorch's storages, as safetensors spells them, by
// the names of their classes in module torch.
var StorageTypes = map[string]string{
	"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
	"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
	"ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}

// StorageID is the persistent id of a storage.
type StorageID struct {
	Class    any // what the environment returned for the storage's class
	Key      string
	Elements int64
	// View reports that the storage is a part of another one, as versions before
	// 0.4 wrote it.
	View bool
}

// ParseStorageID reads the tuple ("storage", class, key, location, elements[, view]).
func ParseStorageID(id any) (StorageID, error) {
	tuple, ok := id.([]any)
	if !ok || len(tuple) < 5 || len(tuple) > 6 || tuple[0] != "storage" {
		return StorageID{}, errors.New("not the id of a storage")
	}
	s := StorageID{Class: tuple[1], View: len(tuple) == 6 && tuple[5] != nil}
	var ok1, ok2 bool
	s.Key, ok1 = tuple[2].(string)
	s.Elements, ok2 = tuple[4].(int64)
	if !ok1 || !ok2 || s.Elements < 0 {
		return StorageID{}, errors.New("not the id of a storage")
	}
	return s, nil
}

// View is a tensor's place in its storage, in elements.
type View struct {
	Offset         int64
	Shape, Strides []int64
}

// MaxAxes bounds the axes of a tensor.
const MaxAxes = 8

// NewView takes what PyTorch's _rebuild_tensor_v2 takes after the storage: offset,
// shape, strides. It checks that the view lies in a storage of so many elements,
// and that it has no more elements than the storage.
func NewView(args []any, storage int64) (View, error) {
	if len(args) < 3 {
		return View{}, errors.New("tensor of too few arguments")
	}
	if shape, ok := args[1].([]any); ok && len(shape) > MaxAxes {
		return View{}, fmt.Errorf("tensor of more than %d axes", MaxAxes)
	}
	var v View
	var ok [3]bool
	v.Offset, ok[0] = args[0].(int64)
	v.Shape, ok[1] = integers(args[1])
	v.Strides, ok[2] = integers(args[2])
	if ok != [3]bool{true, true, true} || len(v.Shape) != len(v.Strides) {
		return View{}, errors.New("tensor of unknown arguments")
	}
	return v, v.check(storage)
}

func (v View) check(have int64) error {
	outside := func() error {
		return fmt.Errorf("tensor of shape %v and strides %v at %d is outside its storage of %d elements", v.Shape, v.Strides, v.Offset, have)
	}
	if v.Offset < 0 || v.Offset > have {
		return outside()
	}
	if slices.Contains(v.Shape, 0) {
		if slices.Min(v.Shape) < 0 || slices.Max(v.Shape) > math.MaxInt {
			return outside()
		}
		return nil // no elements
	}
	if v.Offset == have {
		return outside()
	}
	last, n := v.Offset, int64(1) // last is below have, and no sum or product overflows
	for i, axis := range v.Shape {
		if axis < 0 || axis > math.MaxInt {
			return outside()
		}
		if axis > have/n {
			return fmt.Errorf("tensor of shape %v has more elements than its storage of %d elements", v.Shape, have)
		}
		n *= axis
		if axis > 1 {
			if v.Strides[i] < 0 || v.Strides[i] > have/(axis-1) || (axis-1)*v.Strides[i] >= have-last {
				return outside()
			}
			last += (axis - 1) * v.Strides[i]
		}
	}
	return nil
}

// Len returns the number of elements.
func (v View) Len() int {
	n := 1
	for _, axis := range v.Shape {
		n *= int(axis)
	}
	return n
}

// integers returns those of a tuple.
func integers(v any) ([]int64, bool) {
	tuple, ok := v.([]any)
	if !ok || len(tuple) > MaxAxes {
		return nil, false
	}
	out := make([]int64, len(tuple))
	for i, x := range tuple {
		if out[i], ok = x.(int64); !ok {
			return nil, false
		}
	}
	return out, true
}

// TorchMagic begins, inside a pickle, what torch.save wrote before it made zip
// files; a storage that is pickled by itself is still written so.
const TorchMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

// torchProtocol follows the magic number.
const torchProtocol = int64(1001)

// LoadTorch reads the five pickles of such a file: magic number, protocol, system,
// the object, and the keys of its storages. Then follow, in the order of the keys,
// each storage's number of elements, in eight bytes, and their data.
func (d *Decoder) LoadTorch() (object any, keys []string, err error) {
	var values [5]any
	for i := range values {
		if values[i], err = d.Load(); err != nil {
			return nil, nil, err
		}
		if magic, ok := values[0].([]byte); !ok || string(magic) != TorchMagic {
			return nil, nil, errors.New("not written by torch.save")
		}
	}
	if values[1] != torchProtocol {
		return nil, nil, errors.New("not of torch.save's protocol 1001")
	}
	if system, ok := values[2].(Dict); ok && system["little_endian"] == false {
		return nil, nil, errors.New("big-endian")
	}
	list, ok := values[4].(*List)
	if !ok {
		return nil, nil, fmt.Errorf("keys of storages are %s; must be a list", Kind(values[4]))
	}
	for i, v := range list.Items {
		key, ok := v.(string)
		if !ok {
			return nil, nil, fmt.Errorf("storage %d's key is %s; must be str", i, Kind(v))
		}
		keys = append(keys, key)
	}
	return values[3], keys, nil
}
