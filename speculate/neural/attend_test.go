package neural

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Attention over any number of rows is that of its definition, in float64.
func TestAttendHeads(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	for n := 1; n <= 9; n++ {
		for _, s := range [][2]int{{8, 1}, {16, 8}, {24, 5}, {32, 3}} {
			hd, heads := s[0], s[1]
			width := hd * heads
			stride := width + 5
			q, keys, values, out := random(width), random((n-1)*stride+width), random((n-1)*stride+width), random(width)
			want := make([]float64, width)
			for h := range heads {
				p, total := make([]float64, n), 0.
				for r := range p {
					for i := h * hd; i < (h+1)*hd; i++ {
						p[r] += float64(q[i]) * float64(keys[r*stride+i])
					}
					p[r] = math.Exp(p[r])
					total += p[r]
				}
				for i := h * hd; i < (h+1)*hd; i++ {
					want[i] = float64(out[i])
					for r := range p {
						want[i] += p[r] / total * float64(values[r*stride+i])
					}
				}
			}
			attendHeads(q, keys, values, out, make([]float32, 8*n), n, stride, hd, heads)
			for i := range out {
				assert.InDelta(t, want[i], float64(out[i]), 2e-5, "%d rows of %d heads of %d: %d", n, heads, hd, i)
			}
		}
	}
}
