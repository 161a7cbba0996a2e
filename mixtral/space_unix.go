//go:build linux || darwin

package mixtral

import "syscall"

// freeSpace returns the bytes that may be written to the file system of dir.
func freeSpace(dir string) (int64, bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
