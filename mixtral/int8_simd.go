//go:build goexperiment.simd && amd64

package mixtral

import (
	"simd/archsimd"
	"unsafe"
)

var avx512 = archsimd.X86.AVX512()

// int8Sums writes sums[j*4+k], whose total is the product of row k of x [N,in] and
// row j of w [rows,in] over the first done columns. n is at most 4.
func int8Sums(sums *[4 * int8Block][4]float32, x []float32, w []int8, in, n, rows int) (done int) {
	if done = in &^ 15; !avx512 || done == 0 {
		return int8SumsPlain(sums, x, w, in, n, rows)
	}
	px, pw := unsafe.Pointer(&x[0]), unsafe.Pointer(&w[0])
	j := 0
	if n == 4 {
		for ; j+2 <= rows; j += 2 {
			int8Tile((*[8][4]float32)(sums[j*4:]), px, unsafe.Add(pw, j*in), in, done)
		}
	}
	for ; j < rows; j++ {
		for k := range n {
			int8Dot(&sums[j*4+k], unsafe.Add(px, 4*k*in), unsafe.Add(pw, j*in), done)
		}
	}
	archsimd.ClearAVXUpperBits()
	return done
}

// widen loads 16 weights as float32.
func widen(p unsafe.Pointer) archsimd.Float32x16 {
	return archsimd.LoadInt8x16((*[16]int8)(p)).ExtendToInt32().ConvertToFloat32()
}

func loadWide(p unsafe.Pointer) archsimd.Float32x16 {
	return archsimd.LoadFloat32x16((*[16]float32)(p))
}

// storeSum adds the lanes of s to four and stores them.
func storeSum(to *[4]float32, s archsimd.Float32x16) {
	t := s.GetLo().Add(s.GetHi())
	t.GetLo().Add(t.GetHi()).Store(to)
}

// int8Dot sums n products, a multiple of 16, in four independent parts.
func int8Dot(to *[4]float32, x, w unsafe.Pointer, n int) {
	var a, b, c, d archsimd.Float32x16
	for ; n >= 64; n -= 64 {
		a = widen(w).MulAdd(loadWide(x), a)
		b = widen(unsafe.Add(w, 16)).MulAdd(loadWide(unsafe.Add(x, 64)), b)
		c = widen(unsafe.Add(w, 32)).MulAdd(loadWide(unsafe.Add(x, 128)), c)
		d = widen(unsafe.Add(w, 48)).MulAdd(loadWide(unsafe.Add(x, 192)), d)
		w, x = unsafe.Add(w, 64), unsafe.Add(x, 256)
	}
	for i := 0; i < n; i += 16 {
		a = widen(unsafe.Add(w, i)).MulAdd(loadWide(unsafe.Add(x, 4*i)), a)
	}
	storeSum(to, a.Add(b).Add(c.Add(d)))
}

// int8Tile sums n products, a multiple of 16, of each of 4 rows of x and 2 of w, of
// in columns.
func int8Tile(to *[8][4]float32, x, w unsafe.Pointer, in, n int) {
	var a0, a1, a2, a3, b0, b1, b2, b3 archsimd.Float32x16
	x1, x2, x3 := unsafe.Add(x, 4*in), unsafe.Add(x, 8*in), unsafe.Add(x, 12*in)
	w1 := unsafe.Add(w, in)
	for i := 0; i < n; i += 16 {
		wa, wb := widen(unsafe.Add(w, i)), widen(unsafe.Add(w1, i))
		v := loadWide(unsafe.Add(x, 4*i))
		a0, b0 = wa.MulAdd(v, a0), wb.MulAdd(v, b0)
		v = loadWide(unsafe.Add(x1, 4*i))
		a1, b1 = wa.MulAdd(v, a1), wb.MulAdd(v, b1)
		v = loadWide(unsafe.Add(x2, 4*i))
		a2, b2 = wa.MulAdd(v, a2), wb.MulAdd(v, b2)
		v = loadWide(unsafe.Add(x3, 4*i))
		a3, b3 = wa.MulAdd(v, a3), wb.MulAdd(v, b3)
	}
	storeSum(&to[0], a0)
	storeSum(&to[1], a1)
	storeSum(&to[2], a2)
	storeSum(&to[3], a3)
	storeSum(&to[4], b0)
	storeSum(&to[5], b1)
	storeSum(&to[6], b2)
	storeSum(&to[7], b3)
}
