//go:build !linux

package mixtral

// hostMemory returns 0: the memory is unknown. Tests replace it.
var hostMemory = func() int64 { return 0 }
