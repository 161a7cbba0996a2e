package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace/internal/pickle"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// storage is the memory of tensors, a part of the input file.
type storage struct {
	dtype safetensors.DType
	data  []byte
}

// tensor is a view of a storage, as torch._utils._rebuild_tensor_v2 makes it.
type tensor struct {
	pickle.View
	storage *storage
}

// newTensor takes storage, offset, shape and strides.
func newTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, errors.New("tensor of too few arguments")
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, errors.New("tensor of unknown arguments")
	}
	view, err := pickle.NewView(args[1:], int64(len(s.data)/s.dtype.Size()))
	if err != nil {
		return nil, err
	}
	return &tensor{view, s}, nil
}

// at returns the i-th element in row-major order.
func (t *tensor) at(i int) (float64, error) {
	pos := t.Offset
	for d := len(t.Shape) - 1; d >= 0; d-- {
		pos += int64(i) % t.Shape[d] * t.Strides[d]
		i /= int(t.Shape[d])
	}
	size := t.storage.dtype.Size()
	b := t.storage.data[int(pos)*size:][:size]
	if integer, ok := intTypeOf(t.storage.dtype); ok {
		v, _ := integer.value(b) // torch has no unsigned storage of 64 bits
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

// loadStorage reads what torch.storage._load_from_bytes does: one storage as
// torch.save wrote it before it made zip files.
func loadStorage(b []byte, limit *pickle.Budget) (*storage, error) {
	env := &torchPickle{}
	d := pickle.NewDecoder(b, limit, env)
	object, keys, err := d.LoadTorch()
	if err != nil {
		return nil, err
	}
	s, ok := object.(*storage)
	if !ok || len(keys) != 1 {
		return nil, errors.New("not one storage")
	}
	data := d.Rest()
	if len(data) < 8 {
		return nil, pickle.ErrEnd
	}
	n := binary.LittleEndian.Uint64(data)
	data = data[8:]
	if n != env.elements {
		return nil, fmt.Errorf("%d elements, expected %d", n, env.elements)
	}
	size := uint64(s.dtype.Size())
	if n > uint64(len(data))/size {
		return nil, pickle.ErrEnd
	}
	s.data = data[: n*size : n*size]
	return s, nil
}

// torchPickle reads the pickles of one storage.
type torchPickle struct {
	storage  *storage
	elements uint64
}

// Global returns the type that a class of storages has.
func (r *torchPickle) Global(module, name string) (any, error) {
	if t, ok := pickle.StorageTypes[name]; ok && module == "torch" {
		return safetensors.DType(t), nil
	}
	return nil, pickle.NotAllowed(module, name)
}

func (r *torchPickle) Build(any, any) error { return errors.New("state of an object is not allowed") }

// Persistent makes the storage.
func (r *torchPickle) Persistent(v any) (any, error) {
	id, err := pickle.ParseStorageID(v)
	if err != nil {
		return nil, err
	}
	t, ok := id.Class.(safetensors.DType)
	if !ok || r.storage != nil {
		return nil, errors.New("not the id of one storage")
	}
	r.storage, r.elements = &storage{dtype: t}, uint64(id.Elements)
	return r.storage, nil
}
