//go:build unix

package collect_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A pipe without a writer is reported and skipped; alone, it is an error.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe.jsonl")
	require.NoError(t, syscall.Mkfifo(pipe, 0o666))
	write(t, dir, "texts.jsonl", `{"id": "a", "text": "One text."}`)
	done := make(chan bool)
	go func() {
		defer close(done)
		rep, err := tryRun(t.Context(), miniModel(), filepath.Join(t.TempDir(), "trace"), collect.Options{MaxTokens: 4}, from(t, collect.FileOptions{}, dir)...)
		assert.NoError(t, err)
		assert.EqualValues(t, 1, rep.Documents)
		if assert.Equal(t, 1, rep.ProblemCount) {
			assert.ErrorContains(t, rep.Problems[0], pipe+": not a regular file (prw")
		}
		rep, err = tryRun(t.Context(), miniModel(), filepath.Join(t.TempDir(), "trace"), collect.Options{}, from(t, collect.FileOptions{}, pipe)...)
		assert.EqualError(t, err, "collect: the sources have no documents that can be read")
		assert.Equal(t, 1, rep.ProblemCount)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("reading the pipe blocks")
	}
}
