package xla

import (
	"errors"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// spread is a buffer of a [Device] of several: one of the same shape on each, copies
// or parts. What the host reads is the first's.
type spread struct{ on []compute.Buffer }

func (s *spread) Backend() compute.Backend              { return s.on[0].Backend() }
func (s *spread) Shape() (shapes.Shape, error)          { return s.on[0].Shape() }
func (s *spread) DeviceNum() (compute.DeviceNum, error) { return s.on[0].DeviceNum() }
func (s *spread) ToFlatData(flat any) error             { return s.on[0].ToFlatData(flat) }
func (s *spread) Data() (any, error)                    { return s.on[0].Data() }

func (s *spread) CopyToDevice(to compute.DeviceNum) (compute.Buffer, error) {
	return s.on[0].CopyToDevice(to)
}

func (s *spread) Finalize() error {
	var errs []error
	for _, b := range s.on {
		if b != nil {
			errs = append(errs, b.Finalize())
		}
	}
	return errors.Join(errs...)
}

// each returns the buffer that make makes, of one on each device.
func (d *Device) each(make func(device int) (compute.Buffer, error)) (compute.Buffer, error) {
	if d.Count == 1 {
		return make(0)
	}
	s := new(spread)
	for i := range d.Count {
		b, err := make(i)
		if err != nil {
			Free(s.on...)
			return nil, err
		}
		s.on = append(s.on, b)
	}
	return s, nil
}

// upload copies flat to each device.
func (d *Device) upload(flat any, shape shapes.Shape) (compute.Buffer, error) {
	return d.each(func(i int) (compute.Buffer, error) {
		return d.Backend.BufferFromFlatData(compute.DeviceNum(i), flat, shape)
	})
}

// UploadEach copies to each device what of returns for it.
func UploadEach[T float32 | int32](d *Device, of func(device int) []T, dims ...int) (compute.Buffer, error) {
	return d.each(func(i int) (compute.Buffer, error) {
		return d.Backend.BufferFromFlatData(compute.DeviceNum(i), of(i), shapes.Make(dtypes.FromGenericsType[T](), dims...))
	})
}

// Span is a range of an axis that a part has, followed by zeros up to Size.
type Span struct{ From, To, Size int }

// Cut is the part of an array that a device has: along each axis, some spans.
type Cut [][]Span

// LoadParts is [Device.Load] of arrays of which each device has a part.
func (d *Device) LoadParts(dtype dtypes.DType, dims []int, cut func(device int) Cut, space, part func(size int) []byte, fill func(dst []byte) error) (compute.Buffer, error) {
	whole := space(int(shapes.Make(dtype, dims...).ByteSize()))
	if err := fill(whole); err != nil {
		return nil, err
	}
	return d.each(func(i int) (compute.Buffer, error) {
		c := cut(i)
		shape := shapes.Make(dtype, c.Dims()...)
		bytes := part(int(shape.ByteSize()))
		c.Copy(bytes, whole, dims, dtype.Size())
		return d.Backend.BufferFromFlatData(compute.DeviceNum(i), Flat(dtype, bytes), shape)
	})
}

// Dims returns the part's dimensions.
func (c Cut) Dims() []int {
	dims := make([]int, len(c))
	for axis, spans := range c {
		for _, s := range spans {
			dims[axis] += s.Size
		}
	}
	return dims
}

// Copy writes to dst the part of an array with dimensions dims, of elements of size
// bytes.
func (c Cut) Copy(dst, array []byte, dims []int, size int) {
	to, from := size, size // bytes of an index of the first axis
	whole := true          // the part has all of the other axes
	for axis, n := range c[1:].Dims() {
		to, from = to*n, from*dims[axis+1]
		whole = whole && len(c[axis+1]) == 1 && c[axis+1][0] == Span{0, dims[axis+1], dims[axis+1]}
	}
	for _, s := range c[0] {
		if n := s.To - s.From; whole {
			copy(dst[:n*to], array[s.From*from:])
		} else {
			for i := range n {
				c[1:].Copy(dst[i*to:(i+1)*to], array[(s.From+i)*from:], dims[1:], size)
			}
		}
		clear(dst[(s.To-s.From)*to : s.Size*to])
		dst = dst[s.Size*to:]
	}
}

// distribute makes a graph that of all devices, each of which runs it on its own
// parameters.
func (d *Device) distribute(g *Graph) error {
	if d.Count == 1 {
		return nil
	}
	mesh, err := distributed.NewDeviceMesh([]int{d.Count}, []string{"device"})
	if err != nil {
		return err
	}
	return g.SetSPMD(mesh)
}

// Sum returns the sum of the devices' x, on each of them.
func (d *Device) Sum(x *Node) *Node {
	if d.Count == 1 {
		return x
	}
	return x.Graph().Distributed().AllReduceOne(x, compute.ReduceOpSum)
}

// together is held by a program of several devices: two at once could each have some
// of the devices, and wait for the others' parts of a sum.
var together sync.Mutex

// execute runs a program on all devices.
func (d *Device) execute(exec compute.Executable, in []compute.Buffer) ([]compute.Buffer, error) {
	if d.Count == 1 {
		return exec.Execute(in, make([]bool, len(in)), 0)
	}
	all := make([]compute.Buffer, 0, d.Count*len(in))
	for i := range d.Count {
		for _, b := range in {
			all = append(all, b.(*spread).on[i])
		}
	}
	together.Lock()
	defer together.Unlock()
	outs, err := exec.Execute(all, make([]bool, len(all)), 0)
	if err != nil {
		return nil, err
	}
	n := len(outs) / d.Count
	out := make([]compute.Buffer, n)
	for j := range out {
		s := &spread{make([]compute.Buffer, d.Count)}
		for i := range s.on {
			s.on[i] = outs[i*n+j]
		}
		out[j] = s
	}
	return out, nil
}
