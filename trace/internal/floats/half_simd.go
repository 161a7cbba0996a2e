//go:build goexperiment.simd && amd64

package floats

import (
	"simd/archsimd"
	"unsafe"
)

var vectors = archsimd.X86.AVX2()

// magnitudeWide is Magnitude of the first n values.
func magnitudeWide(values []float32) (n int, most uint32) {
	if !vectors || len(values) < 16 {
		return 0, 0
	}
	sign := archsimd.BroadcastUint32x8(0x7fffffff)
	var a, b archsimd.Uint32x8
	for ; n+16 <= len(values); n += 16 {
		block := (*[16]uint32)(unsafe.Pointer(&values[n]))
		a = a.Max(archsimd.LoadUint32x8((*[8]uint32)(block[:8])).And(sign))
		b = b.Max(archsimd.LoadUint32x8((*[8]uint32)(block[8:])).And(sign))
	}
	var lanes [8]uint32
	a.Max(b).Store(&lanes)
	archsimd.ClearAVXUpperBits()
	for _, v := range lanes {
		most = max(most, v)
	}
	return n, most
}

// halvesWide converts the first values to the front of dst, as ToHalf
// does, and returns how many.
func halvesWide(dst []byte, values []float32) int {
	if !vectors {
		return 0
	}
	n := len(values) / 8 * 8
	dst = dst[:2*len(values)]
	low, loss := archsimd.BroadcastUint32x8(0x7fffffff), archsimd.BroadcastUint32x8(overflow)
	one, round := archsimd.BroadcastUint32x8(1), archsimd.BroadcastUint32x8(0xfff)
	bias, sign := archsimd.BroadcastUint32x8(112<<10), archsimd.BroadcastUint32x8(0x8000)
	half, halfBits := archsimd.BroadcastFloat32x8(0.5), archsimd.BroadcastUint32x8(0x3f000000)
	normal, number := archsimd.BroadcastInt32x8(0x38800000-1), archsimd.BroadcastInt32x8(infinity)
	none := archsimd.BroadcastUint32x8(0x7e00)
	for i := 0; i < n; i += 8 {
		x := archsimd.LoadUint32x8((*[8]uint32)(unsafe.Pointer(&values[i])))
		b := x.And(low)
		m := b.Min(loss)
		h := m.Add(round).Add(m.ShiftAllRight(13).And(one)).ShiftAllRight(13).Sub(bias)
		small := b.AsFloat32x8().Add(half).AsUint32x8().Sub(halfBits)
		h = h.Merge(small, b.AsInt32x8().Greater(normal))
		h = none.Merge(h, b.AsInt32x8().Greater(number))
		h = h.Or(x.ShiftAllRight(16).And(sign))
		s := h.AsInt32x8()
		s.GetLo().SaturateToUint16Concat(s.GetHi()).Store((*[8]uint16)(unsafe.Pointer(&dst[2*i])))
	}
	archsimd.ClearAVXUpperBits()
	return n
}

// floatsWide converts the first values of b, as FromHalf does, and returns
// how many.
func floatsWide(dst []float32, b []byte) int {
	if !vectors {
		return 0
	}
	n := len(dst) / 8 * 8
	b = b[:2*len(dst)]
	low, sign := archsimd.BroadcastUint32x8(0x7fff), archsimd.BroadcastUint32x8(0x8000)
	scale := archsimd.BroadcastFloat32x8(0x1p112)
	finite, inf := archsimd.BroadcastInt32x8(0x0f800000-1), archsimd.BroadcastUint32x8(infinity)
	for i := 0; i < n; i += 8 {
		h := archsimd.LoadUint16x8((*[8]uint16)(unsafe.Pointer(&b[2*i]))).ExtendToUint32()
		m := h.And(low).ShiftAllLeft(13)
		f := m.AsFloat32x8().Mul(scale).AsUint32x8()
		f = f.Or(m.AsInt32x8().Greater(finite).ToInt32x8().AsUint32x8().And(inf))
		f = f.Or(h.And(sign).ShiftAllLeft(16))
		f.Store((*[8]uint32)(unsafe.Pointer(&dst[i])))
	}
	archsimd.ClearAVXUpperBits()
	return n
}
