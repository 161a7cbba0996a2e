//go:build !unix

package collect

import "runtime"

// peakMemory returns the memory that the Go runtime has taken, in bytes.
func peakMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
