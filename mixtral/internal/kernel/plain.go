package kernel

import (
	"math"
	"unsafe"
)

// widened returns v, bfloat16 if uint16. The compiler knows the size of T.
func widened[T int8 | uint16 | float32](v T) float32 {
	if unsafe.Sizeof(v) == 2 {
		return math.Float32frombits(uint32(v) << 16)
	}
	return float32(v)
}

// plainDots completes y after dotsF32, dotsBF16 or dotsI8 of [0,from) columns: it
// adds the products of the others, of x and 4 rows of w, stride elements apart.
func plainDots[T int8 | uint16 | float32](y *[4]float32, x *float32, w *T, stride, from, k int) {
	if from == 0 {
		*y = [4]float32{}
	}
	if from == k {
		return
	}
	xs := unsafe.Slice(x, k)
	for r := range y {
		ws := unsafe.Slice((*T)(unsafe.Add(unsafe.Pointer(w), uintptr(r*stride)*unsafe.Sizeof(*w))), k)
		a, b, c, d := y[r], float32(0), float32(0), float32(0)
		i := from
		for ; i+4 <= k; i += 4 {
			u, v := xs[i:i+4:i+4], ws[i:i+4:i+4]
			a += u[0] * widened(v[0])
			b += u[1] * widened(v[1])
			c += u[2] * widened(v[2])
			d += u[3] * widened(v[3])
		}
		for ; i < k; i++ {
			a += xs[i] * widened(ws[i])
		}
		y[r] = (a + b) + (c + d)
	}
}

// plain is tile1 and tile2.
func (t *Tile) plain(two bool) {
	for p := range 2 {
		if p == 1 && !two {
			return
		}
		for o := 0; o < TileRows; o += 2 {
			for l := 0; l < Lanes; l += 4 {
				t.plain2x4(t.Y[p*t.YS+o*Lanes+l:], t.X[p*t.XS+l:], t.W[o*t.WS:])
			}
		}
	}
}

// plain2x4 computes 2 rows of 4 lanes, whose sums fit the registers.
func (t *Tile) plain2x4(y, x, w []float32) {
	var a, b [4]float32
	if t.Add {
		copy(a[:], y)
		copy(b[:], y[Lanes:])
	}
	a0, a1, a2, a3, b0, b1, b2, b3 := a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]
	for k := range t.K {
		v := x[k*t.XK : k*t.XK+4 : k*t.XK+4]
		c, d := w[k*t.WK], w[t.WS+k*t.WK]
		a0, a1, a2, a3 = a0+c*v[0], a1+c*v[1], a2+c*v[2], a3+c*v[3]
		b0, b1, b2, b3 = b0+d*v[0], b1+d*v[1], b2+d*v[2], b3+d*v[3]
	}
	copy(y, []float32{a0, a1, a2, a3})
	copy(y[Lanes:], []float32{b0, b1, b2, b3})
}
