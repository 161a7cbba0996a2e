package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Rounding and widening agree with PyTorch on numbers whose rounding is
// delicate: ties, subnormals, overflow, infinities, both zeros.
func TestConvertAsTorch(t *testing.T) {
	f, err := Open(os.DirFS("testdata"), "python.safetensors")
	require.NoError(t, err)
	defer f.Close()
	raw := func(name string) []byte {
		info, ok := f.Info(name)
		require.True(t, ok, name)
		b := make([]byte, info.Size)
		require.NoError(t, f.Read(name, b))
		return b
	}
	wide := raw("round.f32")
	for _, to := range []DType{BF16, F16} {
		want := raw(map[DType]string{BF16: "round.bf16", F16: "round.f16"}[to])
		got := make([]byte, len(want))
		require.NoError(t, Convert(got, to, wide, F32))
		for i := 0; i < len(got); i += 2 {
			g, w := binary.LittleEndian.Uint16(got[i:]), binary.LittleEndian.Uint16(want[i:])
			assert.Equal(t, w, g, "%#08x to %s is %#04x, expected %#04x as torch", binary.LittleEndian.Uint32(wide[2*i:]), to, g, w)
		}
	}
}

// Every 16-bit number widens to its value, computed here from the definition.
func TestWiden(t *testing.T) {
	for dtype, format := range map[DType]struct{ mantissa, bias int }{F16: {10, 15}, BF16: {7, 127}} {
		src := make([]byte, 2<<16)
		for h := range 1 << 16 {
			binary.LittleEndian.PutUint16(src[2*h:], uint16(h))
		}
		dst := make([]byte, 4<<16)
		require.NoError(t, Convert(dst, F32, src, dtype))
		ones := 1<<(15-format.mantissa) - 1
		for h := range 1 << 16 {
			got := math.Float32frombits(binary.LittleEndian.Uint32(dst[4*h:]))
			exponent, fraction := h>>format.mantissa&ones, h&(1<<format.mantissa-1)
			var want float64
			switch {
			case exponent == ones && fraction != 0:
				require.NotEqual(t, got, got, "%s %#04x is %v, not NaN", dtype, h, got)
				continue
			case exponent == ones:
				want = math.Inf(1)
			case exponent == 0:
				want = math.Ldexp(float64(fraction), 1-format.bias-format.mantissa)
			default:
				want = math.Ldexp(float64(fraction+1<<format.mantissa), exponent-format.bias-format.mantissa)
			}
			if h>>15 == 1 {
				want = -want
			}
			require.Equal(t, want, float64(got), "%s %#04x is %v, expected %v", dtype, h, got, want)
			require.Equal(t, (h>>15 == 1), math.Signbit(float64(got)), "%s %#04x is %v, expected %v", dtype, h, got, want)
		}
		// Narrowing restores what was widened.
		back := make([]byte, len(src))
		require.NoError(t, Convert(back, dtype, dst, F32))
		for h := range 1 << 16 {
			got := int(binary.LittleEndian.Uint16(back[2*h:]))
			nan := h>>format.mantissa&ones == ones && h&(1<<format.mantissa-1) != 0
			require.False(t, got != h && !(nan && got>>format.mantissa&ones == ones && got&(1<<format.mantissa-1) != 0), "%s %#04x comes back as %#04x", dtype, h, got)
		}
	}
}

// Every length comes out whole: no loop over words forgets the rest.
func TestConvertLengths(t *testing.T) {
	for n := range 70 {
		src := make([]byte, 2*n)
		for i := range n {
			binary.LittleEndian.PutUint16(src[2*i:], uint16(0x3f80+i))
		}
		dst := make([]byte, 4*n)
		require.NoError(t, Convert(dst, F32, src, BF16))
		for i := range n {
			require.Equal(t, uint32(0x3f80+i)<<16, binary.LittleEndian.Uint32(dst[4*i:]))
		}
	}
	for _, err := range []error{
		Convert(make([]byte, 4), F32, make([]byte, 4), BF16),
		Convert(make([]byte, 4), F32, make([]byte, 3), BF16),
		Convert(make([]byte, 4), F32, make([]byte, 1), "F4"),
		Convert(make([]byte, 4), I32, make([]byte, 4), F32),
		Convert(make([]byte, 8), F64, make([]byte, 4), F32),
	} {
		assert.Error(t, err, "no error")
	}
}

// FirstNonFinite finds each kind of bad number at each place, and takes none of
// the largest finite numbers for one.
func TestFirstNonFinite(t *testing.T) {
	kinds := []struct {
		dtype       DType
		fine, wrong []uint64
	}{
		{F16, []uint64{0, 0x8000, 0x7bff, 0xfbff, 1, 0x83ff}, []uint64{0x7c00, 0xfc00, 0x7c01, 0xffff, 0x7e00}},
		{BF16, []uint64{0, 0x8000, 0x7f7f, 0xff7f, 1, 0x807f}, []uint64{0x7f80, 0xff80, 0x7f81, 0xffff, 0x7fc0}},
		{F32, []uint64{0, 1 << 31, 0x7f7fffff, 0xff7fffff, 1}, []uint64{0x7f800000, 0xff800000, 0x7f800001, 0xffffffff}},
		{F64, []uint64{0, 1 << 63, 0x7fefffffffffffff, 0xffefffffffffffff}, []uint64{0x7ff0000000000000, 0xfff0000000000000, 0x7ff0000000000001}},
	}
	put := func(p []byte, width int, x uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], x)
		copy(p[:width], b[:])
	}
	for _, k := range kinds {
		width := k.dtype.Size()
		for _, n := range []int{0, 1, 2, 3, 7, 16, 33, 4096/width + 5} {
			b := make([]byte, n*width)
			for i := range n {
				put(b[i*width:], width, k.fine[i%len(k.fine)])
			}
			require.Equal(t, -1, FirstNonFinite(b, k.dtype), "%s, %d fine numbers", k.dtype, n)
			for i := range n {
				if n > 100 && i > 40 && i < n-40 {
					continue
				}
				old := make([]byte, width)
				copy(old, b[i*width:])
				put(b[i*width:], width, k.wrong[i%len(k.wrong)])
				require.Equal(t, i, FirstNonFinite(b, k.dtype), "%s, %d numbers, a bad one at %d", k.dtype, n, i)
				copy(b[i*width:], old)
			}
		}
	}
	assert.Equal(t, -1, FirstNonFinite([]byte{0xff, 0xff, 0xff, 0xff}, I32))
}

func BenchmarkConvert(b *testing.B) {
	const n = 64 << 10
	for _, c := range []struct{ from, to DType }{{BF16, F32}, {F16, F32}, {F32, BF16}, {F32, F16}, {F16, BF16}} {
		b.Run(fmt.Sprintf("%s-%s", c.from, c.to), func(b *testing.B) {
			src, dst := make([]byte, n*c.from.Size()), make([]byte, n*c.to.Size())
			for i := range src {
				src[i] = byte(i * 7 & 0x3f)
			}
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				require.NoError(b, Convert(dst, c.to, src, c.from))
			}
		})
	}
}

func BenchmarkFirstNonFinite(b *testing.B) {
	for _, dtype := range []DType{BF16, F32} {
		b.Run(string(dtype), func(b *testing.B) {
			src := make([]byte, 256<<10)
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				require.Less(b, FirstNonFinite(src, dtype), 0)
			}
		})
	}
}
