package trace

import (
	"path/filepath"
	"regexp"
	"strconv"
)

var numbered = regexp.MustCompile(`-(\d{5})\` + shardSuffix + `$`)

// missing returns the numbers 0 to n-1, ascending, that no file name ends in. Files
// of which none has a number were renamed or rewritten by other programs; then the
// result is nil.
func missing(paths []string, n int) []int {
	there := make([]bool, n)
	any := false
	for _, p := range paths {
		if m := numbered.FindStringSubmatch(filepath.Base(p)); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil {
				any = true
				if i < n {
					there[i] = true
				}
			}
		}
	}
	var list []int
	for i := range there {
		if any && !there[i] {
			list = append(list, i)
		}
	}
	return list
}
