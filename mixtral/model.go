package mixtral

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Executor is how the model's graph is run.
type Executor int

const (
	// Auto is Stepped on the Go backend. On a GPU it is Stepped for steps of
	// several tokens and Whole for steps of one, over one set of weights. On XLA
	// CPU it is what Stepped is on the Go backend if the processor has vector
	// instructions that this module uses, and otherwise Stepped.
	Auto Executor = iota
	// Stepped computes layer by layer and routes on the host: only selected experts
	// run, and hooks may intervene. On XLA it runs one program per part of a block,
	// reused by all layers; on the Go backend, products of this module's own, which
	// read weights in place.
	Stepped
	// Whole runs all layers as one graph that routes on the device (on a GPU, for
	// steps of several tokens, as a few graphs). Hooks observe, after the step.
	Whole
)

// String returns the executor's name: auto, stepped or whole.
func (e Executor) String() string {
	switch e {
	case Auto:
		return "auto"
	case Stepped:
		return "stepped"
	case Whole:
		return "whole"
	}
	return fmt.Sprintf("Executor(%d)", int(e))
}

// MarshalText returns the executor's name, so that it can be a flag
// (flag.TextVar) or a field of JSON.
func (e Executor) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText sets the executor by its name.
func (e *Executor) UnmarshalText(name []byte) error {
	for _, known := range []Executor{Auto, Stepped, Whole} {
		if known.String() == string(name) {
			*e = known
			return nil
		}
	}
	return fmt.Errorf("executor %q: must be auto, stepped or whole", name)
}

// Options specify how a model is loaded and run. Backend is required.
type Options struct {
	// Backend computes (see [OpenBackend]). The caller finalizes it after Close.
	Backend compute.Backend
	// Executor is how the graph is run; Auto by default.
	Executor Executor
	// DType is the type of weights, matrix products and cache: dtypes.Float32 (the
	// default) or dtypes.BFloat16. Residual, norms, softmax and router are float32
	// in either case, and so is the Go backend's cache.
	DType dtypes.DType
	// Quantize is the form of the attention and expert matrices. A checkpoint whose
	// matrices are int8 is loaded so in either case. With Int8, host memory while
	// loading is the result and, in float32, one matrix.
	Quantize QuantizeMode
	// Mesh divides the model among several devices of an XLA backend; one by default.
	Mesh Mesh
	// Chunk is the maximum number of tokens of a document that one step computes,
	// which bounds memory for documents of any length; 512 by default.
	Chunk int
	// Experts, if not nil, holds the experts' weights, which Load then does not read:
	// the model asks for those that a layer needs. Executor Whole is an error; Auto is
	// Stepped where it would not compute on the host's cores (see [Executor]).
	Experts ExpertStore
	// Progress, if not nil, is called after each layer that is loaded.
	Progress func(layersDone, layers int)
}

// Validate returns an error if the options are invalid.
func (o *Options) Validate() error {
	switch {
	case o.Backend == nil:
		return errors.New("Options.Backend is nil; OpenBackend returns one")
	case o.Executor < Auto || o.Executor > Whole:
		return fmt.Errorf("Options.Executor is %v; must be Auto, Stepped or Whole", o.Executor)
	case o.DType != dtypes.InvalidDType && o.DType != dtypes.Float32 && o.DType != dtypes.BFloat16:
		return fmt.Errorf("Options.DType is %s; must be Float32 or BFloat16", o.DType)
	case o.Quantize < AsStored || o.Quantize > Int8:
		return fmt.Errorf("Options.Quantize is %v; must be AsStored or Int8", o.Quantize)
	case o.Mesh.Experts < 0 || o.Mesh.Width < 0:
		return fmt.Errorf("Options.Mesh is %d x %d; must not be negative", o.Mesh.Experts, o.Mesh.Width)
	case o.Chunk < 0:
		return fmt.Errorf("Options.Chunk is %d; must not be negative", o.Chunk)
	}
	return nil
}

// Model is a loaded Mixtral, safe for concurrent use.
type Model struct {
	cfg       Config
	hash      string
	d         *device
	mesh      Mesh
	share     share // of a device
	executor  Executor
	dtype     dtypes.DType
	int8      bool // some matrices are int8
	chunk     int
	lanes     int // groups of a batch that run concurrently
	w         *weights
	host      *hostWeights // of the host executor; nil: not used
	elsewhere ExpertStore  // nil: they are in w
	slots     *deviceSlots // of elsewhere; nil: they are in host memory
	ck        *Checkpoint  // from which elsewhere reads; nil without
	work      sync.Pool    // of *hostWork
	programs  xla.Programs[programKey]
	capacities
	calls calls.Lifetime
}

// Load reads the checkpoint in the folder fsys onto the backend (see
// [OpenCheckpoint] for its files and errors).
func Load(ctx context.Context, fsys fs.FS, o Options) (m *Model, err error) {
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	ck, err := OpenCheckpoint(fsys)
	if err != nil {
		return nil, err
	}
	defer func() {
		if m == nil || m.ck == nil {
			ck.Close()
		}
	}()
	m, err = load(ctx, ck, o)
	return m, err
}

