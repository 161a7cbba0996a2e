//go:build goexperiment.simd && amd64

package neural

import (
	"simd/archsimd"
	"unsafe"
)

var vectors = archsimd.X86.AVX2() && archsimd.X86.FMA()

// All that these loops do with x goes through its bits, in integer registers:
// one scalar SSE instruction between AVX ones would cost as in addRow's comment.

// term is a non-zero element of x: its place and its bits.
type term struct{ row, bits uint32 }

// terms is how many elements of x are worked on at once.
const terms = 128

// addRow adds x m to out: x [in], out [stride].
func (m *matrix) addRow(out, x []float32) {
	if !vectors {
		m.addPlain(out, x)
		return
	}
	// Features are often one-hot and activations cut off at 0: their zeros are
	// dropped here, once for all columns and without a branch to mispredict.
	wide := m.stride / 16 * 16 // columns in blocks of 64 and 16
	var some [terms]term
	for lo := 0; lo < len(x) && wide > 0; lo += terms {
		m.addTerms(out, nonZero(&some, x[lo:min(lo+terms, len(x))], lo))
	}
	if m.stride > wide {
		narrow(arrayAt[[8]float32](out, wide), x, m.w[wide*m.in:])
	}
	// Else every math.Exp that follows on this thread takes 3 us, not 27 ns:
	// its SSE code and registers with dirty upper halves do not go together.
	archsimd.ClearAVXUpperBits()
}

// nonZero lists the terms of x that are neither 0 nor -0; x begins at row first.
//
//go:noinline
func nonZero(some *[terms]term, x []float32, first int) []term {
	n := 0
	for i, bits := range bitsOf(x) {
		some[n%terms] = term{uint32(first + i), bits}
		if bits<<1 != 0 {
			n++
		}
	}
	return some[:n]
}

func (m *matrix) addTerms(out []float32, some []term) {
	for j := 0; j+16 <= m.stride; {
		switch width := blockWidth(m.stride - j); {
		case width == 64 && m.half != nil:
			half64(arrayAt[[64]float32](out, j), some, unsafe.Pointer(&m.half[j*m.in/2]))
			j += 64
		case width == 64:
			full64(arrayAt[[64]float32](out, j), some, unsafe.Pointer(&m.w[j*m.in]))
			j += 64
		case m.half != nil:
			half16(arrayAt[[16]float32](out, j), some, unsafe.Pointer(&m.half[j*m.in/2]))
			j += 16
		default:
			full16(arrayAt[[16]float32](out, j), some, unsafe.Pointer(&m.w[j*m.in]))
			j += 16
		}
	}
}

// arrayAt is the array that begins at s[i].
func arrayAt[A any](s []float32, i int) *A { return (*A)(unsafe.Pointer(&s[i])) }

// spread8 is a vector of eight times the float32 of bits.
func spread8(bits uint32) archsimd.Float32x8 {
	return archsimd.BroadcastInt32x8(int32(bits)).AsFloat32x8()
}

