package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	switchmini "github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/gomlx/compute/dtypes"
)

// BackendFlag defines -backend.
func BackendFlag(f *flag.FlagSet, backend *string) {
	f.StringVar(backend, "backend", "go", "`backend` that computes: go, xla:cpu, xla:cuda or xla:/path/to/plugin.so")
}

// Model is the model that a program runs, chosen by flags.
type Model struct {
	Folder    string // a checkpoint's, or "mini"
	Backend   string
	Executor  mixtral.Executor
	Tokenizer string // a file; "": tokenizer.json in Folder
	// OwnMemory says that the backend, once opened, has memory that is not the host's.
	OwnMemory bool
	dtype     dtypes.DType
	quantize  mixtral.QuantizeMode
	mesh      mixtral.Mesh
}

// Flags defines -model, -backend, -devices, -executor, -dtype and -quantize.
func (m *Model) Flags(f *flag.FlagSet) {
	f.StringVar(&m.Folder, "model", "mini", "`folder` of a checkpoint (config.json, safetensors, tokenizer.json), or mini for the embedded Mixtral,\nor, where the program runs Switch Transformers too, mini-switch for the embedded one")
	f.TextVar(&m.Executor, "executor", mixtral.Auto, "`executor`: stepped, whole, or auto for the faster one")
	f.Func("dtype", "`type` of weights and products: float32 or bfloat16 (default float32)", func(name string) error {
		types := map[string]dtypes.DType{"float32": dtypes.Float32, "bfloat16": dtypes.BFloat16}
		dtype, ok := types[name]
		if !ok {
			return errors.New("must be float32 or bfloat16")
		}
		m.dtype = dtype
		return nil
	})
	f.TextVar(&m.quantize, "quantize", mixtral.AsStored, "`form` of attention and expert matrices: int8, or none for that of the checkpoint")
	BackendFlag(f, &m.Backend)
	f.TextVar(&m.mesh, "devices", mixtral.Mesh{}, "`number` of the backend's devices that divide each layer's heads and experts; or GxN: G groups\nof N devices, which divide the experts among the groups and each expert's width within one")
}

// Name returns a name of the model for traces.
func (m *Model) Name() string {
	return filepath.Base(filepath.Clean(m.Folder))
}

// Files returns a checkpoint's folder, or that of an embedded model for "mini" and
// "mini-switch".
func Files(folder string) (fs.FS, error) {
	switch folder {
	case "mini":
		return mini.FS(), nil
	case "mini-switch":
		return switchmini.FS(), nil
	}
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("-model %s: no such folder", folder)
	case err != nil:
		return nil, fmt.Errorf("-model: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("-model %s: not a folder", folder)
	}
	if _, err := os.Stat(filepath.Join(folder, "config.json")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-model %s: not a checkpoint: it has no config.json", folder)
	}
	return os.DirFS(folder), nil
}

// LoadTokenizer reads the model's tokenizer.
func (m *Model) LoadTokenizer() (*tokenizer.Tokenizer, error) {
	if m.Tokenizer != "" {
		return LoadTokenizer(m.Tokenizer)
	}
	files, err := Files(m.Folder)
	if err != nil {
		return nil, err
	}
	t, err := tokenizer.Load(files, "tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-model %s: the checkpoint has no tokenizer.json", m.Folder)
	}
	if err != nil {
		return nil, fmt.Errorf("-model %s: %w", m.Folder, err)
	}
	return t, nil
}

// LoadTokenizer reads a tokenizer.json, or for "mini" and "mini-switch" the embedded
// model's.
func LoadTokenizer(file string) (*tokenizer.Tokenizer, error) {
	switch file {
	case "mini":
		return tokenizer.Load(mini.FS(), "tokenizer.json")
	case "mini-switch":
		return tokenizer.Load(switchmini.FS(), "tokenizer.json")
	}
	t, err := tokenizer.Load(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		return nil, fmt.Errorf("-tokenizer %s: %w", file, err)
	}
	return t, nil
}

// Load opens the backend and loads a Mixtral. The caller calls free, not Close.
func (m *Model) Load(ctx context.Context) (model *mixtral.Model, free func(), err error) {
	return m.load(ctx, nil)
}

func (m *Model) load(ctx context.Context, experts mixtral.ExpertStore) (model *mixtral.Model, free func(), err error) {
	files, err := Files(m.Folder)
	if err != nil {
		return nil, nil, err
	}
	if experts != nil && m.mesh.Devices() > 1 {
		return nil, nil, fmt.Errorf("-devices %v: experts outside the device's memory require one device", m.mesh)
	}
	backend, err := mixtral.OpenBackend(m.Backend)
	if err != nil {
		return nil, nil, err
	}
	m.OwnMemory = !backend.HasSharedBuffers()
	o := mixtral.Options{Backend: backend, Executor: m.Executor, DType: m.dtype, Quantize: m.quantize, Mesh: m.mesh, Experts: experts}
	if model, err = mixtral.Load(ctx, files, o); err != nil {
		backend.Finalize()
		return nil, nil, fmt.Errorf("-model %s: %w", m.Folder, err)
	}
	return model, func() { model.Close(); backend.Finalize() }, nil
}

// Config reads the model's configuration.
func (m *Model) Config() (mixtral.Config, error) {
	files, err := Files(m.Folder)
	if err != nil {
		return mixtral.Config{}, err
	}
	c, err := mixtral.OpenCheckpoint(files)
	if err != nil {
		return mixtral.Config{}, fmt.Errorf("-model %s: %w", m.Folder, err)
	}
	defer c.Close()
	return c.Config(), nil
}