// newModel returns a model without weights.
func newModel(cfg Config, o Options, d *device) (*Model, error) {
	m := &Model{cfg: cfg, d: d, mesh: o.Mesh, executor: o.Executor, dtype: o.DType, chunk: o.Chunk, lanes: 1}
	if err := o.Mesh.check(&m.cfg, d.Backend, o.Experts); err != nil {
		return nil, prefixed(err)
	}
	m.share = o.Mesh.share(&m.cfg)
	if m.dtype == dtypes.InvalidDType {
		m.dtype = dtypes.Float32
	}
	m.d.dtype = m.dtype
	m.capacities.layers = make([]struct{ level, needed, steps int }, m.cfg.Layers)
	if m.chunk == 0 {
		m.chunk = 512
	}
	if m.d.Shared {
		m.lanes = runtime.GOMAXPROCS(0)
	}
	switch {
	case o.Experts == nil || m.onHost():
	case m.executor == Whole:
		return nil, errors.New("mixtral: Options.Experts requires executor stepped or auto, not whole")
	default:
		m.executor = Stepped
	}
	return m, nil
}

func load(ctx context.Context, ck *Checkpoint, o Options) (*Model, error) {
	m, err := newModel(ck.Config(), o, newDevice(o.Backend, o.Mesh.Devices(), o.DType))
	if err != nil {
		return nil, err
	}
	p, err := m.plan(ck, o)
	if err != nil {
		return nil, err
	}
	if err := m.checkMemory(p); err != nil {
		return nil, err
	}
	if m.hash, err = ck.Hash(); err != nil {
		return nil, err
	}
	f := formOf(ck, o)
	m.int8 = f.attention || f.experts
	l := &loader{ctx: ctx, d: m.d, ck: ck, cfg: m.cfg, dtype: m.dtype, mesh: m.mesh, stacked: m.stacked(), without: o.Experts != nil, form: f, report: o.Progress}
	err = xla.Catch(func() (err error) {
		if m.w, err = l.weights(); err != nil || !m.onHost() {
			return err
		}
		if m.host, err = m.hostWeights(m.w); err != nil {
			m.w.free()
		}
		return err
	})
	if err == nil && o.Experts != nil {
		if err = o.Experts.Open(m.expertSource(ck, p, f)); err != nil {
			m.w.free()
			m.slots.free()
			m.programs.Close()
		}
		m.elsewhere, m.ck = o.Experts, ck
	}
	if err != nil {
		return nil, err
	}
	m.work.New = func() any { return new(hostWork) }
	return m, nil
}

// LoadDir is [Load] for a folder on disk, whose name is in errors about it.
func LoadDir(ctx context.Context, dir string, o Options) (*Model, error) {
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	m, err := Load(ctx, os.DirFS(dir), o)
	if err != nil {
		return nil, fmt.Errorf("model folder %s: %w", dir, err)
	}
	return m, nil
}

// Config returns the model's configuration.
func (m *Model) Config() Config { return m.cfg }

// CheckpointHash returns the checkpoint's [Checkpoint.Hash].
func (m *Model) CheckpointHash() string { return m.hash }

// DType returns the type of weights and products: Float32 or BFloat16.
func (m *Model) DType() dtypes.DType { return m.dtype }

// Quantize returns Int8 if attention or expert matrices are int8.
func (m *Model) Quantize() QuantizeMode {
	if m.int8 {
		return Int8
	}
	return AsStored
}

// Close waits for calls in progress to return, frees the model's memory on the
// device, and closes Options.Experts, of which its error is. Later calls of Forward
// and Generate return an error. A hook must not call Close.
func (m *Model) Close() error { return m.calls.Close(m.free) }

// begin counts a call in; m.calls.End must follow where it returns nil.
func (m *Model) begin() error {
	if !m.calls.Begin() {
		return errors.New("mixtral: the model is closed")
	}
	return nil
}

func (m *Model) free() error {
	m.programs.Close()
	m.w.free()
	if m.elsewhere == nil {
		return nil
	}
	err := errors.Join(m.elsewhere.Close(), m.ck.Close())
	m.slots.free()
	return err
}

// onHost reports whether the host executor computes all steps.
func (m *Model) onHost() bool {
	switch m.executor {
	case Stepped:
		return m.d.IsGo
	case Auto:
		return m.d.IsGo || m.d.Shared && kernel.Fast()
	}
	return false
}

// stacked reports whether a layer's experts are one buffer.
func (m *Model) stacked() bool {
	return m.executor == Whole || m.executor == Auto && !m.d.Shared || m.d.Count > 1
}

// whole reports whether a step of t tokens a document runs as one graph.
func (m *Model) whole(t int, intervene bool) bool {
	switch m.executor {
	case Whole:
		return true
	case Auto:
		return !m.d.Shared && t == 1 && !intervene
	}
	return false
}