// bitsOf is x's memory as integers: a conversion of each value would load it
// into a vector register first.
func bitsOf(x []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

func load(p *[8]float32) archsimd.Float32x8 { return archsimd.LoadFloat32x8(p) }

// half64 holds 64 sums in eight registers over all terms. One operation a line
// and none in helpers: the compiler orders operations by line, and an order
// that loads all weights first needs more registers than there are.
func half64(out *[64]float32, some []term, w unsafe.Pointer) {
	a, b, c, d := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:])), load((*[8]float32)(out[16:])), load((*[8]float32)(out[24:]))
	e, f, g, h := load((*[8]float32)(out[32:])), load((*[8]float32)(out[40:])), load((*[8]float32)(out[48:])), load((*[8]float32)(out[56:]))
	upper := archsimd.BroadcastUint32x8(0xffff0000)
	for _, t := range some {
		r := (*[32]uint32)(unsafe.Add(w, uintptr(t.row)*128))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		p := archsimd.LoadUint32x8((*[8]uint32)(r[0:]))
		a = p.ShiftAllLeft(16).AsFloat32x8().MulAdd(v, a)
		b = p.And(upper).AsFloat32x8().MulAdd(v, b)
		p = archsimd.LoadUint32x8((*[8]uint32)(r[8:]))
		c = p.ShiftAllLeft(16).AsFloat32x8().MulAdd(v, c)
		d = p.And(upper).AsFloat32x8().MulAdd(v, d)
		p = archsimd.LoadUint32x8((*[8]uint32)(r[16:]))
		e = p.ShiftAllLeft(16).AsFloat32x8().MulAdd(v, e)
		f = p.And(upper).AsFloat32x8().MulAdd(v, f)
		p = archsimd.LoadUint32x8((*[8]uint32)(r[24:]))
		g = p.ShiftAllLeft(16).AsFloat32x8().MulAdd(v, g)
		h = p.And(upper).AsFloat32x8().MulAdd(v, h)
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

func half16(out *[16]float32, some []term, w unsafe.Pointer) {
	a, b := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:]))
	upper := archsimd.BroadcastUint32x8(0xffff0000)
	for _, t := range some {
		r := (*[8]uint32)(unsafe.Add(w, uintptr(t.row)*32))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		p := archsimd.LoadUint32x8((*[8]uint32)(r[0:]))
		a = p.ShiftAllLeft(16).AsFloat32x8().MulAdd(v, a)
		b = p.And(upper).AsFloat32x8().MulAdd(v, b)
	}
	a.Store((*[8]float32)(out[0:]))
	b.Store((*[8]float32)(out[8:]))
}

// full64 is half64 with weights of 32 bits.
func full64(out *[64]float32, some []term, w unsafe.Pointer) {
	a, b, c, d := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:])), load((*[8]float32)(out[16:])), load((*[8]float32)(out[24:]))
	e, f, g, h := load((*[8]float32)(out[32:])), load((*[8]float32)(out[40:])), load((*[8]float32)(out[48:])), load((*[8]float32)(out[56:]))
	for _, t := range some {
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

func full16(out *[16]float32, some []term, w unsafe.Pointer) {
	a, b := load((*[8]float32)(out[0:])), load((*[8]float32)(out[8:]))
	for _, t := range some {
		r := (*[16]float32)(unsafe.Add(w, uintptr(t.row)*64))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		a = archsimd.LoadFloat32x8((*[8]float32)(r[0:])).MulAdd(v, a)
		b = archsimd.LoadFloat32x8((*[8]float32)(r[8:])).MulAdd(v, b)
	}
	a.Store((*[8]float32)(out[0:]))
	b.Store((*[8]float32)(out[8:]))
}

// narrow adds to eight sums, each in four parts that do not wait for another.
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

// addFours does as many rows of addRows as are whole fours, and says how many.
// Its sums are those of addRow: terms of zero change none.
func (m *matrix) addFours(out, x []float32, n, outStride, xStride int) int {
	n = n / 4 * 4
	if !vectors || n == 0 {
		return 0
	}
	for j := 0; j < m.stride; {
		width := blockWidth(m.stride - j)
		for r := 0; r < n; r += 4 {
			var xs [4]unsafe.Pointer
			var to [4][]float32
			for k := range to {
				xs[k] = unsafe.Pointer(unsafe.SliceData(x[(r+k)*xStride:][:m.in]))
				to[k] = out[(r+k)*outStride+j:][:width]
			}
			switch {
			case width == 8:
				for k := range to {
					narrow((*[8]float32)(to[k]), x[(r+k)*xStride:][:m.in], m.w[j*m.in:])
				}
			case m.half != nil:
				for i := 0; i < width; i += 16 {
					halfFour(&to, &xs, i, m.in, unsafe.Pointer(&m.half[j*m.in/2+i/2]), uintptr(width)*2)
				}
			default:
				for i := 0; i < width; i += 16 {
					fullFour(&to, &xs, i, m.in, unsafe.Pointer(&m.w[j*m.in+i]), uintptr(width)*4)
				}
			}
		}
		j += width
	}
	archsimd.ClearAVXUpperBits()
	return n
}

// halfFour adds to columns at..at+16 of four rows: weights at w, step bytes a row.
func halfFour(to *[4][]float32, xs *[4]unsafe.Pointer, at, in int, w unsafe.Pointer, step uintptr) {
	t0, t1, t2, t3 := (*[16]float32)(to[0][at:]), (*[16]float32)(to[1][at:]), (*[16]float32)(to[2][at:]), (*[16]float32)(to[3][at:])
	a0, b0, a1, b1 := load((*[8]float32)(t0[0:])), load((*[8]float32)(t0[8:])), load((*[8]float32)(t1[0:])), load((*[8]float32)(t1[8:]))
	a2, b2, a3, b3 := load((*[8]float32)(t2[0:])), load((*[8]float32)(t2[8:])), load((*[8]float32)(t3[0:])), load((*[8]float32)(t3[8:]))
	x0, x1, x2, x3 := xs[0], xs[1], xs[2], xs[3]
	upper := archsimd.BroadcastUint32x8(0xffff0000)
	for i := range uintptr(in) {
		p := archsimd.LoadUint32x8((*[8]uint32)(unsafe.Add(w, i*step)))
		l := p.ShiftAllLeft(16).AsFloat32x8()
		h := p.And(upper).AsFloat32x8()
		v := archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x0, i*4))).AsFloat32x8()
		a0 = v.MulAdd(l, a0)
		b0 = v.MulAdd(h, b0)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x1, i*4))).AsFloat32x8()
		a1 = v.MulAdd(l, a1)
		b1 = v.MulAdd(h, b1)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x2, i*4))).AsFloat32x8()
		a2 = v.MulAdd(l, a2)
		b2 = v.MulAdd(h, b2)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x3, i*4))).AsFloat32x8()
		a3 = v.MulAdd(l, a3)
		b3 = v.MulAdd(h, b3)
	}
	a0.Store((*[8]float32)(t0[0:]))
	b0.Store((*[8]float32)(t0[8:]))
	a1.Store((*[8]float32)(t1[0:]))
	b1.Store((*[8]float32)(t1[8:]))
	a2.Store((*[8]float32)(t2[0:]))
	b2.Store((*[8]float32)(t2[8:]))
	a3.Store((*[8]float32)(t3[0:]))
	b3.Store((*[8]float32)(t3[8:]))
}

