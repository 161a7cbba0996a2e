package mixtral_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/stretchr/testify/require"
)

// xlaBackend opens the XLA CPU plugin, which shows 4 devices.
func xlaBackend(t *testing.T) mixtral.Options {
	t.Helper()
	plugin := os.Getenv(xlaVariable)
	if plugin == "" {
		t.Skipf("set %s to an XLA plugin", xlaVariable)
	}
	b, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	return mixtral.Options{Backend: b}
}

// TestParityMesh is TestParity on several devices: of all of a, b and c's numbers of
// heads, experts and width, 4 devices divide some.
func TestParityMesh(t *testing.T) {
	o := xlaBackend(t)
	for model, meshes := range map[string][]mixtral.Mesh{
		"variants/a": {{Experts: 3}, {Width: 4}, {Experts: 2, Width: 2}},
		"variants/b": {{Experts: 4}, {Width: 3}, {Experts: 2, Width: 2}},
		"variants/c": {{Experts: 2}, {Width: 2}},
	} {
		for _, mesh := range meshes {
			t.Run(fmt.Sprintf("%s/%v", model, mesh), func(t *testing.T) {
				o := o
				o.Mesh = mesh
				m := load(t, checkpoints()[model], o)
				for id, c := range references(t, model) {
					testParity(t, m, id, c)
				}
			})
		}
	}
}
