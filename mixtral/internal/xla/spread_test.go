package xla_test

import (
	"testing"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/stretchr/testify/assert"
)

// A part is the product of its axes' spans, in order, with zeros where they end early.
func TestCut(t *testing.T) {
	array := make([]byte, 3*4*2)
	for i := range array {
		array[i] = byte(i + 1)
	}
	part := func(dims []int, size int, c xla.Cut) []byte {
		n := size
		for _, d := range c.Dims() {
			n *= d
		}
		dst := make([]byte, n)
		for i := range dst {
			dst[i] = 99
		}
		c.Copy(dst, array, dims, size)
		return dst
	}
	all := func(n int) []xla.Span { return []xla.Span{{0, n, n}} }
	assert.Equal(t, array, part([]int{3, 4}, 2, xla.Cut{all(3), all(4)}))
	assert.Equal(t, []byte{17, 18, 19, 20, 21, 22, 23, 24, 0, 0, 0, 0, 0, 0, 0, 0}, part([]int{3, 4}, 2, xla.Cut{{{2, 3, 2}}, all(4)}))
	assert.Equal(t, []byte{3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23, 24}, part([]int{3, 4}, 2, xla.Cut{all(3), {{1, 2, 1}, {3, 4, 1}}}))
	assert.Equal(t, []byte{8, 0, 0, 7, 16, 0, 0, 15}, part([]int{3, 8}, 1, xla.Cut{all(2), {{7, 8, 2}, {4, 4, 1}, {6, 7, 1}}}))
	assert.Equal(t, []byte{22, 0, 0, 0}, part([]int{3, 2, 2, 2}, 1, xla.Cut{{{2, 3, 1}}, {{1, 2, 1}}, {{0, 1, 2}}, {{1, 2, 1}, {2, 2, 1}}}))
}
