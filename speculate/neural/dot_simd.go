//go:build goexperiment.simd && amd64

package neural

import (
	"simd/archsimd"
	"unsafe"
)

// vectors reports whether the CPU has the instructions that the kernels use.
var vectors = archsimd.X86.AVX2() && archsimd.X86.FMA()

// The loops below load elements of x as integers: a scalar SSE instruction between
// AVX ones is slow, see addRow.

// chunk is the number of elements of x that are processed at once.
const chunk = 128

// term is a non-zero element of x: its row in the matrix and its bits.
type term struct{ row, bits uint32 }

// addRow adds x m to out: x [in], out [stride].
func (m *matrix) addRow(out, x []float32) {
	switch {
	case !vectors:
		m.addPlain(out, x)
		return
	case m.words != nil:
		m.addBytes(out, x)
	default:
		wide := m.stride / 16 * 16 // columns in blocks of 64 and 16
		var some [chunk]term
		for lo := 0; lo < m.in && wide > 0; lo += chunk {
			m.addTerms(out[:wide], nonZero(&some, x[lo:min(lo+chunk, m.in)], lo))
		}
		if m.stride > wide {
			narrow(arrayAt[[8]float32](out, wide), x, m.w[wide*m.in:])
		}
	}
	// Without this every math.Exp that follows on this thread takes 3 us in place of
	// 27 ns, since SSE code is slow while upper halves of registers are in use.
	archsimd.ClearAVXUpperBits()
}

func (m *matrix) addTerms(out []float32, list []term) {
	for j := 0; j < len(out); {
		w := unsafe.Pointer(&m.w[j*m.in])
		if len(out)-j >= 64 {
			full64(arrayAt[[64]float32](out, j), list, w)
			j += 64
		} else {
			full16(arrayAt[[16]float32](out, j), list, w)
			j += 16
		}
	}
}

// nonZero returns the elements of x that are neither 0 nor -0; first is the row of
// x[0]. Features are often one-hot and activations often 0. Their zeros are dropped
// here once for all columns, and without a branch that could be mispredicted.
//
//go:noinline
func nonZero(some *[chunk]term, x []float32, first int) []term {
	n := uint(0)
	for i, bits := range bitsOf(x) {
		some[n%chunk] = term{uint32(first + i), bits}
		if bits<<1 != 0 {
			n++
		}
	}
	return some[:n]
}

// arrayAt returns the array that begins at s[i].
func arrayAt[A any](s []float32, i int) *A { return (*A)(unsafe.Pointer(&s[i])) }

// spread8 returns a vector of eight times the float32 of bits.
func spread8(bits uint32) archsimd.Float32x8 {
	return archsimd.BroadcastInt32x8(int32(bits)).AsFloat32x8()
}

// bitsOf returns x's memory as integers. Converting each value would load it into a
// vector register first.
func bitsOf(x []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

func load(p *[8]float32) archsimd.Float32x8 { return archsimd.LoadFloat32x8(p) }

// full64 adds to 64 sums, held in eight registers, for weights of 32 bits.
func full64(out *[64]float32, list []term, w unsafe.Pointer) {
	a, b, c, d := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:])), load((*[8]float32)(out[16:])), load((*[8]float32)(out[24:]))
	e, f, g, h := load((*[8]float32)(out[32:])), load((*[8]float32)(out[40:])), load((*[8]float32)(out[48:])), load((*[8]float32)(out[56:]))
	for _, t := range list {
		r := (*[64]float32)(unsafe.Add(w, uintptr(t.row)*256))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		a = archsimd.LoadFloat32x8((*[8]float32)(r[0:])).MulAdd(v, a)
		b = archsimd.LoadFloat32x8((*[8]float32)(r[8:])).MulAdd(v, b)
		c = archsimd.LoadFloat32x8((*[8]float32)(r[16:])).MulAdd(v, c)
		d = archsimd.LoadFloat32x8((*[8]float32)(r[24:])).MulAdd(v, d)
		e = archsimd.LoadFloat32x8((*[8]float32)(r[32:])).MulAdd(v, e)
		f = archsimd.LoadFloat32x8((*[8]float32)(r[40:])).MulAdd(v, f)
		g = archsimd.LoadFloat32x8((*[8]float32)(r[48:])).MulAdd(v, g)
		h = archsimd.LoadFloat32x8((*[8]float32)(r[56:])).MulAdd(v, h)
	}
	a.Store((*[8]float32)(out[0:]))
	b.Store((*[8]float32)(out[8:]))
	c.Store((*[8]float32)(out[16:]))
	d.Store((*[8]float32)(out[24:]))
	e.Store((*[8]float32)(out[32:]))
	f.Store((*[8]float32)(out[40:]))
	g.Store((*[8]float32)(out[48:]))
	h.Store((*[8]float32)(out[56:]))
}

func full16(out *[16]float32, list []term, w unsafe.Pointer) {
	a, b := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:]))
	for _, t := range list {
		r := (*[16]float32)(unsafe.Add(w, uintptr(t.row)*64))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		a = archsimd.LoadFloat32x8((*[8]float32)(r[0:])).MulAdd(v, a)
		b = archsimd.LoadFloat32x8((*[8]float32)(r[8:])).MulAdd(v, b)
	}
	a.Store((*[8]float32)(out[0:]))
	b.Store((*[8]float32)(out[8:]))
}

// narrow adds to eight sums, each in four independent parts.
func narrow(out *[8]float32, x, w []float32) {
	var zero archsimd.Float32x8
	a, b, c, d := load(out), zero, zero, zero
	bits := bitsOf(x)
	for ; len(bits) >= 4; bits, w = bits[4:], w[32:] {
		r := (*[32]float32)(w)
		a = load((*[8]float32)(r[0:])).MulAdd(spread8(bits[0]), a)
		b = load((*[8]float32)(r[8:])).MulAdd(spread8(bits[1]), b)
		c = load((*[8]float32)(r[16:])).MulAdd(spread8(bits[2]), c)
		d = load((*[8]float32)(r[24:])).MulAdd(spread8(bits[3]), d)
	}
	for i, u := range bits {
		a = load((*[8]float32)(w[i*8:])).MulAdd(spread8(u), a)
	}
	a.Add(b).Add(c.Add(d)).Store(out)
}

// relu replaces x [n*8] by max(x, 0).
func relu(x []float32) {
	if !vectors {
		reluPlain(x)
		return
	}
	var zero archsimd.Float32x8
	for ; len(x) >= 8; x = x[8:] {
		p := (*[8]float32)(x)
		zero.Max(load(p)).Store(p) // NaN if x is
	}
	archsimd.ClearAVXUpperBits()
}

// addRelu adds max(g, 0) to h, [n*8].
func addRelu(h, g []float32) {
	if !vectors {
		addReluPlain(h, g)
		return
	}
	var zero archsimd.Float32x8
	for ; len(h) >= 8 && len(g) >= 8; h, g = h[8:], g[8:] {
		p := (*[8]float32)(h)
		zero.Max(load((*[8]float32)(g))).Add(load(p)).Store(p)
	}
	archsimd.ClearAVXUpperBits()
}
