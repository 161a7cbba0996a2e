package convert

import (
	"fmt"

	"github.com/expertspec/expertspec/trace/safetensors"
)

// intType is an integer type of a NumPy, safetensors or torch array.
type intType struct {
	size        int // in bytes
	signed, big bool
}

// intTypeOf reports whether the values of t are integers, and their type.
func intTypeOf(t safetensors.DType) (intType, bool) {
	return intType{size: t.Size(), signed: t[0] == 'I'}, t == safetensors.Bool || t[0] == 'I' || t[0] == 'U'
}

// value decodes one integer; it reports false if int64 cannot hold it.
func (t intType) value(b []byte) (int64, bool) {
	var x uint64
	for i := range t.size {
		c := b[i]
		if t.big {
			c = b[t.size-1-i]
		}
		x |= uint64(c) << (8 * i)
	}
	if t.signed {
		shift := 64 - 8*t.size
		return int64(x<<shift) >> shift, true
	}
	return int64(x), int64(x) >= 0
}

// decode fills dst with values that read delivers in order.
func (t intType) decode(dst []int32, read func(p []byte) error) error {
	const chunk = 4096
	buf := make([]byte, min(chunk, len(dst))*t.size)
	for i := 0; i < len(dst); i += chunk {
		p := buf[:min(chunk, len(dst)-i)*t.size]
		if err := read(p); err != nil {
			return err
		}
		for j := i; len(p) > 0; j, p = j+1, p[t.size:] {
			v, ok := t.value(p)
			if !ok || v != int64(int32(v)) {
				return fmt.Errorf("value %d does not fit 32 bits", j)
			}
			dst[j] = int32(v)
		}
	}
	return nil
}
