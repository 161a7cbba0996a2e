package mixtral

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An urgent copy precedes the next part of another that runs.
func TestBus(t *testing.T) {
	var b bus
	var order []string // guarded by the bus, which runs one part at a time
	bytes := make([]byte, 2*busBytes+3)
	started, waits := make(chan struct{}), make(chan error)
	err := b.each(bytes, false, func(offset int, some []byte) error {
		order = append(order, "ahead")
		if offset == 0 {
			go func() {
				waits <- b.each(bytes[:busBytes+1], true, func(int, []byte) error { order = append(order, "urgent"); return nil })
			}()
			go func() {
				for {
					b.mu.Lock()
					n := b.urgent
					b.mu.Unlock()
					if n > 0 {
						close(started)
						return
					}
				}
			}()
			<-started
		}
		if offset == 2*busBytes {
			assert.Len(t, some, 3)
		}
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, <-waits)
	assert.Equal(t, []string{"ahead", "urgent", "urgent", "ahead", "ahead"}, order)
	boom := errors.New("boom")
	assert.ErrorIs(t, b.each(bytes, true, func(int, []byte) error { return boom }), boom)
	assert.NoError(t, b.each(nil, false, nil))
	assert.Zero(t, b.urgent)
	assert.False(t, b.busy)
}
