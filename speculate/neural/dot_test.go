package neural

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// reference is x w + bias in float64, and the sum of absolute terms, which
// bounds the error of rounding.
func reference(in, out, column int, w, x []float32, bias float32) (sum, size float64) {
	sum, size = float64(bias), math.Abs(float64(bias))
	for i, xi := range x[:in] {
		p := float64(xi) * float64(w[i*out+column])
		sum, size = sum+p, size+math.Abs(p)
	}
	return sum, size
}

// Products agree with float64 within the rounding of their weights, whatever
// the sizes; a row comes out the same, bit for bit, in a group and alone; and
// padding columns stay as they are.
func TestMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 7
	for _, in := range []int{1, 7, 256, 529} {
		for _, out := range []int{1, 5, 8, 13, 24, 64, 100, 257} {
			w := make([]float32, in*out)
			for i := range w {
				w[i] = float32(rng.NormFloat64() * math.Exp(4*rng.NormFloat64()))
			}
			for name, m := range map[string]matrix{"32 bits": newFull(in, out, w), "16 bits": newHalf(in, out, w)} {
				rounding := 1.0 / (1 << 16)
				if m.half != nil {
					rounding = 1.0/(1<<8) + 1.0/(1<<16)
				}
				t.Run(fmt.Sprintf("%s/%dx%d", name, in, out), func(t *testing.T) {
					xs, os := in+3, m.stride+5
					x, got := make([]float32, n*xs), make([]float32, n*os)
					for i := range x {
						if x[i] = float32(rng.NormFloat64()); rng.IntN(3) == 0 {
							x[i] = 0
						}
					}
					for i := range got {
						got[i] = float32(i % 11)
					}
					m.addRows(got, x, n, os, xs)
					for r := range n {
						one, plain := make([]float32, m.stride), make([]float32, m.stride)
						for i := range one {
							one[i] = float32((r*os + i) % 11)
							plain[i] = one[i]
						}
						m.addTo(one, x[r*xs:])
						m.addPlain(plain, x[r*xs:][:in])
						for i := range os {
							g := got[r*os+i]
							if i >= out {
								if g != float32((r*os+i)%11) {
									t.Fatalf("row %d: padding column %d became %g", r, i, g)
								}
								continue
							}
							want, size := reference(in, out, i, w, x[r*xs:], float32((r*os+i)%11))
							if d := math.Abs(float64(g) - want); d > rounding*size {
								t.Fatalf("row %d column %d is %g, want %g", r, i, g, want)
							}
							if one[i] != g {
								t.Fatalf("row %d column %d is %g alone, %g in a group", r, i, one[i], g)
							}
							if d := math.Abs(float64(plain[i] - g)); d > 1e-5*size {
								t.Fatalf("row %d column %d is %g plainly, %g by vectors", r, i, plain[i], g)
							}
						}
					}
				})
			}
		}
	}
}

// Rounding to 16 bits is to the nearest, ties to even.
func TestRound16(t *testing.T) {
	for _, c := range []struct{ in, want float32 }{
		{0, 0}, {1, 1}, {-1.5, -1.5}, {1 + 1./256, 1}, {1 + 3./256, 1 + 1./64}, {1 + 1.01/256, 1 + 1./128}, {-0x1p-80, -0x1p-80},
	} {
		a, b := unpack(pack(c.in, 7))
		if a != c.want || b != 7 {
			t.Errorf("%g became %g, want %g, beside 7 %g", c.in, a, c.want, b)
		}
		if a, b = unpack(pack(-3, c.in)); a != -3 || b != c.want {
			t.Errorf("%g became %g, want %g, beside -3 %g", c.in, b, c.want, a)
		}
	}
}
