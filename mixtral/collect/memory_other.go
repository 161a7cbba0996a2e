//go:build !unix

package collect

import "runtime"

// peakMemory returns the memory obtained by the Go runtime, in bytes.
func peakMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
