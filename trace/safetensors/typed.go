package safetensors

import (
	"encoding/binary"
	"math"
)

// typedChunk is the number of bytes that the typed readers read at a time.
const typedChunk = 64 << 10

// Float32s reads a tensor of type F32, F16, BF16 or F64 (rounded) as float32,
// row-major.
func (f *Reader) Float32s(name string) ([]float32, error) {
	t, err := f.info(name)
	if err != nil {
		return nil, err
	}
	switch t.DType {
	case F32, F16, BF16, F64:
	default:
		return nil, f.tensorError(name, "is %s, expected F32, F16, BF16 or F64", t.DType)
	}
	dst := make([]float32, 0, t.Len())
	wide := make([]byte, min(int64(typedChunk), t.Size)/int64(t.DType.Size())*4)
	err = f.chunks(t, func(chunk []byte) error {
		wide := wide[:len(chunk)/t.DType.Size()*4]
		if err := Convert(wide, F32, chunk, t.DType); err != nil {
			return err
		}
		for ; len(wide) >= 4; wide = wide[4:] {
			dst = append(dst, math.Float32frombits(binary.LittleEndian.Uint32(wide)))
		}
		return nil
	})
	return dst, err
}

// Int32s reads a tensor of type I32, row-major.
func (f *Reader) Int32s(name string) ([]int32, error) {
	return integers(f, name, I32, func(p []byte) int32 { return int32(binary.LittleEndian.Uint32(p)) })
}

// Int64s reads a tensor of type I64, row-major.
func (f *Reader) Int64s(name string) ([]int64, error) {
	return integers(f, name, I64, func(p []byte) int64 { return int64(binary.LittleEndian.Uint64(p)) })
}

func integers[T any](f *Reader, name string, want DType, decode func([]byte) T) ([]T, error) {
	t, err := f.info(name)
	if err != nil {
		return nil, err
	}
	if t.DType != want {
		return nil, f.tensorError(name, "is %s, expected %s", t.DType, want)
	}
	dst := make([]T, 0, t.Len())
	err = f.chunks(t, func(chunk []byte) error {
		for ; len(chunk) >= want.Size(); chunk = chunk[want.Size():] {
			dst = append(dst, decode(chunk))
		}
		return nil
	})
	return dst, err
}

// chunks calls use with the tensor's bytes in pieces of whole elements.
func (f *Reader) chunks(t Info, use func(chunk []byte) error) error {
	buffer := make([]byte, min(int64(typedChunk), t.Size))
	for offset := int64(0); offset < t.Size; offset += typedChunk {
		chunk := buffer[:min(typedChunk, t.Size-offset)]
		if err := f.ReadAt(t.Name, chunk, offset); err != nil {
			return err
		}
		if err := use(chunk); err != nil {
			return err
		}
	}
	return nil
}
