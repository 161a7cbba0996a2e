package mixtral

import (
	"errors"
	"testing"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An urgent copy precedes what remains of another.
func TestBus(t *testing.T) {
	var order []byte // guarded by the bus, which makes one copy at a time
	started, done := make(chan struct{}), make(chan error)
	b := &bus{}
	of := func(name byte, n int) (all [][]xla.Copy) {
		for range n {
			all = append(all, []xla.Copy{{From: []byte{name}}})
		}
		return all
	}
	b.write = func(some []xla.Copy) error {
		order = append(order, some[0].From[0])
		if len(order) > 1 {
			return nil
		}
		go func() { done <- b.copy(of('u', 2), true) }()
		go func() {
			for urgent := 0; urgent == 0; {
				b.mu.Lock()
				urgent = b.urgent
				b.mu.Unlock()
			}
			close(started)
		}()
		<-started
		return nil
	}
	require.NoError(t, b.copy(of('a', 3), false))
	require.NoError(t, <-done)
	assert.Equal(t, "auuaa", string(order))
	boom := errors.New("boom")
	b.write = func([]xla.Copy) error { return boom }
	assert.ErrorIs(t, b.copy(of('u', 2), true), boom)
	assert.Zero(t, b.urgent)
	assert.False(t, b.busy)
}

// The pieces of an expert cover its bytes, and none is longer than the bus allows.
func TestSlotCopies(t *testing.T) {
	var w13, w2 compute.Buffer
	const end13, end = busBytes*2 + 3, busBytes*3 + 70
	s := &deviceSlot{parts: []slotPart{{buffer: &w13, from: 0, to: end13}, {buffer: &w2, from: end13, to: end}}}
	expert := make([]byte, end)
	for urgent, pieces := range map[bool]int{true: 1, false: 4} {
		all := s.copies(expert, urgent)
		require.Len(t, all, pieces)
		at := 0
		for _, some := range all {
			n := 0
			for _, c := range some {
				require.Same(t, &expert[at], &c.From[0])
				offset := at
				if at >= end13 {
					offset -= end13
				}
				require.Equal(t, offset, c.Offset)
				at, n = at+len(c.From), n+len(c.From)
			}
			assert.True(t, urgent || n <= busBytes)
		}
		assert.Equal(t, end, at)
	}
}
