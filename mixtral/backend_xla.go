//go:build cgo && (linux || darwin)

package mixtral

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// openXLA opens the XLA plugin of a name or an absolute path. go-xla would
// download one that is missing: that is for the user to decide.
func openXLA(config string) (compute.Backend, error) {
	xla.EnableAutoInstall(false)
	b, err := xla.New(config)
	if err == nil {
		return b, nil
	}
	plugin, _, _ := strings.Cut(config, ",")
	found := xla.GetAvailablePlugins()
	// go-xla accepts "cpu" for the plugin "cpu_v0.83.1" too.
	is := func(name string) bool { return name == plugin || strings.HasPrefix(name, plugin+"_v") }
	if !filepath.IsAbs(plugin) && !slices.ContainsFunc(found, is) {
		return nil, fmt.Errorf("no such plugin among those installed, %q: put pjrt_c_api_%s_plugin.so into ~/.local/lib/go-xla or into a folder of PJRT_PLUGIN_LIBRARY_PATH, or use xla:/path/to/plugin.so", found, plugin)
	}
	return nil, err
}
