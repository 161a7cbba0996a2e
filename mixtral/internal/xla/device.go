// Package xla runs GoMLX graphs as programs that are compiled on demand, on
// backends' devices. (On the Go backend too; what it knows of devices concerns
// XLA's.)
package xla

import (
	"runtime"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Device is a backend and its properties that executors depend on. If it is several
// devices, each runs the same programs: buffers have copies or parts on all.
type Device struct {
	Backend compute.Backend
	Count   int  // devices that compute together
	IsGo    bool // pure Go: scalar elementwise operations, cheap compilation
	GPU     bool
	Shared  bool // buffers have addresses that the host reads and writes
}

// NewDevice returns the first count devices of b, which has so many.
func NewDevice(b compute.Backend, count int) *Device {
	return &Device{Backend: b, Count: count, IsGo: b.String() == "go", GPU: IsGPU(b), Shared: count == 1 && b.HasSharedBuffers()}
}

// Upload copies flat to the device.
func Upload[T float32 | int32](d *Device, flat []T, dims ...int) (compute.Buffer, error) {
	return d.upload(flat, shapes.Make(dtypes.FromGenericsType[T](), dims...))
}

// Zeros returns a zeroed buffer.
func (d *Device) Zeros(dtype dtypes.DType, dims ...int) (compute.Buffer, error) {
	shape := shapes.Make(dtype, dims...)
	return d.upload(dtypes.MakeAnySlice(dtype, shape.Size()), shape)
}

// Load returns a buffer whose bytes fill writes: in place if the device shares
// memory, else in what space returns for a number of bytes.
func (d *Device) Load(dtype dtypes.DType, dims []int, space func(size int) []byte, fill func(dst []byte) error) (compute.Buffer, error) {
	shape := shapes.Make(dtype, dims...)
	if d.Shared {
		b, flat, err := d.Backend.NewSharedBuffer(0, shape)
		if err != nil {
			return nil, err
		}
		if err := fill(dtypes.UnsafeByteSliceFromAny(flat)); err != nil {
			Free(b)
			return nil, err
		}
		return b, nil
	}
	bytes := space(int(shape.ByteSize()))
	if err := fill(bytes); err != nil {
		return nil, err
	}
	return d.upload(Flat(dtype, bytes), shape)
}

// Flat returns bytes as numbers.
func Flat(dtype dtypes.DType, bytes []byte) any {
	return dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(unsafe.SliceData(bytes)), dtype, len(bytes)/dtype.Size())
}

// Floats returns b's values: its own memory where that is shared (valid until
// b is finalized), else a copy.
func (d *Device) Floats(b compute.Buffer) ([]float32, error) {
	if d.Shared {
		flat, err := b.Data()
		if err != nil {
			return nil, err
		}
		return flat.([]float32), nil
	}
	shape, err := b.Shape()
	if err != nil {
		return nil, err
	}
	flat := make([]float32, shape.Size())
	if d.GPU && cudaRead(flat, b) {
		return flat, nil
	}
	return flat, b.ToFlatData(flat)
}

// Free finalizes buffers, except nil ones. A failure to free is not an error of
// the computation, whose results exist already.
func Free(buffers ...compute.Buffer) {
	for _, b := range buffers {
		if b != nil {
			_ = b.Finalize()
		}
	}
}

// Copy is bytes for an offset in bytes of a buffer of a CUDA device.
type Copy struct {
	To     compute.Buffer
	Offset int
	From   []byte
}

// Catch returns f's error, or the error with which GoMLX panics while a graph is
// built or run. All other panics, including runtime errors, are defects of this
// module and continue.
func Catch(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			panic(p)
		case error:
			err = p
		default:
			panic(p)
		}
	}()
	return f()
}
