package checkpoint

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

// ChunkSize is the number of bytes of a file that are read at a time: few enough
// to stay in the processor's cache until they are checked.
const ChunkSize = 256 << 10

// stridedSize is the size of a chunk of a strided tensor (see safetensors.Info).
const stridedSize = 4 << 20

// chunkSize returns the size of the tensor's chunks.
func (p Part) chunkSize() int {
	if p.Info.Strided {
		return stridedSize
	}
	return ChunkSize
}

// chunks is memory for a chunk.
var chunks = sync.Pool{New: func() any { return new([ChunkSize]byte) }}

// StoredTypes are the types that Read converts to.
var StoredTypes = map[dtypes.DType]safetensors.DType{
	dtypes.Float32:  safetensors.F32,
	dtypes.Float16:  safetensors.F16,
	dtypes.BFloat16: safetensors.BF16,
}

// Destination returns the file type of dtype, and an error unless dst has exactly the
// size of the tensor in it.
func (p Part) Destination(name string, dtype dtypes.DType, dst []byte) (safetensors.DType, error) {
	to, ok := StoredTypes[dtype]
	if !ok {
		return "", p.Errorf(name, "cannot be read as %s", dtype)
	}
	if len(dst) != p.Elements()*to.Size() {
		return "", p.Errorf(name, "shape %v as %s needs %d bytes, the destination has %d",
			p.Shape, dtype, p.Elements()*to.Size(), len(dst))
	}
	return to, nil
}

// Read fills dst with the elements of a tensor of F32, F16 or BF16 as dtype, row-major
// and little-endian. name is the requested one, for errors. An element that is NaN,
// infinite or too large for dtype is an error with its flat index. Besides dst, memory
// is bounded by one chunk.
func (p Part) Read(name string, dtype dtypes.DType, dst []byte) error {
	to, err := p.Destination(name, dtype, dst)
	if err != nil {
		return err
	}
	from := p.Info.DType
	if from == to {
		return p.readSame(name, dst)
	}
	pooled := chunks.Get().(*[ChunkSize]byte)
	defer chunks.Put(pooled)
	scratch := pooled[:]
	if p.Info.Strided {
		scratch = make([]byte, min(p.chunkSize(), p.Elements()*from.Size()))
	}
	step := p.chunkSize() / from.Size()
	for first := 0; len(dst) > 0; first += step {
		n := min(step, len(dst)/to.Size())
		raw := scratch[:n*from.Size()]
		if err := p.ReadChunk(name, raw, first); err != nil {
			return err
		}
		out := dst[:n*to.Size()]
		if err := safetensors.Convert(out, to, raw, from); err != nil {
			return p.Errorf(name, "%w", err)
		}
		if to.Size() == 2 { // of smaller range
			if i := safetensors.FirstNonFinite(out, to); i >= 0 {
				return p.Errorf(name, "element %d is too large for %s", first+i, dtype)
			}
		}
		dst = dst[len(out):]
	}
	return nil
}

// readSame reads a tensor whose type needs no conversion.
func (p Part) readSame(name string, dst []byte) error {
	for first := 0; len(dst) > 0; first += p.chunkSize() / p.Info.DType.Size() {
		chunk := dst[:min(p.chunkSize(), len(dst))]
		if err := p.ReadChunk(name, chunk, first); err != nil {
			return err
		}
		dst = dst[len(chunk):]
	}
	return nil
}

// ReadChunk reads and checks the elements that begin at first.
func (p Part) ReadChunk(name string, raw []byte, first int) error {
	offset := p.Offset + int64(first)*int64(p.Info.DType.Size())
	if err := p.File.ReadAt(p.Info.Name, raw, offset); err != nil {
		return err
	}
	if i := safetensors.FirstNonFinite(raw, p.Info.DType); i >= 0 {
		return p.Errorf(name, "element %d is NaN or infinite", first+i)
	}
	return nil
}

// Errorf names the file, the tensor as stored, and the requested one.
func (p Part) Errorf(name, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if name != p.Info.Name {
		err = fmt.Errorf("read as %s: %w", name, err)
	}
	return &safetensors.Error{File: p.File.Name(), Tensor: p.Info.Name, Err: err}
}

// Limits of Hash, in bytes.
const (
	HashWhole  = 64 << 20 // larger checkpoints are sampled
	HashSample = 4 << 10  // size of a sample, at three places of each tensor
)

// Hash returns the hexadecimal SHA-256 of config.json and of each weight file in order
// of name: its name, length, header and data, of which only samples are read if the
// files are larger than 64 MiB together. The prefix is "sha256:" or "sha256-sampled:".
func (c *Files) Hash() (string, error) { return c.HashSampled(HashWhole) }

// HashSampled is Hash that samples checkpoints larger than whole bytes.
func (c *Files) HashSampled(whole int64) (string, error) {
	var total int64
	for _, file := range c.Shards {
		total += file.Size()
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", ConfigFile, len(c.Text))
	h.Write(c.Text)
	for _, file := range c.Shards {
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
	var buffer [HashSample]byte
	for _, t := range file.Tensors() {
		n := min(HashSample, t.Size)
		for _, offset := range []int64{0, (t.Size - n) / 2, t.Size - n} {
			if err := file.ReadAt(t.Name, buffer[:n], offset); err != nil {
				return err
			}
			h.Write(buffer[:n])
		}
	}
	return nil
}
