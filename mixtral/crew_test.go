package mixtral

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/mini"
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

// The number of processors does not change results, in prefill and decoding.
func TestLanes(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	m, err := Load(context.Background(), mini.FS(), Options{Backend: b})
	require.NoError(t, err)
	defer m.Close()
	run := func(lanes int) (logits [][]float32) {
		m.lanes = lanes
		cache := m.NewCache(1)
		defer cache.Close()
		tokens := make([]int32, 70)
		for i := range tokens {
			tokens[i] = int32(3 + 57*i%4000)
		}
		for _, step := range [][]int32{tokens, {5}, {6, 7, 8}} {
			out, err := m.Forward(context.Background(), Request{Tokens: [][]int32{step}, Cache: cache, Logits: AllLogits})
			require.NoError(t, err)
			logits = append(logits, out.Logits[0])
		}
		return logits
	}
	want := run(1)
	for _, lanes := range []int{2, 5} {
		require.Equal(t, want, run(lanes), "%d lanes", lanes)
	}
}
