package safetensors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace/internal/pickle"
)

// torchTensor is an unpickled tensor. What cannot be read has an err, which is
// reported with the tensor's name when that is known.
type torchTensor struct {
	storage *torchStorage
	dtype   DType
	view    pickle.View
	err     error
}

// Kind is the type's name in messages.
func (*torchTensor) Kind() string { return "tensor" }

// torchStorage is a storage by its id.
type torchStorage struct {
	class torchClass
	id    pickle.StorageID
}

// Kind is the type's name in messages.
func (*torchStorage) Kind() string { return "storage" }

// torchClass is a class of storages. One of untyped storages has no dtype, and its
// elements are bytes.
type torchClass struct{ dtype DType }

func (c torchClass) size() int64 { return max(1, int64(c.dtype.Size())) }

// Kind is the type's name in messages.
func (torchClass) Kind() string { return "class" }

// torchTypes are the types that have no class of storages, by their names in
// module torch: their storages are untyped (_rebuild_tensor_v3).
var torchTypes = map[string]DType{
	"uint16": U16, "uint32": U32, "uint64": U64,
	"float8_e4m3fn": f8E4M3, "float8_e5m2": f8E5M2, "float8_e8m0fnu": f8E8M0,
}

// torchEnv gives meaning to what torch.save pickles.
type torchEnv struct {
	storages map[string]*torchStorage // by key
}

// Global returns the functions and types that build tensors. Whatever else of
// module torch is called gives a tensor that is an error, so that the error can
// name it.
func (e *torchEnv) Global(module, name string) (any, error) {
	switch module + "." + name {
	case "collections.OrderedDict":
		return pickle.Function(func(args []any) (any, error) {
			if len(args) != 0 {
				return nil, errors.New("OrderedDict with arguments")
			}
			return pickle.Dict{}, nil
		}), nil
	case "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3":
		return pickle.Function(rebuildTensor), nil
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		return pickle.Function(func(args []any) (any, error) {
			if len(args) == 0 {
				return nil, errors.New("parameter without data")
			}
			return args[0], nil
		}), nil
	case "torch.UntypedStorage", "torch._UntypedStorage", "torch.storage.UntypedStorage", "torch.storage._UntypedStorage":
		return torchClass{}, nil
	}
	if module == "torch" {
		if dtype, ok := pickle.StorageTypes[name]; ok {
			return torchClass{DType(dtype)}, nil
		}
		if dtype, ok := torchTypes[name]; ok {
			return dtype, nil
		}
	}
	if module == "torch" || strings.HasPrefix(module, "torch.") {
		err := fmt.Errorf("is of %s, which is not supported", clip([]byte(strings.ToValidUTF8(module+"."+name, "?"))))
		return pickle.Function(func([]any) (any, error) { return &torchTensor{err: err}, nil }), nil
	}
	return nil, pickle.NotAllowed(module, name)
}

// Build accepts the attributes of an OrderedDict (_metadata, of versions of
// modules), which are not kept.
func (e *torchEnv) Build(object, state any) error {
	switch t := object.(type) {
	case pickle.Dict:
		return nil
	case *torchTensor:
		if t.err != nil {
			return nil
		}
	}
	return fmt.Errorf("state of %s is not allowed", pickle.Kind(object))
}

// Persistent makes a storage.
func (e *torchEnv) Persistent(v any) (any, error) {
	id, err := pickle.ParseStorageID(v)
	if err != nil {
		return nil, err
	}
	if _, ok := id.Class.(pickle.Function); ok { // ComplexDoubleStorage, QInt8Storage, ...
		return &torchTensor{err: errors.New("has a storage of a type that is not supported")}, nil
	}
	class, ok := id.Class.(torchClass)
	if !ok {
		return nil, errors.New("not the id of a storage")
	}
	s := &torchStorage{class, id}
	if before := e.storages[id.Key]; before != nil && (before.class != class || before.id.Elements != id.Elements) {
		// In a file, it is of one type and size.
		return &torchTensor{err: fmt.Errorf("storage %s has two types or sizes", clip([]byte(id.Key)))}, nil
	}
	if e.storages == nil {
		e.storages = map[string]*torchStorage{}
	}
	e.storages[id.Key] = s
	return s, nil
}

// rebuildTensor is torch._utils._rebuild_tensor_v2(storage, offset, shape, strides,
// requires_grad, hooks, metadata=None) and _rebuild_tensor_v3, in which dtype
// precedes metadata.
func rebuildTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, errors.New("tensor of too few arguments")
	}
	if t, ok := args[0].(*torchTensor); ok && t.err != nil {
		return t, nil
	}
	t := &torchTensor{}
	var ok bool
	if t.storage, ok = args[0].(*torchStorage); !ok {
		return nil, fmt.Errorf("tensor of %s, expected a storage", pickle.Kind(args[0]))
	}
	t.dtype = t.storage.class.dtype
	var rest []any
	if len(args) > 6 {
		rest = args[6:]
	}
	if len(rest) > 0 {
		if dtype, ok := rest[0].(DType); ok {
			t.dtype, rest = dtype, rest[1:]
		}
	}
	width := int64(t.dtype.Size())
	switch {
	case t.storage.id.View:
		t.err = errors.New("is in a part of another storage, which PyTorch before 0.4 wrote")
	case width == 0:
		t.err = errors.New("has a type that is not supported")
	case len(rest) > 0 && marked(rest[0]):
		t.err = errors.New("is marked to be negated or conjugated, which is not supported")
	default:
		elements := t.storage.id.Elements * t.storage.class.size() / width
		t.view, t.err = pickle.NewView(args[1:], elements)
	}
	return t, nil
}

// marked reports whether a tensor's metadata is other than None, {} and false
// marks.
func marked(metadata any) bool {
	if metadata == nil {
		return false
	}
	marks, ok := metadata.(pickle.Dict)
	if !ok {
		return true
	}
	for _, v := range marks {
		if v != false {
			return true
		}
	}
	return false
}

func sortedNames(d pickle.Dict) []string { return slices.Sorted(maps.Keys(d)) }
