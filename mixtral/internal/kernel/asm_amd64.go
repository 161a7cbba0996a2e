package kernel

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

var best = detect()

// detect returns the best level of the processor. GODEBUG=cpu.avx512f=off or
// cpu.all=off switch levels off.
func detect() int {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA:
		return plain
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512VL || !x.HasAVX512DQ:
		return avx2
	case !x.HasAVX512BF16:
		return avx512
	}
	return avx512BF16
}

// tile2 and tile1 compute a Tile.
func tile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool) {
	if level >= avx512 {
		tile2AVX512(y, x, w, ys, xs, xk, ws, wk, k, add)
		return
	}
	tile1(y, x, w, xk, ws, wk, k, add)
	tile1(offset(y, ys), offset(x, xs), w, xk, ws, wk, k, add)
}

func tile1(y, x, w *float32, xk, ws, wk, k int, add bool) {
	if level >= avx512 {
		tile1AVX512(y, x, w, xk, ws, wk, k, add)
		return
	}
	tile6AVX2(y, x, w, xk, ws, wk, k, add)
	tile6AVX2(offset(y, 6*4*Lanes), x, offset(w, 6*ws), xk, ws, wk, k, add)
}

func offset(p *float32, bytes int) *float32 { return (*float32)(unsafe.Add(unsafe.Pointer(p), bytes)) }

// The other functions return how many of their n vectors, values or k columns they
// computed; their callers compute the rest.

func dotsF32(y, x, w *float32, ws, k int) int {
	switch {
	case level >= avx512:
		dotsF32AVX512(y, x, w, ws, k)
		return k
	case level == avx2:
		k &^= 15
		dotsF32AVX2(y, x, w, ws, k)
		return k
	}
	return 0
}

func dotsBF16(y, x *float32, w *uint16, ws, k int) int {
	switch {
	case level >= avx512:
		dotsBF16AVX512(y, x, w, ws, k)
		return k
	case level == avx2:
		k &^= 15
		dotsBF16AVX2(y, x, w, ws, k)
		return k
	}
	return 0
}

func dotsI8(y, x *float32, w *int8, ws, k int) int {
	switch {
	case level >= avx512:
		dotsI8AVX512(y, x, w, ws, k)
		return k
	case level == avx2:
		k &^= 15
		dotsI8AVX2(y, x, w, ws, k)
		return k
	}
	return 0
}

func widenBF16(dst *float32, src *uint16, n int) int {
	switch {
	case level >= avx512:
		widenBF16AVX512(dst, src, n)
		return n
	case level == avx2:
		n &^= 7
		widenBF16AVX2(dst, src, n)
		return n
	}
	return 0
}

func widenI8(dst *float32, src *int8, scale float32, n int) int {
	switch {
	case level >= avx512:
		widenI8AVX512(dst, src, scale, n)
		return n
	case level == avx2:
		n &^= 7
		widenI8AVX2(dst, src, scale, n)
		return n
	}
	return 0
}

func expPanel(x *float32, n int, top, sum *float32) int {
	switch {
	case level >= avx512:
		expPanelAVX512(x, n, top, sum)
		return n
	case level == avx2:
		expPanelAVX2(x, n, top, sum)
		return n
	}
	return 0
}

func maxPanel(x *float32, n int, top *float32) int {
	switch {
	case level >= avx512:
		maxPanelAVX512(x, n, top)
		return n
	case level == avx2:
		maxPanelAVX2(x, n, top)
		return n
	}
	return 0
}

func swiglu(y, gate, up *float32, n int) int {
	switch {
	case level >= avx512:
		swigluAVX512(y, gate, up, n)
		return n
	case level == avx2:
		n &^= 7
		swigluAVX2(y, gate, up, n)
		return n
	}
	return 0
}

func rotate(a, b, lo, hi, cos, sin *float32, n int) int {
	switch {
	case level >= avx512:
		rotateAVX512(a, b, lo, hi, cos, sin, n)
		return n
	case level == avx2:
		rotateAVX2(a, b, lo, hi, cos, sin, n)
		return n
	}
	return 0
}

func squares(x *float32, n int, sum *float32) int {
	switch {
	case level >= avx512:
		squaresAVX512(x, n, sum)
		return n
	case level == avx2:
		squaresAVX2(x, n, sum)
		return n
	}
	return 0
}

func scalePanel(y, x, w, r *float32, n int) int {
	switch {
	case level >= avx512:
		scalePanelAVX512(y, x, w, r, n)
		return n
	case level == avx2:
		scalePanelAVX2(y, x, w, r, n)
		return n
	}
	return 0
}

// Pause waits some 20 ns, for a loop that waits for memory to change.
func Pause()

// In avx2_amd64.s:

//go:noescape
func tile6AVX2(y, x, w *float32, xk, ws, wk, k int, add bool)

//go:noescape
func dotsF32AVX2(y, x, w *float32, ws, k int)

//go:noescape
func dotsBF16AVX2(y, x *float32, w *uint16, ws, k int)

//go:noescape
func dotsI8AVX2(y, x *float32, w *int8, ws, k int)

//go:noescape
func widenBF16AVX2(dst *float32, src *uint16, n int)

//go:noescape
func widenI8AVX2(dst *float32, src *int8, scale float32, n int)

//go:noescape
func expPanelAVX2(x *float32, n int, top, sum *float32)

//go:noescape
func maxPanelAVX2(x *float32, n int, top *float32)

//go:noescape
func swigluAVX2(y, gate, up *float32, n int)

//go:noescape
func rotateAVX2(a, b, lo, hi, cos, sin *float32, n int)

//go:noescape
func squaresAVX2(x *float32, n int, sum *float32)

//go:noescape
func scalePanelAVX2(y, x, w, r *float32, n int)

// In avx512_amd64.s:

//go:noescape
func tile2AVX512(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)

//go:noescape
func tile1AVX512(y, x, w *float32, xk, ws, wk, k int, add bool)

//go:noescape
func dotsF32AVX512(y, x, w *float32, ws, k int)

//go:noescape
func dotsBF16AVX512(y, x *float32, w *uint16, ws, k int)

//go:noescape
func dotsI8AVX512(y, x *float32, w *int8, ws, k int)

//go:noescape
func widenBF16AVX512(dst *float32, src *uint16, n int)

//go:noescape
func widenI8AVX512(dst *float32, src *int8, scale float32, n int)

//go:noescape
func expPanelAVX512(x *float32, n int, top, sum *float32)

//go:noescape
func maxPanelAVX512(x *float32, n int, top *float32)

//go:noescape
func swigluAVX512(y, gate, up *float32, n int)

//go:noescape
func rotateAVX512(a, b, lo, hi, cos, sin *float32, n int)

//go:noescape
func squaresAVX512(x *float32, n int, sum *float32)

//go:noescape
func scalePanelAVX512(y, x, w, r *float32, n int)

// In avx512bf16_amd64.s:

//go:noescape
func pairTile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)

//go:noescape
func pairTile1(y, x, w *float32, xk, ws, wk, k int, add bool)

//go:noescape
func dotsPairs(y *float32, x, w *uint16, ws, k int)

//go:noescape
func bytesBF16(dst *uint16, src *int8, n int)

//go:noescape
func roundRow(dst *uint16, src *float32, n int)

//go:noescape
func pairPanel(dst, src *float32, n int)
