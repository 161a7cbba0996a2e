package switchtransformer

import (
	"unsafe"

	"github.com/gomlx/compute/dtypes"
)

// Routers returns the router weights of all layers, [L,E,D], those of the encoder
// first, and the biases, [L,E], nil where the model has none: a layer's router logits
// [E] are its weights [E,D] times the router's input [D], plus its biases. Errors name
// file and tensor.
func (c *Checkpoint) Routers() (weights, bias []float32, err error) {
	cfg := c.Config()
	layers := len(cfg.MoEBlocks(Encoder)) + len(cfg.MoEBlocks(Decoder))
	weights = make([]float32, layers*cfg.Experts*cfg.HiddenSize)
	if cfg.RouterBias {
		bias = make([]float32, layers*cfg.Experts)
	}
	read := func(name string, to []float32, at, n int) error {
		part := to[at*n : (at+1)*n]
		return c.Read(name, dtypes.Float32, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(part))), 4*n))
	}
	at := 0
	for s := range Stack(stacks) {
		for _, block := range cfg.MoEBlocks(s) {
			router := feedForward(s, block) + "mlp.router.classifier."
			if err := read(router+"weight", weights, at, cfg.Experts*cfg.HiddenSize); err != nil {
				return nil, nil, err
			}
			if cfg.RouterBias {
				if err := read(router+"bias", bias, at, cfg.Experts); err != nil {
					return nil, nil, err
				}
			}
			at++
		}
	}
	return weights, bias, nil
}
