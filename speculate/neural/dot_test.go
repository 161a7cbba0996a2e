package neural

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reference returns x w + bias in float64, the sum of its absolute terms, and
// the error that a matrix may have: half a step of each weight, and the
// rounding of the sum.
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

// Products agree with float64 within the rounding of their weights for any
// size. A row's result is the same, bit for bit, in a group and alone, and
// padding columns are not written.
func TestMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, in := range []int{1, 7, 256, 529} {
		for _, out := range []int{1, 5, 8, 13, 24, 64, 100, 257} {
			w := make([]float32, in*out)
			for i := range w {
				if i/out != 3 && i%out != 4 { // a row and a column are 0
					w[i] = float32(rng.NormFloat64() * math.Exp(4*rng.NormFloat64()))
				}
			}
			t.Run(fmt.Sprintf("32 bits/%dx%d", in, out), func(t *testing.T) { testProducts(t, rng, newFull(in, out, w), w) })
			if vectors {
				m, _ := newBytes(in, out, w)
				t.Run(fmt.Sprintf("8 bits/%dx%d", in, out), func(t *testing.T) { testProducts(t, rng, m, w) })
			}
		}
	}
}

func testProducts(t *testing.T, rng *rand.Rand, m matrix, w []float32) {
	const n = 7
	xs, os := m.in+3, m.stride+5
	x, got := make([]float32, n*xs), make([]float32, n*os)
	for i := range x {
		if x[i] = float32(rng.NormFloat64()); rng.IntN(3) == 0 {
			x[i] = 0
		}
	}
	before := func(i int) float32 { return float32(i % 11) }
	for i := range got {
		got[i] = before(i)
	}
	m.addRows(got, x, n, os, xs)
	for r := range n {
		one, plain := make([]float32, m.stride), make([]float32, m.stride)
		for i := range one {
			one[i] = before(r*os + i)
			plain[i] = one[i]
		}
		m.addTo(one, x[r*xs:])
		if m.words == nil {
			m.addPlain(plain, x[r*xs:][:m.in])
		}
		for i := range os {
			g := got[r*os+i]
			if i >= m.out {
				require.Equal(t, before(r*os+i), g, "row %d: padding column %d", r, i)
				continue
			}
			want, size, margin := m.reference(w, x[r*xs:], i, before(r*os+i))
			require.InDelta(t, want, g, margin, "row %d, column %d", r, i)
			require.Equal(t, g, one[i], "row %d, column %d alone", r, i)
			if m.words == nil {
				require.InDelta(t, g, plain[i], 1e-5*(size+margin), "row %d, column %d without vectors", r, i)
			}
		}
	}
}

// Weights are stored in 8 bits only where a kernel reads them: elsewhere they
// would be slower and less precise.
func TestEightBitsNeedKernel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const in, out = 131, 67
	w, x := make([]float32, in*out), make([]float32, in)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	m := newMatrix(in, out, w)
	assert.Equal(t, vectors, m.words != nil, "large matrix in 8 bits")
	if !vectors {
		y := make([]float32, m.stride)
		m.addTo(y, x)
		for i := range out {
			want, size, _ := m.reference(w, x, i, 0)
			require.InDelta(t, want, y[i], 1e-5*size, "column %d", i)
		}
	}
}
