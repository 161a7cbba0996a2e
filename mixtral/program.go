package mixtral

import (
	"fmt"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// device is a backend with what the executors need to know of it.
type device struct {
	backend compute.Backend
	isGo    bool // pure Go: scalar elementwise operations, cheap compilation
	gpu     bool
	shared  bool // buffers have addresses that the host reads and writes
}

func newDevice(b compute.Backend) *device {
	isGo := b.String() == "go"
	return &device{backend: b, isGo: isGo, gpu: gpuBackend(b), shared: b.HasSharedBuffers()}
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
	return flat, b.ToFlatData(flat)
}

// free finalizes buffers; nil ones are passed over. A failure to free is not
// an error of the computation, whose results are there already.
func free(buffers ...compute.Buffer) {
	for _, b := range buffers {
		if b != nil {
			_ = b.Finalize()
		}
	}
}

// program is a compiled graph.
type program struct {
	name string
	exec compute.Executable
	n    int // parameters
}

// run executes the program; the caller owns (and frees) the outputs.
func (p *program) run(inputs ...compute.Buffer) (outputs []compute.Buffer, err error) {
	if len(inputs) != p.n {
		return nil, fmt.Errorf("program %s takes %d inputs, got %d", p.name, p.n, len(inputs))
	}
	err = catch(func() error {
		outputs, err = p.exec.Execute(inputs, make([]bool, len(inputs)), 0)
		clearUpper()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", p.name, err)
	}
	return outputs, nil
}

// param declares a program's input.
type param struct {
	name  string
	shape shapes.Shape
}

func f32(name string, dims ...int) param { return param{name, shapes.Make(dtypes.Float32, dims...)} }
func i32(name string, dims ...int) param { return param{name, shapes.Make(dtypes.Int32, dims...)} }

// programs compiles on demand and keeps what it compiled, for ever: lengths are
// bucketed, so that there are few. K is a comparable struct of kind and sizes.
type programs struct {
	mu   sync.Mutex
	made map[programKey]*programEntry
}

// programKey is a kind of program and its sizes.
type programKey struct {
	kind       string
	a, b, c, d int
}

func (k programKey) String() string {
	return fmt.Sprintf("%s(%d,%d,%d,%d)", k.kind, k.a, k.b, k.c, k.d)
}

type programEntry struct {
	once sync.Once
	p    *program
	err  error
}

// get returns the program of key, which build makes where it is not there yet.
func (ps *programs) get(d *device, key programKey, params func() []param, build func(in []*Node) []*Node) (*program, error) {
	ps.mu.Lock()
	if ps.made == nil {
		ps.made = make(map[programKey]*programEntry)
	}
	e := ps.made[key]
	if e == nil {
		e = new(programEntry)
		ps.made[key] = e
	}
	ps.mu.Unlock()
	e.once.Do(func() { e.p, e.err = compileProgram(d, key.String(), params(), build) })
	return e.p, e.err
}

func compileProgram(d *device, name string, params []param, build func(in []*Node) []*Node) (*program, error) {
	var exec compute.Executable
	err := catch(func() error {
		g := NewGraph(d.backend, name)
		in := make([]*Node, len(params))
		for i, p := range params {
			in[i] = Parameter(g, fmt.Sprintf("%s.%d", p.name, i), p.shape) // names must differ
		}
		if err := g.Compile(build(in)...); err != nil {
			return err
		}
		exec = g.Executable()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", name, err)
	}
	return &program{name: name, exec: exec, n: len(params)}, nil
}

// close frees all programs.
func (ps *programs) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, e := range ps.made {
		e.once.Do(func() {})
		if e.p != nil {
			e.p.exec.Finalize()
		}
	}
	ps.made = nil
}
