package mixtral

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
)

// OpenBackend opens a compute backend by name:
//
//   - "go": GoMLX's pure Go backend, on any machine. It is opened as
//     "go:ops_sequential", since its default mode deadlocks with many
//     independent large products; "go:..." sets other options.
//   - "xla:cpu", "xla:cuda": an installed XLA plugin, that is, a file such as
//     pjrt_c_api_cpu_plugin.so in ~/.local/lib/go-xla (and nvidia below it),
//     /usr/local/lib/go-xla, or the folders of PJRT_PLUGIN_LIBRARY_PATH, if set.
//   - "xla:/path/to/plugin.so": the XLA plugin of that file, an absolute path.
//     Options follow after commas, as in "xla:cuda,tf32=false".
//
// Nothing is downloaded. XLA requires a program built with cgo on Linux or macOS.
// The caller finalizes the backend when all models on it are closed.
func OpenBackend(name string) (compute.Backend, error) {
	kind, config, _ := strings.Cut(name, ":")
	switch kind {
	case "go":
		if config == "" {
			config = "ops_sequential"
		}
		return openBackend(name, func() (compute.Backend, error) { return gobackend.New(config) })
	case "xla":
		if err := checkPlugin(name, config); err != nil {
			return nil, err
		}
		return openBackend(name, func() (compute.Backend, error) { return openXLA(config) })
	}
	return nil, fmt.Errorf("backend %q: unknown; must be go, xla:cpu, xla:cuda or xla:/path/to/plugin.so", name)
}

func checkPlugin(name, config string) error {
	plugin, _, _ := strings.Cut(config, ",")
	if plugin == "" {
		return fmt.Errorf("backend %q: a plugin is required: xla:cpu, xla:cuda or xla:/path/to/plugin.so", name)
	}
	if !strings.ContainsRune(plugin, filepath.Separator) {
		return nil
	}
	if !filepath.IsAbs(plugin) {
		return fmt.Errorf("backend %q: the plugin's path must be absolute", name)
	}
	if _, err := os.Stat(plugin); err != nil {
		return fmt.Errorf("backend %q: %w", name, checkpoint.WithoutPath(err))
	}
	return nil
}

// openBackend turns the panics and typed nils of constructors into errors.
func openBackend(name string, open func() (compute.Backend, error)) (b compute.Backend, err error) {
	err = xla.Catch(func() error {
		var err error
		b, err = open()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w", name, err)
	}
	return b, nil
}
