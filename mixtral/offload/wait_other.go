//go:build !linux

package offload

import (
	"context"
	"time"
)

// waitUntil waits for a time, as exactly as timers allow.
func waitUntil(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
