package main

import (
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/stretchr/testify/assert"
)

// TestUsage omits the chain itself, which takes a minute: .ci/run runs the
// program and reads its trace in Python.
func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"at least 5":            {"-docs", "4"},
		"-tokens is 7":          {"-tokens", "7"},
		"-out is empty":         {"-out", ""},
		"unexpected argument":   {"more"},
		"flag provided but not": {"-nonsense"},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		assert.Equal(t, cli.Usage, status, args)
		assert.Contains(t, errs, want)
	}
	status, _, errs := clitest.Run(t, new(options).program(), "-out", t.TempDir(), "-backend", "abacus")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, `backend "abacus"`)
	status, _, errs = clitest.Run(t, new(options).program(), "-h")
	assert.Equal(t, cli.Done, status)
	assert.Contains(t, errs, "tokens per document")
}
