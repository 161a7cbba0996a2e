package mixtral

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Products agree with float64 for any size, with and without vector instructions.
func TestInt8Product(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, in := range []int{1, 3, 16, 40, 64, 100, 529} {
		for _, n := range []int{1, 3, 4, 9} {
			const out = 67
			x, w, scale := make([]float32, n*in), make([]int8, out*in), make([]float32, out)
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			for i := range w {
				w[i] = int8(rng.IntN(256) - 128)
			}
			for i := range scale {
				scale[i] = rng.Float32()
			}
			y := make([]float32, n*out)
			int8Product(y, x, w, scale, 0, 35)
			int8Product(y, x, w, scale, 35, out)
			var sums [4 * int8Block][4]float32
			done := int8SumsPlain(&sums, x, w, in, 1, int8Block)
			for r := range n {
				for o := range out {
					var sum, first float64
					for i := range in {
						if i == done {
							first = sum
						}
						sum += float64(x[r*in+i]) * float64(w[o*in+i])
					}
					if done == in {
						first = sum
					}
					require.InDelta(t, sum*float64(scale[o]), y[r*out+o], 2e-2*float64(scale[o]), "in %d, n %d, row %d, column %d", in, n, r, o)
					if r == 0 && o < int8Block {
						s := sums[o*4]
						require.InDelta(t, first, s[0]+s[1]+s[2]+s[3], 2e-2, "plain, in %d, column %d", in, o)
					}
				}
			}
		}
	}
}

func TestQuantizeRows(t *testing.T) {
	dst := make([]byte, 9)
	largest := quantizeRows(dst, []float32{127, .5, 1.5, -254, 1, 3, 0, 0, 0}, 3)
	assert.Equal(t, []float32{127, 254, 0}, largest)
	got := make([]int8, len(dst))
	for i, b := range dst {
		got[i] = int8(b)
	}
	assert.Equal(t, []int8{127, 0, 2, -127, 0, 2, 0, 0, 0}, got)
}
