package mixtral

import (
	"fmt"
	"unsafe"

	"github.com/gomlx/compute/dtypes"
)

// Routers returns the router weights of all layers, [L,E,D]: a layer's router
// logits [E] are its weights [E,D] times the router's input [D]. Errors name file
// and tensor.
func (c *Checkpoint) Routers() ([]float32, error) {
	cfg := c.Config()
	size := cfg.Experts * cfg.HiddenSize
	out := make([]float32, cfg.Layers*size)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(out))), 4*len(out))
	for l := range cfg.Layers {
		name := fmt.Sprintf("model.layers.%d.block_sparse_moe.gate.weight", l)
		if err := c.Read(name, dtypes.Float32, bytes[4*l*size:4*(l+1)*size]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
