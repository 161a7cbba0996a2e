package mixtral

import (
	"fmt"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// device is a backend and its properties that the executors depend on.
type device struct {
	backend compute.Backend
	dtype   dtypes.DType // of matrix products and cache
	isGo    bool         // pure Go: scalar elementwise operations, cheap compilation
	gpu     bool
	shared  bool // buffers have addresses that the host reads and writes
}

func newDevice(b compute.Backend, dtype dtypes.DType) *device {
	isGo := b.String() == "go"
	return &device{backend: b, dtype: dtype, isGo: isGo, gpu: gpuBackend(b), shared: b.HasSharedBuffers()}
}

// upload copies flat to the device.
func upload[T float32 | int32](d *device, flat []T, dims ...int) (compute.Buffer, error) {
	return d.backend.BufferFromFlatData(0, flat, shapes.Make(dtypes.FromGenericsType[T](), dims...))
}

// zeros returns a zeroed buffer.
func (d *device) zeros(dtype dtypes.DType, dims ...int) (compute.Buffer, error) {
	shape := shapes.Make(dtype, dims...)
	return d.backend.BufferFromFlatData(0, dtypes.MakeAnySlice(dtype, shape.Size()), shape)
}

// floats returns b's values: its own memory where that is shared (valid until
// b is finalized), else a copy.
func (d *device) floats(b compute.Buffer) ([]float32, error) {
	if d.shared {
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
	if d.gpu && cudaRead(flat, b) {
		return flat, nil
	}
	return flat, b.ToFlatData(flat)
}

// free finalizes buffers, except nil ones. A failure to free is not an error of
// the computation, whose results exist already.
func free(buffers ...compute.Buffer) {
	for _, b := range buffers {
		if b != nil {
			_ = b.Finalize()
		}
	}
}

// programKey is a kind of program and the sizes that its shapes depend on.
type programKey struct {
	kind       string
	a, b, c, d int
}

func (k programKey) String() string {
	return fmt.Sprintf("%s(%d,%d,%d,%d)", k.kind, k.a, k.b, k.c, k.d)
}

// programs are compiled on demand and kept: sizes are bucketed, so that there are
// few.
type programs struct {
	mu   sync.Mutex
	made map[programKey]*program
}

type program struct {
	once sync.Once
	exec compute.Executable
	err  error
}

// run computes the graph that build makes of parameters like in, and returns its
// outputs, which the caller frees. The graph is compiled at the first use of the
// key, which determines all shapes.
func (m *Model) run(key programKey, build func(in []*Node) []*Node, in ...compute.Buffer) (out []compute.Buffer, err error) {
	exec, err := m.programs.get(m.d, key, build, in)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", key, err)
	}
	err = catch(func() error {
		out, err = exec.Execute(in, make([]bool, len(in)), 0)
		clearUpper()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", key, err)
	}
	return out, nil
}

// one returns the only output of a run.
func one(out []compute.Buffer, err error) (compute.Buffer, error) {
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (ps *programs) get(d *device, key programKey, build func(in []*Node) []*Node, in []compute.Buffer) (compute.Executable, error) {
	ps.mu.Lock()
	if ps.made == nil {
		ps.made = make(map[programKey]*program)
	}
	p := ps.made[key]
	if p == nil {
		p = new(program)
		ps.made[key] = p
	}
	ps.mu.Unlock()
	p.once.Do(func() {
		p.err = catch(func() (err error) {
			p.exec, err = compile(d, key.String(), build, in)
			return err
		})
	})
	return p.exec, p.err
}

func compile(d *device, name string, build func(in []*Node) []*Node, in []compute.Buffer) (compute.Executable, error) {
	g := NewGraph(d.backend, name)
	params := make([]*Node, len(in))
	for i, b := range in {
		shape, err := b.Shape()
		if err != nil {
			return nil, err
		}
		params[i] = Parameter(g, fmt.Sprint("in", i), shape)
	}
	if err := g.Compile(build(params)...); err != nil {
		return nil, err
	}
	return g.Executable(), nil
}

// close frees all programs.
func (ps *programs) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.made {
		if p.exec != nil {
			p.exec.Finalize()
		}
	}
	ps.made = nil
}
