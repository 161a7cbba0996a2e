package switchtransformer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Options specify how a model is loaded and run. Backend is required.
type Options struct {
	// Backend computes (see mixtral.OpenBackend). The caller finalizes it after Close.
	Backend compute.Backend
	// Executor is how the model is run: mixtral.Auto, the default, or mixtral.Stepped,
	// which mean what they mean there. mixtral.Whole is an error.
	Executor mixtral.Executor
	// DType is the type of weights and matrix products: dtypes.Float32 (the default)
	// or dtypes.BFloat16. Residual, norms, softmax and router are float32 in either
	// case, and so is the Go backend's cache.
	DType dtypes.DType
	// Progress, if not nil, is called after each block that is loaded.
	Progress func(blocksDone, blocks int)
}

// Validate returns an error if the options are invalid.
func (o *Options) Validate() error {
	switch {
	case o.Backend == nil:
		return errors.New("Options.Backend is nil; mixtral.OpenBackend returns one")
	case o.Executor != mixtral.Auto && o.Executor != mixtral.Stepped:
		return fmt.Errorf("Options.Executor is %v; must be Auto or Stepped", o.Executor)
	case o.DType != dtypes.InvalidDType && o.DType != dtypes.Float32 && o.DType != dtypes.BFloat16:
		return fmt.Errorf("Options.DType is %s; must be Float32 or BFloat16", o.DType)
	}
	return nil
}

// onHost reports whether the host executor computes.
func (o *Options) onHost() bool {
	if o.Backend.String() == "go" {
		return true
	}
	return o.Executor == mixtral.Auto && o.Backend.HasSharedBuffers() && kernel.Fast()
}

// Model is a loaded Switch Transformer, safe for concurrent use.
type Model struct {
	cfg    Config
	blocks [stacks][]int // of MoE layers
	hash   string
	dtype  dtypes.DType
	x      executor
	calls  calls.Lifetime
}

// Load reads the checkpoint in the folder fsys onto the backend (see
// [OpenCheckpoint] for its files and errors).
func Load(ctx context.Context, fsys fs.FS, o Options) (*Model, error) {
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	ck, err := OpenCheckpoint(fsys)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	m := &Model{cfg: ck.Config(), dtype: o.DType}
	if m.dtype == dtypes.InvalidDType {
		m.dtype = dtypes.Float32
	}
	for s := range Stack(stacks) {
		m.blocks[s] = m.cfg.MoEBlocks(s)
	}
	if m.hash, err = ck.Hash(); err != nil {
		return nil, err
	}
	l := loading{ctx: ctx, ck: ck, cfg: &m.cfg, backend: o.Backend, dtype: m.dtype, report: o.Progress}
	if o.onHost() {
		m.x, err = newHost(&l)
	} else {
		m.x, err = newGraph(&l)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// loading is what an executor is made from.
type loading struct {
	ctx     context.Context
	ck      *Checkpoint
	cfg     *Config // of the model; the executor may keep it
	backend compute.Backend
	dtype   dtypes.DType // of weights and products
	done    int          // blocks
	report  func(blocksDone, blocks int)
}

// progress counts a block that is loaded. It returns an error if the context ended.
func (l *loading) progress() error {
	l.done++
	if l.report != nil {
		err := calls.Protect("Progress", func() error {
			l.report(l.done, l.cfg.EncoderBlocks+l.cfg.DecoderBlocks)
			return nil
		})
		if err != nil {
			return prefixed(err)
		}
	}
	return l.ctx.Err()
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

// Close waits for calls in progress to return and frees the model's memory on the
// device. Later calls of Forward and Generate return an error. A hook must not call
// Close.
func (m *Model) Close() error { return m.calls.Close(m.free) }

// begin counts a call in; m.calls.End must follow where it returns nil.
func (m *Model) begin() error {
	if !m.calls.Begin() {
		return errors.New("switchtransformer: the model is closed")
	}
	return nil
}

func (m *Model) free() error {
	m.x.close()
	return nil
}

// prefixed adds the package's name to an error, except to a context's.
func prefixed(err error) error { return calls.Prefixed("switchtransformer", err) }
