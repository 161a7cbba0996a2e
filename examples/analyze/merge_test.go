package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMerge makes the same statistics in parts as at once, and refuses parts that
// are missing, double, or of something else.
func TestMerge(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) (int, string) {
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		return status, errs
	}
	ok := func(args ...string) {
		t.Helper()
		status, errs := run(args...)
		require.Equal(t, cli.Done, status, errs)
	}
	h := trace.Header{Model: trace.Model{Name: "planted", Layers: 3, Experts: 7, TopK: 2}}
	h.LogitLayers = []int{0, 2}
	r := tracetest.Router{Header: h, Rule: tracetest.Random(3)}
	in := tracetest.Write(t, h, r.Documents(40, 21, 1), trace.WriterOptions{ShardBytes: 1, GroupTokens: 100})
	reader, err := trace.Open(in)
	require.NoError(t, err)
	require.Greater(t, len(reader.Paths()), 4)
	ok("-trace", in, "-json", at("whole.json"))
	for i := 1; i <= 3; i++ {
		ok("-trace", in, "-shards", fmt.Sprintf("%d/3", i), "-sums", at(fmt.Sprintf("sums-%d", i)))
	}
	ok("-merge", at("sums-*"), "-json", at("merged.json"), "-out", at("out"), "-figures=false")
	whole, err := os.ReadFile(at("whole.json"))
	require.NoError(t, err)
	for _, name := range []string{"merged.json", "out/statistics.json"} {
		got, err := os.ReadFile(at(name))
		require.NoError(t, err)
		assert.Equal(t, string(whole), string(got))
	}
	ok("-trace", in, "-shards", "98/99", "-sums", at("nothing")) // there are fewer shards

	ok("-trace", in, "-datasets", "set", "-shards", "0/3", "-sums", at("other"))
	ok("-trace", in, "-shards", "0/4", "-sums", at("fourth"))
	require.NoError(t, os.WriteFile(at("bad"), []byte(`{"part":0,"parts":3}`), 0o600))
	copied, err := os.ReadFile(at("sums-2"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("double"), copied, 0o600))
	for _, c := range []struct {
		files, want string
	}{
		{at("sums-2") + "," + at("sums-1"), "1 of 3 parts are missing: 0/3"},
		{at("sums-*") + "," + at("double"), "double: part 2/3 is also in"},
		{at("sums-1") + "," + at("other"), `other: of "set", elsewhere of ""`},
		{at("sums-1") + "," + at("fourth"), "fourth: a part of 4, elsewhere of 3"},
		{at("bad"), "bad: part 0 of 3, or no statistics"},
		{at("none-*"), "none-*: file does not exist"},
		{in + "/*", "invalid character"},
	} {
		status, errs := run("-merge", c.files, "-json", at("x"))
		assert.Equal(t, cli.Failed, status, c.files)
		assert.Contains(t, errs, c.want)
	}
	for _, args := range [][]string{{"-merge", "x", "-trace", in, "-json", "x"}, {"-merge", "x", "-part", "1/2", "-json", "x"}, {"-trace", in, "-shards", "4/3", "-json", "x"}} {
		status, errs := run(args...)
		assert.Equal(t, cli.Usage, status, errs)
	}
	status, errs := run("-trace", in, "-shards", "98/99", "-out", at("y"))
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "no tokens in shards 98/99")
}
