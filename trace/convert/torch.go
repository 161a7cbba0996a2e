package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

// storage is the memory of tensors, a part of the input file.
type storage struct {
	kind string // of torch: Float, Half, BFloat16, Double, Long, Int, Short, Char, Byte, Bool
	size int    // bytes of an element
	data []byte
}

// storageKinds gives the bytes of an element of torch's storages.
var storageKinds = map[string]int{"Float": 4, "Half": 2, "BFloat16": 2, "Double": 8, "Long": 8, "Int": 4, "Short": 2,
	"Char": 1, "Byte": 1, "Bool": 1}

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

// newTensor checks that a view lies in its storage.
func newTensor(args []any) (*tensor, error) {
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
	have := int64(len(t.storage.data) / t.storage.size)
	if t.offset < 0 || t.offset > have {
		return nil, fmt.Errorf("tensor at %d in a storage of %d elements", t.offset, have)
	}
	last, n := t.offset, int64(1)
	for i, d := range t.shape { // no product can overflow: each factor is checked first
		if d < 0 || d > have || n*max(d, 1) > have {
			return nil, fmt.Errorf("tensor of shape %v in a storage of %d elements", t.shape, have)
		}
		n *= d
		if d > 1 {
			if t.strides[i] < 0 || t.strides[i] > have/(d-1) {
				return nil, fmt.Errorf("tensor of strides %v in a storage of %d elements", t.strides, have)
			}
			last += (d - 1) * t.strides[i]
		}
	}
	if n > 0 && last >= have {
		return nil, fmt.Errorf("tensor of shape %v at %d goes beyond its storage of %d elements", t.shape, t.offset, have)
	}
	return t, nil
}

func integersOf(v any) ([]int64, bool) {
	tuple, ok := v.([]any)
	if !ok || len(tuple) > 16 {
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
func (t *tensor) at(i int) float64 {
	pos := t.offset
	for d := len(t.shape) - 1; d >= 0; d-- {
		pos += int64(i) % t.shape[d] * t.strides[d]
		i /= int(t.shape[d])
	}
	b := t.storage.data[pos*int64(t.storage.size):]
	le := binary.LittleEndian
	switch t.storage.kind {
	case "Float":
		return float64(math.Float32frombits(le.Uint32(b)))
	case "Double":
		return math.Float64frombits(le.Uint64(b))
	case "Half":
		return float64(floats.FromHalf(le.Uint16(b)))
	case "BFloat16":
		return float64(math.Float32frombits(uint32(le.Uint16(b)) << 16))
	case "Long":
		return float64(int64(le.Uint64(b)))
	case "Int":
		return float64(int32(le.Uint32(b)))
	case "Short":
		return float64(int16(le.Uint16(b)))
	case "Char":
		return float64(int8(b[0]))
	}
	return float64(b[0]) // Byte, Bool
}

// integer returns an element that must be a small integer.
func (t *tensor) integer(i int) (int32, error) {
	v := t.at(i)
	if v != math.Trunc(v) || math.Abs(v) > math.MaxInt32 {
		return 0, fmt.Errorf("%g is no 32-bit integer", v)
	}
	return int32(v), nil
}

// torchMagic and torchProtocol begin what torch.save wrote before it made zip
// files; a storage inside a pickle is still written so.
const torchProtocol = 1001

var torchMagic = [10]byte{0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}

// loadStorage reads torch.storage._load_from_bytes: five pickles (magic number,
// protocol, system, storage, keys), then the storage's elements and their bytes.
func loadStorage(b []byte, budget int) (*storage, error) {
	r := &torchResolver{}
	u := newUnpickler(b, budget, r)
	var values [5]any
	for i := range values {
		v, err := u.load()
		if err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
		u.memo = map[uint64]any{}
		values[i] = v
	}
	if magic, ok := values[0].([]byte); !ok || string(magic) != string(torchMagic[:]) || values[1] != int64(torchProtocol) {
		return nil, errors.New("storage: not written by torch.save")
	}
	if system, ok := values[2].(*dict); ok {
		if little, ok := system.get("little_endian"); ok && little != true {
			return nil, errors.New("storage: big-endian")
		}
	}
	s, ok := values[3].(*storage)
	keys, isList := values[4].(*list)
	if !ok || !isList || len(keys.items) != 1 || s != r.storage {
		return nil, errors.New("storage: not one storage")
	}
	n, err := u.number(8)
	if err != nil || n != r.elements {
		return nil, fmt.Errorf("storage: %d elements, want %d", n, r.elements)
	}
	if n > uint64(len(u.b))/uint64(s.size) {
		return nil, fmt.Errorf("storage: %w", errPickleEnd)
	}
	if s.data, err = u.take(n * uint64(s.size)); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	return s, nil
}

// torchResolver reads the pickles of a storage: its persistent id is
// ("storage", class, key, location, elements[, view]).
type torchResolver struct {
	storage  *storage
	elements uint64
}

func (r *torchResolver) call(f global, _ []any) (any, error) {
	return nil, fmt.Errorf("storage: %s is not allowed", f)
}

func (r *torchResolver) build(any, any) error { return errors.New("storage: object") }

func (r *torchResolver) persistent(id any) (any, error) {
	tuple, ok := id.([]any)
	if !ok || len(tuple) < 5 || tuple[0] != "storage" {
		return nil, errors.New("storage: unknown id")
	}
	class, ok := tuple[1].(global)
	n, isInt := tuple[4].(int64)
	if !ok || !isInt || n < 0 || class.module != "torch" {
		return nil, errors.New("storage: unknown id")
	}
	kind := strings.TrimSuffix(class.name, "Storage")
	size := storageKinds[kind]
	if size == 0 {
		return nil, fmt.Errorf("storage: %s is not known", class)
	}
	if r.storage != nil {
		return nil, errors.New("storage: a second one")
	}
	r.storage, r.elements = &storage{kind: kind, size: size}, uint64(n)
	return r.storage, nil
}
