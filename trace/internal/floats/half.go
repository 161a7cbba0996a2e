// Package floats converts between float32 and binary16, one number or many at a
// time.
package floats

import (
	"encoding/binary"
	"math"
	"slices"
)

// FromHalf converts an IEEE 754 binary16 number.
func FromHalf(h uint16) float32 {
	// Exponents move from a bias of 15 to 127, those of subnormals too.
	bits := math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112)
	if h&0x7c00 == 0x7c00 {
		bits |= infinity
	}
	return math.Float32frombits(bits | uint32(h&0x8000)<<16)
}

const (
	infinity = 0x7f800000 // bits of a float32
	overflow = 0x477ff000 // 65520, the smallest that rounds to infinity
)

// ToHalf rounds to the nearest binary16 number, ties to even. Magnitudes
// of 65520 and above become infinite.
func ToHalf(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > infinity:
		return sign | 0x7e00
	case b >= overflow:
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: subnormal
		// Adding 0.5 aligns the fraction to multiples of 2^-24, rounding to even.
		r := math.Float32bits(math.Float32frombits(b) + 0.5)
		return sign | uint16(r-math.Float32bits(0.5))
	}
	return sign | uint16((b+0xfff+(b>>13&1))>>13-112<<10)
}

// Magnitude returns the bits of the largest magnitude of values, 0 if there are none.
// Bits order magnitudes as numbers do, and infinity and NaN after all of these.
func Magnitude(values []float32) uint32 {
	n, most := magnitudeWide(values)
	for _, v := range values[n:] {
		most = max(most, math.Float32bits(v)&0x7fffffff)
	}
	return most
}

// AppendHalves appends values as binary16 numbers, little-endian.
func AppendHalves(dst []byte, values []float32) []byte {
	at := len(dst)
	dst = slices.Grow(dst, 2*len(values))[:at+2*len(values)]
	b := dst[at:]
	for i := halvesWide(b, values); i < len(values); i++ {
		binary.LittleEndian.PutUint16(b[2*i:], ToHalf(values[i]))
	}
	return dst
}

// Halves decodes len(dst) binary16 numbers.
func Halves(dst []float32, b []byte) {
	b = b[:2*len(dst)]
	for i := floatsWide(dst, b); i < len(dst); i++ {
		dst[i] = FromHalf(binary.LittleEndian.Uint16(b[2*i:]))
	}
}
