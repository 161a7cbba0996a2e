package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/expertspec/expertspec/trace/safetensors"
)

// storage is the memory of tensors, a part of the input file.
type storage struct {
	dtype safetensors.DType
	data  []byte
}

// storageTypes are the types of torch's storages by the names of their classes.
var storageTypes = map[string]safetensors.DType{
	"FloatStorage": safetensors.F32, "HalfStorage": safetensors.F16, "BFloat16Storage": safetensors.BF16,
	"DoubleStorage": safetensors.F64, "LongStorage": safetensors.I64, "IntStorage": safetensors.I32,
	"ShortStorage": safetensors.I16, "CharStorage": safetensors.I8, "ByteStorage": safetensors.U8, "BoolStorage": safetensors.Bool,
}

// tensor is a view of a storage, as torch._utils._rebuild_tensor_v2 makes it.
type tensor struct {
	storage        *storage
	offset         int64
	shape, strides []int64
}

// len returns the number of elements.
func (t *tensor) len() int {
	n := 1
	for _, d := range t.shape {
		n *= int(d)
	}
	return n
}

// newTensor takes storage, offset, shape and strides, and checks that the view
// lies in its storage.
func newTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, errors.New("tensor of too few arguments")
	}
	t := &tensor{}
	var ok [4]bool
	t.storage, ok[0] = args[0].(*storage)
	t.offset, ok[1] = args[1].(int64)
	t.shape, ok[2] = integersOf(args[2])
	t.strides, ok[3] = integersOf(args[3])
	if ok != [4]bool{true, true, true, true} || len(t.shape) != len(t.strides) {
		return nil, errors.New("tensor of unknown arguments")
	}
	have := int64(len(t.storage.data) / t.storage.dtype.Size())
	outside := func() error {
		return fmt.Errorf("tensor of shape %v and strides %v at %d is outside its storage of %d elements", t.shape, t.strides, t.offset, have)
	}
	if t.offset < 0 || t.offset > have {
		return nil, outside()
	}
	last, n := t.offset, int64(1)
	for i, d := range t.shape { // no product can overflow: each factor is checked first
		if d < 0 || d > have || n*max(d, 1) > have {
			return nil, outside()
		}
		n *= d
		if d > 1 {
			if t.strides[i] < 0 || t.strides[i] > have/(d-1) {
				return nil, outside()
			}
			last += (d - 1) * t.strides[i]
		}
	}
	if n > 0 && last >= have {
		return nil, outside()
	}
	return t, nil
}

// maxAxes bounds the axes of a tensor.
const maxAxes = 8

func integersOf(v any) ([]int64, bool) {
	tuple, ok := v.([]any)
	if !ok || len(tuple) > maxAxes {
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

// at returns the i-th element in row-major order.
func (t *tensor) at(i int) (float64, error) {
	pos := t.offset
	for d := len(t.shape) - 1; d >= 0; d-- {
		pos += int64(i) % t.shape[d] * t.strides[d]
		i /= int(t.shape[d])
	}
	size := t.storage.dtype.Size()
	b := t.storage.data[int(pos)*size:][:size]
	if integer, ok := intTypeOf(t.storage.dtype); ok {
		v, _ := integer.value(b) // torch has no unsigned type of 64 bits
		return float64(v), nil
	}
	var wide [4]byte
	err := safetensors.Convert(wide[:], safetensors.F32, b, t.storage.dtype)
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(wide[:]))), err
}

// integer returns an element that must be an integer of 32 bits.
func (t *tensor) integer(i int) (int32, error) {
	v, err := t.at(i)
	if err == nil && (v != math.Trunc(v) || math.Abs(v) > math.MaxInt32) {
		err = errors.New("not a 32-bit integer")
	}
	return int32(v), err
}

// torchMagic and torchProtocol begin what torch.save wrote before it made zip
// files; a storage inside a pickle is still written so.
const (
	torchMagic    = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
	torchProtocol = int64(1001)
)

// loadStorage reads what torch.storage._load_from_bytes does: five pickles
// (magic number, protocol, system, storage, keys), then the number of elements
// and their bytes.
func loadStorage(b []byte, limit *budget) (*storage, error) {
	env := &torchPickle{}
	u := &unpickler{b: b, budget: limit, env: env}
	var values [5]any
	for i := range values {
		var err error
		if values[i], err = u.load(); err != nil {
			return nil, err
		}
	}
	if magic, ok := values[0].([]byte); !ok || string(magic) != torchMagic || values[1] != torchProtocol {
		return nil, errors.New("not written by torch.save")
	}
	if system, ok := values[2].(dict); ok && system["little_endian"] == false {
		return nil, errors.New("big-endian")
	}
	s, ok := values[3].(*storage)
	keys, isList := values[4].(*list)
	if !ok || !isList || len(keys.items) != 1 {
		return nil, errors.New("not one storage")
	}
	n := u.number(8)
	if u.err == nil && n != env.elements {
		return nil, fmt.Errorf("%d elements, expected %d", n, env.elements)
	}
	if size := uint64(s.dtype.Size()); n > uint64(len(b))/size {
		u.fail(errPickleEnd)
	} else {
		s.data = u.take(n * size)
	}
	return s, u.err
}

// torchPickle reads the pickles of one storage.
type torchPickle struct {
	storage  *storage
	elements uint64
}

// global returns the type that a class of storages has.
func (r *torchPickle) global(module, name string) (any, error) {
	if t, ok := storageTypes[name]; ok && module == "torch" {
		return t, nil
	}
	return nil, errGlobal(module, name)
}

func (r *torchPickle) build(any, any) error { return errors.New("state of an object is not allowed") }

// persistent makes the storage. Its id is ("storage", class, key, location,
// elements[, view]).
func (r *torchPickle) persistent(id any) (any, error) {
	tuple, ok := id.([]any)
	if !ok || len(tuple) < 5 || r.storage != nil {
		return nil, errors.New("not the id of one storage")
	}
	t, ok := tuple[1].(safetensors.DType)
	n, isInt := tuple[4].(int64)
	if !ok || !isInt || n < 0 || tuple[0] != "storage" {
		return nil, errors.New("not the id of a storage")
	}
	r.storage, r.elements = &storage{dtype: t}, uint64(n)
	return r.storage, nil
}

func errGlobal(module, name string) error {
	return fmt.Errorf("%s is not allowed", strings.ToValidUTF8(module+"."+name, "?"))
}
