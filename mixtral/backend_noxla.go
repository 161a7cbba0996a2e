//go:build !cgo || !(linux || darwin)

package mixtral

import (
	"errors"

	"github.com/gomlx/compute"
)

func openXLA(string) (compute.Backend, error) {
	return nil, errors.New("the program was built without XLA: build it on Linux or macOS with a C compiler and CGO_ENABLED=1")
}
