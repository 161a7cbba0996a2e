package mixtral

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMemoryOf(t *testing.T) {
	const info = "MemTotal:       24034836 kB\nMemFree:  3 kB\nSwapCached: 7 kB\nSwapTotal:             1000 kB\n"
	assert.EqualValues(t, (24034836+1000)<<10, memoryOf(info, "max\n"))
	assert.EqualValues(t, 1<<30, memoryOf(info, "1073741824\n"))
	assert.EqualValues(t, (24034836+1000)<<10, memoryOf(info, "99999999999999\n"))
	assert.Zero(t, memoryOf("MemTotal: many kB\n", ""))
	assert.Positive(t, hostMemory())
}
