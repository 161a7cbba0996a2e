package mixtral

import (
	"os"
	"strconv"
	"strings"
)

// hostMemory returns the bytes of memory that there are for this process, swap
// included, or 0 if that is unknown. Tests replace it.
var hostMemory = func() int64 {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	limit, _ := os.ReadFile("/sys/fs/cgroup/memory.max") // of a container
	return memoryOf(string(info), string(limit))
}

// memoryOf returns the memory of the text of /proc/meminfo, at most a cgroup's limit.
func memoryOf(info, limit string) (n int64) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		if name == "MemTotal" || name == "SwapTotal" {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			n += kB << 10
		}
	}
	if most, err := strconv.ParseInt(strings.TrimSpace(limit), 10, 64); err == nil {
		n = min(n, most)
	}
	return n
}
