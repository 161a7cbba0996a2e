package prob

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRank(t *testing.T) {
	order := make([]int32, 6)
	Rank([]float32{.1, .9, float32(math.NaN()), .9, .7, 0}, order)
	assert.Equal(t, []int32{1, 3, 4, 0, 5, 2}, order)
}

func TestFromLogits(t *testing.T) {
	z := []float32{40, 39.5, -3, 2, 0, 60, -80}
	order, after := make([]int32, len(z)), make([]int32, len(z))
	Rank(z, order)
	FromLogits(z, 3)
	Rank(z, after)
	var sum float32
	for _, p := range z {
		sum += p
	}
	assert.Equal(t, order, after)
	assert.InDelta(t, 3, sum, .01)
	FromLogits(z, 7)
	assert.Equal(t, []float32{1, 1, 1, 1, 1, 1, 1}, z)
}

func TestLogOdds(t *testing.T) {
	p := []float32{0, .1, .5, .9, 1}
	z := make([]float32, 5)
	ToLogOdds(p, z)
	FromLogOdds(z)
	assert.InDeltaSlice(t, p, z, 1e-4) // 0 is bent
	assert.Less(t, Of(20), Of(21))
	assert.Less(t, Of(-21), Of(-20))
}