// fullFour is halfFour with weights of 32 bits.
func fullFour(to *[4][]float32, xs *[4]unsafe.Pointer, at, in int, w unsafe.Pointer, step uintptr) {
	t0, t1, t2, t3 := (*[16]float32)(to[0][at:]), (*[16]float32)(to[1][at:]), (*[16]float32)(to[2][at:]), (*[16]float32)(to[3][at:])
	a0, b0, a1, b1 := load((*[8]float32)(t0[0:])), load((*[8]float32)(t0[8:])), load((*[8]float32)(t1[0:])), load((*[8]float32)(t1[8:]))
	a2, b2, a3, b3 := load((*[8]float32)(t2[0:])), load((*[8]float32)(t2[8:])), load((*[8]float32)(t3[0:])), load((*[8]float32)(t3[8:]))
	x0, x1, x2, x3 := xs[0], xs[1], xs[2], xs[3]
	for i := range uintptr(in) {
		r := (*[16]float32)(unsafe.Add(w, i*step))
		l := archsimd.LoadFloat32x8((*[8]float32)(r[0:]))
		h := archsimd.LoadFloat32x8((*[8]float32)(r[8:]))
		v := archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x0, i*4))).AsFloat32x8()
		a0 = v.MulAdd(l, a0)
		b0 = v.MulAdd(h, b0)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x1, i*4))).AsFloat32x8()
		a1 = v.MulAdd(l, a1)
		b1 = v.MulAdd(h, b1)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x2, i*4))).AsFloat32x8()
		a2 = v.MulAdd(l, a2)
		b2 = v.MulAdd(h, b2)
		v = archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(x3, i*4))).AsFloat32x8()
		a3 = v.MulAdd(l, a3)
		b3 = v.MulAdd(h, b3)
	}
	a0.Store((*[8]float32)(t0[0:]))
	b0.Store((*[8]float32)(t0[8:]))
	a1.Store((*[8]float32)(t1[0:]))
	b1.Store((*[8]float32)(t1[8:]))
	a2.Store((*[8]float32)(t2[0:]))
	b2.Store((*[8]float32)(t2[8:]))
	a3.Store((*[8]float32)(t3[0:]))
	b3.Store((*[8]float32)(t3[8:]))
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
		zero.Max(load(p)).Store(p) // of two, the second when one is no number
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
