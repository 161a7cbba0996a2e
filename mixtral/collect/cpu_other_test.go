//go:build !unix

package collect_test

import (
	"testing"
	"time"
)

var started = time.Now()

// processorTime is time on the clock, where the system tells no better.
func processorTime(testing.TB) time.Duration { return time.Since(started) }
