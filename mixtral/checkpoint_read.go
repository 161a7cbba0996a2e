package mixtral

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// chunkSize is the number of bytes of a file that are read at a time: few enough
// to stay in the processor's cache until they are checked.
const chunkSize = 256 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// storedTypes are the types that Read converts to.
var storedTypes = map[dtypes.DType]safetensors.DType{
	dtypes.Float32:  safetensors.F32,
	dtypes.Float16:  safetensors.F16,
	dtypes.BFloat16: safetensors.BF16,
}

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
	to, ok := storedTypes[dtype]
	if !ok {
		return p.errorf(name, "cannot be read as %s", dtype)
	}
	if len(dst) != p.elements()*to.Size() {
		return p.errorf(name, "shape %v as %s needs %d bytes, the destination has %d",
			p.shape, dtype, p.elements()*to.Size(), len(dst))
	}
	from := p.info.DType
	if from == safetensors.I8 {
		return c.readDequantized(p, name, to, dst)
	}
	if from == to {
		return p.readSame(name, dst)
	}
	scratch := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(scratch)
	step := chunkSize / from.Size()
	for first := 0; len(dst) > 0; first += step {
		n := min(step, len(dst)/to.Size())
		raw := scratch[:n*from.Size()]
		if err := p.readChunk(name, raw, first); err != nil {
			return err
		}
		out := dst[:n*to.Size()]
		if err := safetensors.Convert(out, to, raw, from); err != nil {
			return p.errorf(name, "%w", err)
		}
		if to.Size() == 2 { // of smaller range
			if i := safetensors.FirstNonFinite(out, to); i >= 0 {
				return p.errorf(name, "element %d is too large for %s", first+i, dtype)
			}
		}
		dst = dst[len(out):]
	}
	return nil
}

// readSame reads a tensor whose type needs no conversion.
func (p part) readSame(name string, dst []byte) error {
	for first := 0; len(dst) > 0; first += chunkSize / p.info.DType.Size() {
		chunk := dst[:min(chunkSize, len(dst))]
		if err := p.readChunk(name, chunk, first); err != nil {
			return err
		}
		dst = dst[len(chunk):]
	}
	return nil
}

// readChunk reads and checks the elements that begin at first.
func (p part) readChunk(name string, raw []byte, first int) error {
	offset := p.offset + int64(first)*int64(p.info.DType.Size())
	if err := p.file.ReadAt(p.info.Name, raw, offset); err != nil {
		return err
	}
	if i := safetensors.FirstNonFinite(raw, p.info.DType); i >= 0 {
		return p.errorf(name, "element %d is NaN or infinite", first+i)
	}
	return nil
}

// errorf names the file, the tensor as stored, and the requested one.
func (p part) errorf(name, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if name != p.info.Name {
		err = fmt.Errorf("read as %s: %w", name, err)
	}
	return &safetensors.Error{File: p.file.Name(), Tensor: p.info.Name, Err: err}
}

// Limits of Hash, in bytes.
const (
	hashWhole  = 64 << 20 // larger checkpoints are sampled
	hashSample = 4 << 10  // size of a sample, at three places of each tensor
)

// Hash returns an identifier of the checkpoint: equal files have equal hashes. It
// is the hexadecimal SHA-256 of config.json and then of each weight file in order
// of name: its name, length, header and data. If the files are larger than 64 MiB
// together, the data are sampled: the first, the middle and the last 4 KiB of each
// tensor. The prefix is "sha256:" or "sha256-sampled:". A sampled hash
// distinguishes checkpoints (in a fine-tuned model every tensor differs), but does
// not protect against forgery.
func (c *Checkpoint) Hash() (string, error) { return c.hash(hashWhole) }

// hash is Hash that samples checkpoints larger than whole bytes.
func (c *Checkpoint) hash(whole int64) (string, error) {
	var total int64
	for _, file := range c.shards {
		total += file.Size()
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", configFile, len(c.text))
	h.Write(c.text)
	for _, file := range c.shards {
		fmt.Fprintf(h, "%s %d\n", file.Name(), file.Size())
		n := file.Size()
		if total > whole {
			n = file.DataOffset()
		}
		if got, err := io.Copy(h, io.NewSectionReader(file.File(), 0, n)); err != nil || got != n {
			return "", &safetensors.Error{File: file.Name(), Err: fmt.Errorf("read %d of %d bytes: %w", got, n, err)}
		}
		if total > whole {
			if err := hashSamples(h, file); err != nil {
				return "", err
			}
		}
	}
	prefix := "sha256:"
	if total > whole {
		prefix = "sha256-sampled:"
	}
	return prefix + hex.EncodeToString(h.Sum(nil)), nil
}

func hashSamples(h hash.Hash, file *safetensors.Reader) error {
	var buffer [hashSample]byte
	for _, t := range file.Tensors() {
		n := min(hashSample, t.Size)
		for _, offset := range []int64{0, (t.Size - n) / 2, t.Size - n} {
			if err := file.ReadAt(t.Name, buffer[:n], offset); err != nil {
				return err
			}
			h.Write(buffer[:n])
		}
	}
	return nil
}
