//go:build !goexperiment.simd || !amd64

package xla

func ClearUpper() {}
