package mixtral

import (
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// Read fills dst with a tensor's elements as dtype (Float32, BFloat16 or
// Float16), row-major and little-endian; dst must have exactly their size. The
// names are those of Shape. Narrowing rounds to nearest, ties to even. A tensor
// stored in 8 bits is multiplied by its scales.
//
// An element that is NaN, infinite or too large for dtype is an error that names
// file, tensor and the element's flat index. The contents of dst are then
// undefined. Besides dst, memory is bounded by one chunk.
func (c *Checkpoint) Read(name string, dtype dtypes.DType, dst []byte) error {
	p, err := c.resolve(name)
	if err != nil {
		return err
	}
	if p.Info.DType != safetensors.I8 {
		return p.Read(name, dtype, dst)
	}
	to, err := p.Destination(name, dtype, dst)
	if err != nil {
		return err
	}
	return c.readDequantized(p, name, to, dst)
}

// Hash returns an identifier of the checkpoint: equal files have equal hashes. It
// is the hexadecimal SHA-256 of config.json and then of each weight file in order
// of name: its name, length, header and data. If the files are larger than 64 MiB
// together, the data are sampled: the first, the middle and the last 4 KiB of each
// tensor. The header of PyTorch's files is what precedes the first storage, which
// is their pickle. Equal weights in files of another format have another hash. The prefix is "sha256:" or "sha256-sampled:". A sampled hash
// distinguishes checkpoints (in a fine-tuned model every tensor differs), but does
// not protect against forgery.
func (c *Checkpoint) Hash() (string, error) { return c.files.Hash() }

// hash is Hash that samples checkpoints larger than whole bytes.
func (c *Checkpoint) hash(whole int64) (string, error) { return c.files.HashSampled(whole) }
