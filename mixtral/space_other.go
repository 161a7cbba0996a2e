//go:build !linux && !darwin

package mixtral

// freeSpace reports false: the free space is unknown.
func freeSpace(dir string) (int64, bool) { return 0, false }
