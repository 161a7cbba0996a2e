package host

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every part of a job is computed once, by workers that are awake or asleep.
func TestCrew(t *testing.T) {
	c := newCrew(3)
	defer c.stop()
	for n := range 200 {
		times := make([]atomic.Int32, n)
		c.run(n, func(worker, i int) {
			assert.Less(t, worker, 4)
			times[i].Add(1)
		})
		for i := range times {
			require.Equal(t, int32(1), times[i].Load(), "part %d of %d", i, n)
		}
		if n%50 == 49 {
			require.Eventually(t, func() bool { return c.parked.Load() == 3 }, 10*time.Second, time.Millisecond)
		}
	}
}
