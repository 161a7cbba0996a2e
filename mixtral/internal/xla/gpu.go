//go:build cgo && (linux || darwin)

package xla

import (
	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// IsGPU reports whether b computes on a CUDA device.
func IsGPU(b compute.Backend) bool {
	x, ok := b.(*xla.Backend)
	return ok && x.IsCUDA()
}
