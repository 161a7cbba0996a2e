package mixtral

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Executor is a way to run the model's graph.
type Executor int

const (
	// Auto is Stepped on the Go backend. On XLA it is Stepped for steps of
	// several tokens and Whole for steps of one, over one set of weights.
	Auto Executor = iota
	// Stepped runs one program per part of a block, reused by all layers, and
	// routes on the host: only chosen experts run, and hooks may intervene.
	Stepped
	// Whole runs all layers as one graph that routes on the device. Hooks
	// observe, after the step.
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

// Options are how a model is loaded and run.
type Options struct {
	// Backend computes (see OpenBackend); the caller finalizes it, after Close.
	Backend compute.Backend
	// Executor is how; Auto by default.
	Executor Executor
	// DType is the type of weights, activations' products and cache:
	// dtypes.Float32 (the default) or dtypes.BFloat16. Residual, norms, softmax
	// and router are float32 in either case.
	DType dtypes.DType
	// Chunk is the most tokens of a document that one step computes, so that
	// memory is bounded for any length; 512 by default.
	Chunk int
	// Progress is told, while loading, of the layers that are done.
	Progress func(layersDone, layers int)
}

// Validate reports what is wrong with the options.
func (o *Options) Validate() error {
	switch {
	case o.Backend == nil:
		return errors.New("Options.Backend is nil; see OpenBackend")
	case o.Executor < Auto || o.Executor > Whole:
		return fmt.Errorf("Options.Executor is %v", o.Executor)
	case o.DType != dtypes.InvalidDType && o.DType != dtypes.Float32 && o.DType != dtypes.BFloat16:
		return fmt.Errorf("Options.DType is %s; use Float32 or BFloat16", o.DType)
	case o.Chunk < 0:
		return fmt.Errorf("Options.Chunk is %d tokens", o.Chunk)
	}
	return nil
}

// Model is a loaded Mixtral, safe for concurrent use.
type Model struct {
	cfg      Config
	hash     string
	d        *device
	executor Executor
	dtype    dtypes.DType
	chunk    int
	lanes    int // groups of a batch that run at the same time
	w        *weights
	programs programs
	state    sync.Mutex
	running  int           // calls in progress
	closed   chan struct{} // closed once Close was called and no call is in progress; nil before
}

// Load reads the checkpoint in the folder fsys (config.json and safetensors,
// as a hub ships them) onto the backend. Errors name file and tensor.
func Load(ctx context.Context, fsys fs.FS, o Options) (*Model, error) {
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	ck, err := OpenCheckpoint(fsys)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	m := &Model{cfg: ck.Config(), d: newDevice(o.Backend), executor: o.Executor, dtype: o.DType, chunk: o.Chunk, lanes: 1}
	if m.dtype == dtypes.InvalidDType {
		m.dtype = dtypes.Float32
	}
	if m.chunk == 0 {
		m.chunk = 512
	}
	if m.d.shared {
		m.lanes = runtime.GOMAXPROCS(0)
	}
	if m.hash, err = ck.Hash(); err != nil {
		return nil, err
	}
	l := &loader{ctx: ctx, d: m.d, ck: ck, cfg: m.cfg, dtype: m.dtype, stacked: m.stacked(), report: o.Progress}
	err = catch(func() (err error) {
		m.w, err = l.weights()
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// LoadDir is Load of a folder on disk, whose name is in errors about it.
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

// Config returns the model's shape.
func (m *Model) Config() Config { return m.cfg }

// CheckpointHash identifies the checkpoint (see Checkpoint.Hash).
func (m *Model) CheckpointHash() string { return m.hash }

// DType returns the type that the model computes in: float32 or bfloat16.
func (m *Model) DType() dtypes.DType { return m.dtype }

// Close waits for calls in progress to return and frees the model's memory on
// the device. Later calls of Forward and Generate return an error. A hook must
// not call Close.
func (m *Model) Close() error {
	m.state.Lock()
	if m.closed == nil {
		m.closed = make(chan struct{})
		if m.running == 0 {
			m.free()
		}
	}
	m.state.Unlock()
	<-m.closed
	return nil
}

// begin counts a call in; end must follow where it returns nil.
func (m *Model) begin() error {
	m.state.Lock()
	defer m.state.Unlock()
	if m.closed != nil {
		return errors.New("mixtral: the model is closed")
	}
	m.running++
	return nil
}

func (m *Model) end() {
	m.state.Lock()
	defer m.state.Unlock()
	if m.running--; m.running == 0 && m.closed != nil {
		m.free()
	}
}

func (m *Model) free() {
	m.programs.close()
	m.w.free()
	close(m.closed)
}

// stacked reports whether a layer's experts are one buffer.
func (m *Model) stacked() bool {
	return m.executor == Whole || m.executor == Auto && !m.d.isGo
}

// whole reports whether a step of t tokens a document runs as one graph.
func (m *Model) whole(t int, intervene bool) bool {
	switch m.executor {
	case Whole:
		return true
	case Auto:
		return !m.d.isGo && t == 1 && !intervene
	}
	return false
}
