//go:build !cgo || !linux

package mixtral

import (
	"errors"

	"github.com/gomlx/compute"
)

var errNoCUDA = errors.New("the program was built without CUDA: build it on Linux with a C compiler and CGO_ENABLED=1")

func cudaOpened() bool { return false }

func cudaRead([]float32, compute.Buffer) bool { return false }

func cudaWrite([]cudaCopy) error { return errNoCUDA }

func cudaLock([]byte) error { return errNoCUDA }

func cudaUnlock([]byte) {}
