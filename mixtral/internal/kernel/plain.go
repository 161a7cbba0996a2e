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

// plainDots completes y, the products of x and 4 rows of w, stride elements apart,
// after dotsF32, dotsBF16 or dotsI8 of [0,from) columns.
func plainDots[T int8 | uint16 | float32](y *[4]float32, x *float32, w *T, stride, from, k int) {
	if from == 0 {
		*y = [4]float32{}
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
	t.plainPanel(0, 0)
	if two {
		t.plainPanel(t.YS, t.XS)
	}
}

func (t *Tile) plainPanel(ys, xs int) {
	for o := 0; o < TileRows; o += 6 {
		for l := range Lanes {
			y := (*[5*Lanes + 1]float32)(t.Y[ys+o*Lanes+l:])
			if !t.Add {
				y[0], y[Lanes], y[2*Lanes], y[3*Lanes], y[4*Lanes], y[5*Lanes] = 0, 0, 0, 0, 0, 0
			}
			plain6(y, &t.X[xs+l], &t.W[o*t.WS], 4*t.XK, 4*t.WS, 4*t.WK, t.K)
		}
	}
}

// plain6 adds to one lane of 6 rows. Strides are in bytes. The compiler orders all
// products of a loop before the sums: 6 of each are what the registers of amd64 hold.
func plain6(y *[5*Lanes + 1]float32, x, w *float32, xk, ws, wk, k int) {
	a, b, c := y[0], y[Lanes], y[2*Lanes]
	d, e, f := y[3*Lanes], y[4*Lanes], y[5*Lanes]
	w0 := unsafe.Pointer(w)
	w1, w2, w3, w4, w5 := unsafe.Add(w0, ws), unsafe.Add(w0, 2*ws), unsafe.Add(w0, 3*ws), unsafe.Add(w0, 4*ws), unsafe.Add(w0, 5*ws)
	xo, wo := 0, 0
	for range k {
		v := *(*float32)(unsafe.Add(unsafe.Pointer(x), xo))
		a += v * *(*float32)(unsafe.Add(w0, wo))
		b += v * *(*float32)(unsafe.Add(w1, wo))
		c += v * *(*float32)(unsafe.Add(w2, wo))
		d += v * *(*float32)(unsafe.Add(w3, wo))
		e += v * *(*float32)(unsafe.Add(w4, wo))
		f += v * *(*float32)(unsafe.Add(w5, wo))
		xo += xk
		wo += wk
	}
	y[0], y[Lanes], y[2*Lanes] = a, b, c
	y[3*Lanes], y[4*Lanes], y[5*Lanes] = d, e, f
}
