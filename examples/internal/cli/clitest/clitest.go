// Package clitest runs example programs in tests.
package clitest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
)

// Run starts p with arguments and empty standard input.
func Run(t *testing.T, p cli.Program, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return RunInput(t, p, "", args...)
}

// RunInput starts p with arguments and the given standard input.
func RunInput(t *testing.T, p cli.Program, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = p.Start(t.Context(), args, cli.Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return status, out.String(), errs.String()
}
