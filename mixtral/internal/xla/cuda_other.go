//go:build !cgo || !linux

package xla

import (
	"errors"

	"github.com/gomlx/compute"
)

var errNoCUDA = errors.New("the program was built without CUDA: build it on Linux with a C compiler and CGO_ENABLED=1")

// CUDA reports whether the CUDA driver can be used.
func CUDA() bool { return false }

// DeviceMemory returns 0: it is unknown.
func DeviceMemory() int64 { return 0 }

func cudaRead([]float32, compute.Buffer) bool { return false }

// Write copies to buffers of a CUDA device.
func Write([]Copy) error { return errNoCUDA }

// Lock page-locks memory.
func Lock([]byte) error { return errNoCUDA }

// Unlock undoes Lock.
func Unlock([]byte) {}
