package mixtral

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

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
