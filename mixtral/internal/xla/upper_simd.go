//go:build goexperiment.simd && amd64

package xla

import "simd/archsimd"

// ClearUpper clears the upper halves of vector registers, which the Go backend's
// products leave dirty: every later math.Exp on the same thread takes 3 us instead
// of 27 ns.
func ClearUpper() {
	if avx {
		archsimd.ClearAVXUpperBits()
	}
}

var avx = archsimd.X86.AVX()
