package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const mistral = "../../testdata/tokenizer/tokenizer.json"

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   string
		in     string
		out    string
		errs   []string // in this order
		status int
	}{
		{"text", "-tokenizer " + mistral, `{"text": "Hello world!"}` + "\n" + `{"text":""}`,
			`{"ids":[1,22557,1526,28808],"tokens":["<s>","▁Hello","▁world","!"]}` + "\n" + `{"ids":[1],"tokens":["<s>"]}` + "\n", nil, 0},
		{"no specials", "-specials=false -tokenizer " + mistral, `{"id":"a/1","text":"Hello <s>\n"}`,
			`{"ids":[22557,28705,1,28705,13],"tokens":["▁Hello","▁","<s>","▁","<0x0A>"]}` + "\n", nil, 0},
		{"nothing", "-specials=false", `{"text":""}`, `{"ids":[],"tokens":[]}` + "\n", nil, 0},
		{"bytes", "-tokenizer " + mistral, `{"base64":"/w=="}`, `{"ids":[1,28705,29137],"tokens":["<s>","▁","�"]}` + "\n", nil, 0},
		{"decode", "-decode -tokenizer " + mistral, `{"ids":[1,22557,1526]}` + "\r\n\n" + `{"ids":[]}`, `{"text":"<s> Hello world"}` + "\n" + `{"text":""}` + "\n", nil, 0},
		{"decode, skip", "-decode -skip-specials -tokenizer " + mistral, `{"ids":[1,22557,1526,2]}`, `{"text":"Hello world"}` + "\n", nil, 0},
		{"bad lines", "-decode", "{}\n" + `{"ids":[4096]}` + "\n" + `{"ids":[0]}` + "\n" + `{"ids":[-1]}` + "\n[]\n" + `{"ids":[1.5]}` + "\n{", `{"text":"<unk>"}` + "\n",
			[]string{"line 1: ", "line 2: ", "4096", "line 4: ", "-1", "line 5: ", "line 6: ", "line 7: ", "6 lines omitted"}, 3},
		{"bad texts", "", `{"text":1}` + "\n" + `{"base64":"?"}` + "\n" + `{"text":"a","base64":"YQ=="}` + "\n" + `{"ids":[1]}` + "\n{\"text\":\"\xff\"}\n", "",
			[]string{"line 1: ", "line 2: ", "line 3: both", "line 4: neither", "line 5: not valid UTF-8", "5 lines omitted"}, 3},
		{"no file", "-tokenizer /nowhere/tokenizer.json", "", "", []string{"tokenizer.json"}, 1},
		{"not a tokenizer", "-tokenizer main.go", "", "", []string{"main.go"}, 1},
		{"unknown flag", "-x", "", "", []string{"-x"}, 2},
		{"argument", "file.jsonl", "", "", []string{"file.jsonl"}, 2},
		{"skip without decode", "-skip-specials", "", "", []string{"-skip-specials has no effect"}, 2},
		{"specials with decode", "-decode -specials=false", "", "", []string{"-specials has no effect"}, 2},
		{"help", "-h", "", "", []string{"-decode", "-skip-specials", "-specials", "-tokenizer", `default "mini"`}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := clitest.RunInput(t, new(options).program(), c.in, strings.Fields(c.args)...)
			assert.Equal(t, c.status, status)
			assert.Equal(t, c.out, out)
			if c.errs == nil {
				assert.Empty(t, errs)
			}
			for _, want := range c.errs {
				require.Contains(t, errs, want)
				_, errs, _ = strings.Cut(errs, want)
			}
		})
	}
}

// TestLongLine reads a line that exceeds any buffer.
func TestLongLine(t *testing.T) {
	in := `{"text":"` + strings.Repeat("the ", 100_000) + `"}`
	status, out, errs := clitest.RunInput(t, new(options).program(), in, "-specials=false")
	require.Equal(t, cli.Done, status, errs)
	assert.Equal(t, 100_000, strings.Count(out, "▁the"))
}

// TestInterrupt stops the program while it waits for a line.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, w := io.Pipe()
	defer w.Close()
	var out, errs bytes.Buffer
	time.AfterFunc(20*time.Millisecond, cancel)
	assert.Equal(t, cli.Failed, new(options).program().Start(ctx, nil, cli.Streams{In: in, Out: &out, Err: &errs}))
	assert.Contains(t, errs.String(), "interrupted")
}
