package collect_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A source of a file ends soon after its context is done, in whatever format and
// compression.
func TestCancelReading(t *testing.T) {
	const n = 100_000
	var lines, table strings.Builder
	table.WriteString("text\n")
	for i := range n {
		fmt.Fprintf(&lines, "{\"text\": \"Line %d.\"}\n", i)
		fmt.Fprintf(&table, "Line %d.\n", i)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.jsonl": lines.String(), "b.jsonl.gz": gzipped(lines.String()), "c.jsonl.zst": zstded(lines.String()), "d.csv.gz": gzipped(table.String()),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			seen := 0
			var last error
			for _, err := range from(t, collect.FileOptions{}, write(t, dir, name, content))[0].Documents(ctx) {
				cancel()
				seen++
				last = err
			}
			assert.ErrorIs(t, last, context.Canceled)
			assert.Less(t, seen, n/2)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := collect.Files(ctx, []string{dir}, collect.FileOptions{})
	assert.ErrorIs(t, err, context.Canceled)
}

// Run heeds its context while it chooses.
func TestCancelChoosing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := collect.Options{Progress: func(p collect.Progress) {
		if p.Stage == "choosing" {
			cancel()
		}
	}}
	var lines strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&lines, "{\"text\": \"Line %d.\"}\n", i)
	}
	rep, err := tryRun(ctx, miniModel(), t.TempDir(), o, from(t, collect.FileOptions{}, write(t, t.TempDir(), "x.jsonl", lines.String()))...)
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, rep.Found, int64(100_000))
	assert.Zero(t, rep.ProblemCount)
}
