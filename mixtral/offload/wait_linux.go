package offload

import (
	"context"
	"syscall"
	"time"
)

// late is how late a sleep ends, about.
const late = 75 * time.Microsecond

// waitUntil waits for a time, up to some 20 us exactly. The runtime's timers are up
// to 1 ms late if the program is idle, and waiting on a processor would slow down
// computing that shares its core.
func waitUntil(ctx context.Context, until time.Time) error {
	for ctx.Err() == nil {
		d := time.Until(until) - late
		if d <= 0 {
			break
		}
		t := syscall.NsecToTimespec(int64(min(d, 10*time.Millisecond)))
		_ = syscall.Nanosleep(&t, nil) // if a signal ends it, it is repeated
	}
	for ctx.Err() == nil && time.Now().Before(until) {
	}
	return ctx.Err()
}
