package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/speculate"
)

// IsSwitch reports whether the model is a Switch Transformer, by its config.json.
func (m *Model) IsSwitch() (bool, error) {
	files, err := Files(m.Folder)
	if err != nil {
		return false, err
	}
	return isSwitch(m.Folder, files)
}

func isSwitch(folder string, files fs.FS) (bool, error) {
	text, err := fs.ReadFile(files, "config.json")
	if err != nil {
		return false, fmt.Errorf("-model %s: %w", folder, err)
	}
	var config struct {
		Type string `json:"model_type"`
	}
	// A config.json that is invalid is an error of whoever reads all of it.
	_ = json.Unmarshal(text, &config)
	return config.Type == "switch_transformers", nil
}

// LoadSwitch opens the backend and loads a Switch Transformer. The caller calls free,
// not Close.
func (m *Model) LoadSwitch(ctx context.Context) (model *switchtransformer.Model, free func(), err error) {
	files, err := Files(m.Folder)
	if err != nil {
		return nil, nil, err
	}
	if m.quantize != mixtral.AsStored {
		return nil, nil, fmt.Errorf("-quantize %v: not for a Switch Transformer, whose matrices are computed as stored", m.quantize)
	}
	if m.mesh.Devices() > 1 {
		return nil, nil, fmt.Errorf("-devices %v: a Switch Transformer runs on one", m.mesh)
	}
	backend, err := mixtral.OpenBackend(m.Backend)
	if err != nil {
		return nil, nil, err
	}
	model, err = switchtransformer.Load(ctx, files, switchtransformer.Options{Backend: backend, Executor: m.Executor, DType: m.dtype})
	if err != nil {
		backend.Finalize()
		return nil, nil, fmt.Errorf("-model %s: %w", m.Folder, err)
	}
	return model, func() { model.Close(); backend.Finalize() }, nil
}

// ReadGates reads the routers of a checkpoint; nil for folder "".
func ReadGates(folder string) (*speculate.Gates, error) {
	if folder == "" {
		return nil, nil
	}
	files, err := Files(folder)
	if err != nil {
		return nil, err
	}
	read := mixtralGates
	if ok, err := isSwitch(folder, files); err != nil {
		return nil, err
	} else if ok {
		read = switchGates
	}
	g, err := read(files)
	if err != nil {
		return nil, fmt.Errorf("-model %s: %w", folder, err)
	}
	return g, nil
}

func mixtralGates(files fs.FS) (*speculate.Gates, error) {
	c, err := mixtral.OpenCheckpoint(files)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cfg := c.Config()
	w, err := c.Routers()
	return &speculate.Gates{Layers: cfg.Layers, Experts: cfg.Experts, Hidden: cfg.HiddenSize, Weights: w}, err
}

func switchGates(files fs.FS) (*speculate.Gates, error) {
	c, err := switchtransformer.OpenCheckpoint(files)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cfg := c.Config()
	w, bias, err := c.Routers()
	return &speculate.Gates{Layers: cfg.TraceModel("").Layers, Experts: cfg.Experts, Hidden: cfg.HiddenSize, Weights: w, Bias: bias}, err
}
