package mixtral

import (
	"fmt"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// device is a backend and the type of what it computes.
type device struct {
	*xla.Device
	dtype dtypes.DType // of matrix products and cache
}

func newDevice(b compute.Backend, count int, dtype dtypes.DType) *device {
	return &device{xla.NewDevice(b, count), dtype}
}

// programKey is a kind of program and the sizes that its shapes depend on.
type programKey struct {
	kind       string
	a, b, c, d int
}

func (k programKey) String() string {
	return fmt.Sprintf("%s(%d,%d,%d,%d)", k.kind, k.a, k.b, k.c, k.d)
}

// run runs a program (see [xla.Programs.Run]).
func (m *Model) run(key programKey, build func(in []*Node) []*Node, in ...compute.Buffer) ([]compute.Buffer, error) {
	return m.programs.Run(m.d.Device, key, build, in...)
}
