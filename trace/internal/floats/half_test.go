package floats

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestHalf converts all binary16 numbers there and back, and what lies between.
func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		f := FromHalf(uint16(h))
		if f != f {
			got := ToHalf(f)
			assert.Equal(t, uint16(0x7c00), got&0x7c00, "NaN %04x becomes %04x", h, got)
			assert.NotEqual(t, uint16(0), got&0x3ff, "NaN %04x becomes %04x", h, got)
			continue
		}
		require.Equal(t, uint16(h), ToHalf(f))
		// Halfway to the next larger magnitude goes to the even one.
		if next := FromHalf(uint16(h + 1)); h&0x7fff < 0x7bff {
			middle := (f + next) / 2
			require.Equal(t, uint16(h+h&1), ToHalf(middle))
			require.Equal(t, uint16(h), ToHalf(math.Nextafter32(middle, f)))
		}
	}
	for f, want := range map[float32]uint16{1: 0x3c00, -2: 0xc000, 65504: 0x7bff, 65519: 0x7bff, 65520: 0x7c00,
		-1e9: 0xfc00, 5.9604645e-08: 1, 2.9802322e-08: 0} {
		assert.Equal(t, want, ToHalf(f))
	}
}

// TestHalves compares the conversions of slices, which may work on several
// values at once, with those of single values: all binary16 numbers, and float32
// numbers of all exponents, from slices of all lengths and alignments.
func TestHalves(t *testing.T) {
	b := make([]byte, 2<<16)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(b[2*h:], uint16(h))
	}
	floats := make([]float32, 1<<16)
	Halves(floats, b)
	for h, f := range floats {
		require.Equal(t, math.Float32bits(FromHalf(uint16(h))), math.Float32bits(f))
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 1 << 16 {
		floats = append(floats, math.Float32frombits(rng.Uint32()))
	}
	for e := range uint32(256) {
		for _, low := range []uint32{0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x3000, 0x7fefff, 0x7ff000, 0x7fffff} {
			floats = append(floats, math.Float32frombits(e<<23|low), -math.Float32frombits(e<<23|low))
		}
	}
	for i, x := range appendAll(floats) {
		require.Equal(t, ToHalf(floats[i]), x)
	}
	for n := range 40 {
		for from := range 5 {
			part := floats[0x3c00+from:][:n]
			back := make([]float32, n)
			Halves(back, AppendHalves([]byte("odd"), part)[3:])
			var most uint32
			for i, v := range part {
				most = max(most, math.Float32bits(v)&0x7fffffff)
				require.Equal(t, v, back[i], "value %d of %d from %d: %g, expected %g", i, n, from, back[i], v)
			}
			require.Equal(t, most, Magnitude(part), "magnitude of %d from %d", n, from)
		}
	}
}

func appendAll(floats []float32) []uint16 {
	b := AppendHalves(nil, floats)
	list := make([]uint16, len(floats))
	for i := range list {
		list[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return list
}

// TestMagnitude finds the largest wherever it is.
func TestMagnitude(t *testing.T) {
	for n := range 70 {
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(i%3) - 1
		}
		for i := range values {
			for _, v := range []float32{-7, float32(math.Inf(-1)), float32(math.NaN())} {
				old := values[i]
				values[i] = v
				got, want := Magnitude(values), math.Float32bits(v)&0x7fffffff
				require.Equal(t, want, got, "%d values, %g at %d: %x, expected %x", n, v, i, got, want)
				values[i] = old
			}
		}
	}
}

func BenchmarkHalves(b *testing.B) {
	values := make([]float32, 1<<16)
	for i := range values {
		values[i] = float32(i) / 777
	}
	var raw []byte
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(4 << 16)
		for b.Loop() {
			raw = AppendHalves(raw[:0], values)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(4 << 16)
		for b.Loop() {
			Halves(values, raw)
		}
	})
	b.Run("magnitude", func(b *testing.B) {
		b.SetBytes(4 << 16)
		for b.Loop() {
			Magnitude(values)
		}
	})
}
