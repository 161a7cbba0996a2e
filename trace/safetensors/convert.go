package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

// Convert converts the elements of src from one type to another, both
// little-endian. The types are F16, BF16, F32 and F64, except that F64 is not
// converted to; equal types are copied. Narrowing rounds to nearest, ties to
// even, and what is too large becomes infinite. dst must have room for exactly
// the elements of src.
func Convert(dst []byte, to DType, src []byte, from DType) error {
	if from.Size() == 0 || to.Size() == 0 || len(src)%from.Size() != 0 || len(dst)%to.Size() != 0 ||
		len(src)/from.Size() != len(dst)/to.Size() {
		return fmt.Errorf("converting %d bytes of %s to %d bytes of %s", len(src), from, len(dst), to)
	}
	switch {
	case from == to:
		copy(dst, src)
	case from == BF16 && to == F32:
		widenBF16(dst, src)
	case from == F16 && to == F32:
		widenF16(dst, src)
	case from == F64 && to == F32:
		for i := 0; i+8 <= len(src); i += 8 {
			v := float32(math.Float64frombits(binary.LittleEndian.Uint64(src[i:])))
			binary.LittleEndian.PutUint32(dst[i/2:], math.Float32bits(v))
		}
	case from == F32 && to == BF16:
		for i := 0; i+4 <= len(src); i += 4 {
			binary.LittleEndian.PutUint16(dst[i/2:], roundBF16(binary.LittleEndian.Uint32(src[i:])))
		}
	case from == F32 && to == F16:
		for i := 0; i+4 <= len(src); i += 4 {
			binary.LittleEndian.PutUint16(dst[i/2:], roundF16(binary.LittleEndian.Uint32(src[i:])))
		}
	case from == F16 && to == BF16:
		for i := 0; i+2 <= len(src); i += 2 {
			binary.LittleEndian.PutUint16(dst[i:], roundBF16(f16Bits(binary.LittleEndian.Uint16(src[i:]))))
		}
	case from == BF16 && to == F16:
		for i := 0; i+2 <= len(src); i += 2 {
			binary.LittleEndian.PutUint16(dst[i:], roundF16(uint32(binary.LittleEndian.Uint16(src[i:]))<<16))
		}
	default:
		return fmt.Errorf("no conversion from %s to %s", from, to)
	}
	return nil
}

// widenBF16 writes each bfloat16 as the upper half of a float32. Blocks of fixed
// size let the compiler omit bounds checks within them.
func widenBF16(dst, src []byte) {
	for len(src) >= 32 && len(dst) >= 64 {
		s, d := (*[32]byte)(src), (*[64]byte)(dst)
		for i := 0; i < 32; i += 8 {
			x := binary.LittleEndian.Uint64(s[i : i+8])
			binary.LittleEndian.PutUint64(d[2*i:2*i+8], x<<16&0xffff0000|x<<32&0xffff0000_00000000)
			binary.LittleEndian.PutUint64(d[2*i+8:2*i+16], x>>16&0xffff0000|x&0xffff0000_00000000)
		}
		src, dst = src[32:], dst[64:]
	}
	for len(src) >= 2 && len(dst) >= 4 {
		binary.LittleEndian.PutUint32(dst, uint32(binary.LittleEndian.Uint16(src))<<16)
		src, dst = src[2:], dst[4:]
	}
}

func widenF16(dst, src []byte) {
	var wide [512]float32
	for len(src) >= 2 {
		part := wide[:min(len(wide), len(src)/2)]
		floats.Halves(part, src)
		for i, v := range part {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
		src, dst = src[2*len(part):], dst[4*len(part):]
	}
}

// f16Bits returns the float32, as bits, of a half-precision number, as bits.
func f16Bits(h uint16) uint32 { return math.Float32bits(floats.FromHalf(h)) }

// roundBF16 rounds a float32, as bits, to bfloat16.
func roundBF16(x uint32) uint16 {
	if x&0x7fffffff > 0x7f800000 { // NaN stays NaN
		return uint16(x>>16) | 0x40
	}
	return uint16((x + 0x7fff + x>>16&1) >> 16)
}

// roundF16 rounds a float32, as bits, to half precision.
func roundF16(x uint32) uint16 { return floats.ToHalf(math.Float32frombits(x)) }

// FirstNonFinite returns the index of the first NaN or infinite element of src,
// little-endian numbers of type F16, BF16, F32 or F64. It returns -1 if there is
// none, and for types that have neither.
func FirstNonFinite(src []byte, dtype DType) int {
	var exponent, one uint64 // a lane's exponent bits, and the lowest of them
	switch dtype {
	case F16:
		exponent, one = 0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400
	case BF16:
		exponent, one = 0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080
	case F32:
		exponent, one = 0x7f800000_7f800000, 0x00800000_00800000
	case F64:
		exponent, one = 0x7ff0000000000000, 0x0010000000000000
	default:
		return -1
	}
	// An exponent of all ones, plus one, carries into the lane's sign bit.
	sign := exponent + one
	const block = 1 << 12
	width := dtype.Size()
	for start := 0; start < len(src); start += block {
		chunk := src[start:min(start+block, len(src))]
		var hit uint64
		for len(chunk) >= 32 {
			a := binary.LittleEndian.Uint64(chunk)&exponent + one
			b := binary.LittleEndian.Uint64(chunk[8:])&exponent + one
			c := binary.LittleEndian.Uint64(chunk[16:])&exponent + one
			d := binary.LittleEndian.Uint64(chunk[24:])&exponent + one
			hit |= a | b | c | d
			chunk = chunk[32:]
		}
		for len(chunk) >= width {
			hit |= lane(chunk, width)&exponent + one
			chunk = chunk[width:]
		}
		if hit&sign == 0 {
			continue
		}
		for i := start; i+width <= len(src); i += width {
			if (lane(src[i:], width)&exponent+one)&sign&laneMask(width) != 0 {
				return i / width
			}
		}
	}
	return -1
}

// lane returns one little-endian element of width bytes.
func lane(p []byte, width int) uint64 {
	switch width {
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	}
	return binary.LittleEndian.Uint64(p)
}

func laneMask(width int) uint64 { return 1<<(8*width-1) | (1<<(8*width-1) - 1) }
