//go:build !goexperiment.simd || !amd64

package floats

// Without vectors all is left to the loops in half.go.

func magnitudeWide([]float32) (n int, most uint32) { return 0, 0 }

func halvesWide([]byte, []float32) int { return 0 }

func floatsWide([]float32, []byte) int { return 0 }
