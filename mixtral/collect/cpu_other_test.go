//go:build !unix

package collect_test

import (
	"testing"
	"time"
)

var started = time.Now()

// processorTime is elapsed time where the system has nothing better.
func processorTime(testing.TB) time.Duration { return time.Since(started) }
