package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestActivate(t *testing.T) {
	exact := map[string]func(x float64) float64{
		"relu":     func(x float64) float64 { return max(x, 0) },
		"gelu":     func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) },
		"gelu_new": func(x float64) float64 { return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+.044715*x*x*x))) },
		"silu":     func(x float64) float64 { return x / (1 + math.Exp(-x)) },
	}
	for name, f := range exact {
		for n := range 40 { // with and without whole vectors
			x := make([]float32, n)
			want := make([]float64, n)
			for i := range x {
				x[i] = float32(i-n/2) * .37
				want[i] = f(float64(x[i]))
			}
			Activate(name, x)
			for i := range x {
				require.InDelta(t, want[i], x[i], 2e-6, "%s, %d of %d", name, i, n)
			}
		}
		x := []float32{-200, 200, -1e30, 1e30}
		Activate(name, x)
		assert.Equal(t, []float32{0, 200, 0, 1e30}, x, name)
	}
	assert.Panics(t, func() { Activate("tanh", nil) })
}

// DotsOf multiplies the first columns of some rows.
func TestDotsOf(t *testing.T) {
	const rows, columns = 7, 83
	w := make([]float32, rows*columns)
	for i := range w {
		w[i] = float32(i%13) - 5
	}
	m := F32(w, rows)
	each(t, func(t *testing.T) {
		for _, k := range []int{1, 3, 16, 50, columns} {
			for n := range rows + 1 {
				x, y := make([]float32, k), make([]float32, n)
				for i := range x {
					x[i] = float32(i%7) - 2
				}
				m.DotsOf(y, x)
				for o := range y {
					var want float32
					for i := range x {
						want += x[i] * w[o*columns+i]
					}
					require.Equal(t, want, y[o], "row %d of %d, %d columns", o, n, k)
				}
			}
		}
	})
	assert.Panics(t, func() { m.DotsOf(make([]float32, rows+1), make([]float32, 2)) })
	assert.Panics(t, func() { m.DotsOf(make([]float32, 1), make([]float32, columns+1)) })
}
