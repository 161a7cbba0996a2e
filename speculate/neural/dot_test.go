package neural

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// reference is x w + bias in float64, the sum of its absolute terms, and how far a matrix may be off: half a
// step of each weight, and the rounding of the sum.
func (m *matrix) reference(w, x []float32, column int, bias float32) (sum, size, margin float64) {
	sum, size = float64(bias), math.Abs(float64(bias))
	for i, xi := range x[:m.in] {
		p := float64(xi) * float64(w[i*m.out+column])
		sum, size = sum+p, size+math.Abs(p)
		if m.words != nil {
			margin += math.Abs(float64(xi)) * float64(m.rows[i]*m.cols[column]) * (1 << 24) * .501
		}
	}
	return sum, size, margin + size/(1<<16)
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
				if i/out != 3 && i%out != 4 { // a row and a column are 0
					w[i] = float32(rng.NormFloat64() * math.Exp(4*rng.NormFloat64()))
				}
			}
			eight, _ := newBytes(in, out, w)
			for name, m := range map[string]matrix{"32 bits": newFull(in, out, w), "8 bits": eight} {
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
							want, size, margin := m.reference(w, x[r*xs:], i, float32((r*os+i)%11))
							if d := math.Abs(float64(g) - want); d > margin {
								t.Fatalf("row %d column %d is %g, want %g", r, i, g, want)
							}
							if one[i] != g {
								t.Fatalf("row %d column %d is %g alone, %g in a group", r, i, one[i], g)
							}
							if d := math.Abs(float64(plain[i] - g)); d > 1e-5*(size+margin) {
								t.Fatalf("row %d column %d is %g plainly, %g by vectors", r, i, plain[i], g)
							}
						}
					}
				})
			}
		}
	}
}

// Evenly spread weights lose little to 8 bits, at any scale of rows and columns;
// those of which few are large lose too much, and keep 32.
func TestPrecisionOfMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const in, out = 131, 67
	even, odd := make([]float32, in*out), make([]float32, in*out)
	for i := range even {
		row, column := math.Exp(float64(i/out%9)-4), math.Exp(float64(i%out%7)-3)
		even[i] = float32(rng.NormFloat64() * row * column)
		if odd[i] = float32(rng.NormFloat64()); i%53 == 0 {
			odd[i] *= 100
		}
	}
	if _, loss := newBytes(in, out, even); loss > 1./100 || loss < 1./1000 {
		t.Errorf("weights lose 1/%.0f", 1/loss)
	}
	if m := newMatrix(in, out, even); m.words == nil {
		t.Error("evenly spread weights do not have 8 bits")
	}
	if m := newMatrix(in, out, odd); m.words != nil {
		t.Error("weights of which few are large have 8 bits")
	}
	if m := newMatrix(in, 8, even[:in*8]); m.words != nil {
		t.Error("a small matrix has 8 bits")
	}
	zero := newMatrix(128, 64, make([]float32, 128*64))
	y := make([]float32, 64)
	zero.addTo(y, even[:128])
	for _, v := range y {
		if v != 0 {
			t.Fatalf("no weights gave %g", v)
		}
	}
}
