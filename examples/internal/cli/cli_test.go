package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStart(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		args   []string
		err    error // of Run
		status int
		stderr string
	}{
		{"done", t.Context(), []string{"-n", "3"}, nil, cli.Done, ""},
		{"failed", t.Context(), []string{"-n", "3"}, errors.New("disk full"), cli.Failed, "prog: disk full\n"},
		{"prefix once", t.Context(), []string{"-n", "3"}, errors.New("prog: disk full"), cli.Failed, "prog: disk full\n"},
		{"partial", t.Context(), []string{"-n", "3"}, &cli.Incomplete{2, "lines"}, cli.Partial, "prog: 2 lines omitted\n"},
		{"wrapped partial", t.Context(), []string{"-n", "3"}, fmt.Errorf("x: %w", &cli.Incomplete{2, "lines"}), cli.Partial, "prog: 2 lines omitted\n"},
		{"interrupted", canceled, []string{"-n", "3"}, context.Canceled, cli.Failed, "prog: interrupted; 3 shards are kept\n"},
		{"unknown flag", t.Context(), []string{"-m"}, nil, cli.Usage, "prog: flag provided but not defined: -m (-h lists the flags)\n"},
		{"value", t.Context(), []string{"-n", "x"}, nil, cli.Usage, "prog: invalid value \"x\" for flag -n: parse error (-h lists the flags)\n"},
		{"argument", t.Context(), []string{"-n", "3", "x"}, nil, cli.Usage, "prog: unexpected argument \"x\" (-h lists the flags)\n"},
		{"check", t.Context(), nil, nil, cli.Usage, "prog: -n is required (-h lists the flags)\n"},
		{"check prefix once", t.Context(), []string{"-n", "-1"}, nil, cli.Usage, "prog: N is negative (-h lists the flags)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr bytes.Buffer
			n := 0
			p := cli.Program{
				Name:  "prog",
				Flags: func(f *flag.FlagSet) { f.IntVar(&n, "n", 0, "`number` of things") },
				Check: func(*flag.FlagSet) error {
					if n == 0 {
						return errors.New("-n is required")
					}
					if n < 0 {
						return errors.New("prog: N is negative") // as a library says
					}
					return nil
				},
				Run:         func(context.Context, cli.Streams) error { return c.err },
				Interrupted: func() string { return fmt.Sprintf("%d shards are kept", n) },
			}
			assert.Equal(t, c.status, p.Start(c.ctx, c.args, cli.Streams{Err: &stderr}))
			assert.Equal(t, c.stderr, stderr.String())
		})
	}
}

func TestHelp(t *testing.T) {
	var stderr bytes.Buffer
	p := cli.Program{Name: "prog", Help: "prog counts things.", Flags: func(f *flag.FlagSet) { f.Int("n", 7, "`number` of things") }}
	assert.Equal(t, cli.Done, p.Start(t.Context(), []string{"-h"}, cli.Streams{Err: &stderr}))
	for _, part := range []string{"prog counts things.", "Exit status", "-n number\n", "number of things (default 7)"} {
		assert.Contains(t, stderr.String(), part)
	}
}

// TestSecondInterrupt runs a program that does not heed its context.
func TestSecondInterrupt(t *testing.T) {
	if os.Getenv("CLI_TEST_DEAF") != "" {
		os.Args = os.Args[:1]
		cli.Program{Name: "deaf", Flags: func(*flag.FlagSet) {}, Run: func(ctx context.Context, s cli.Streams) error {
			fmt.Fprintln(s.Out, "started")
			<-ctx.Done()
			fmt.Fprintln(s.Out, "canceled")
			select {}
		}}.Main()
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSecondInterrupt$")
	cmd.Env = append(os.Environ(), "CLI_TEST_DEAF=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill()
	next := func(want string) {
		b := make([]byte, 64)
		n, err := out.Read(b)
		require.NoError(t, err)
		require.Equal(t, want, strings.TrimSpace(string(b[:n])))
	}
	next("started")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	next("canceled")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		// The default effect is restored concurrently with the program's work.
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case err := <-ended:
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, syscall.SIGINT, exit.Sys().(syscall.WaitStatus).Signal())
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// zeros is an endless file without lines, as /dev/zero is.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadLine(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("a\n"+strings.Repeat("b", 99)+"\nc"), 16)
	for _, want := range []string{"a\n", strings.Repeat("b", 99) + "\n"} {
		line, err := cli.ReadLine(r)
		require.NoError(t, err)
		assert.Equal(t, want, string(line))
	}
	line, err := cli.ReadLine(r)
	assert.Equal(t, io.EOF, err)
	assert.Equal(t, "c", string(line))
	_, err = cli.ReadLine(bufio.NewReader(zeros{}))
	assert.ErrorContains(t, err, "longer than 64 MiB")
}

// TestWriteFile keeps the old file where writing fails.
func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "f.json")
	text := func(s string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			return errors.Join(err, func() error { _, err := io.WriteString(w, s); return err }())
		}
	}
	require.NoError(t, cli.WriteFile(path, text("old", nil)))
	require.ErrorContains(t, cli.WriteFile(path, text("ne", errors.New("disk full"))), "f.json: disk full")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "old", string(b))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	require.NoError(t, cli.WriteFile(path, text("new", nil)))
	require.NoError(t, cli.WriteFile(os.DevNull, text("new", nil)))
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "17B": 17, "24GB": 24e9, "24 gb": 24e9, "22.5GiB": 22.5 * (1 << 30), "1e3KB": 1e6, "2TiB": 2 << 40, "3tb": 3e12, "0.5KiB": 512, "7mib": 7 << 20,
	} {
		var b cli.Bytes
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		assert.EqualValues(t, want, b, text)
	}
	for _, text := range []string{"", "GB", "-1", "1XB", "NaN", "Inf", "1e30", "9223372036854775808", "8388608TiB", "1 2"} {
		var b cli.Bytes
		assert.ErrorContains(t, b.UnmarshalText([]byte(text)), "must be a number of bytes", text)
		assert.Zero(t, b)
	}
	for b, want := range map[cli.Bytes]string{0: "0 B", 999: "999 B", 1000: "1.000 KB", 24e9: "24.00 GB", 123456789: "123.5 MB", 5e15: "5000 TB"} {
		assert.Equal(t, want, b.String())
	}
}

// Without -horizons, distances are those for which the stacks are deep enough.
func TestHorizonsOf(t *testing.T) {
	for layers, want := range map[int][]speculate.Horizon{
		1: {{KnownID: true}}, 2: speculate.LayersAhead(1), 4: speculate.LayersAhead(1, 2), 5: speculate.LayersAhead(1, 2, 4),
	} {
		m := trace.Model{Layers: layers + 1, Experts: 3, TopK: 1, Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 1}, {Name: trace.Decoder, Layers: layers}}}
		assert.Equal(t, want, cli.HorizonsOf(nil, m))
	}
	given := speculate.LayersAhead(7)
	assert.Equal(t, given, cli.HorizonsOf(given, trace.Model{Layers: 2, Experts: 3, TopK: 1}))
}
