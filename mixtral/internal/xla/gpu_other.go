//go:build !cgo || !(linux || darwin)

package xla

import "github.com/gomlx/compute"

// IsGPU reports whether b computes on a CUDA device.
func IsGPU(compute.Backend) bool { return false }
