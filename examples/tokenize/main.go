// Command tokenize turns text into token ids and back with a tokenizer.json, line by
// line as JSON:
//
//	$ echo '{"text": "Hello world!"}' | go run ./examples/tokenize -tokenizer testdata/tokenizer/tokenizer.json
//	{"ids":[1,22557,1526,28808],"tokens":["<s>","▁Hello","▁world","!"]}
//	$ echo '{"ids": [22557, 1526]}' | go run ./examples/tokenize -tokenizer testdata/tokenizer/tokenizer.json -decode
//	{"text":"Hello world"}
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
)

const help = `
tokenize reads JSON lines from standard input and writes one for each to standard output.

Without -decode a line is {"text": "..."}, or {"base64": "..."} for any bytes (standard base64; each maximal invalid
part of UTF-8 becomes one U+FFFD), and the answer is {"ids": [..], "tokens": [..]}. With -decode it is {"ids": [..]} and the
answer {"text": "..."}. Other members of a line, such as "id", are ignored, as are empty lines. An invalid line is named on
standard error by its number (from 1) and omitted.`

type options struct {
	tokenizer   string
	specials    bool
	decode      bool
	skipSpecial bool
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "tokenize", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "the lines read so far were answered" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.tokenizer, "tokenizer", "mini", "`file` with the tokenizer (a Hugging Face tokenizer.json), or mini for the embedded model's")
	f.BoolVar(&o.specials, "specials", true, "put the template's special tokens (<s> for Mixtral) around the ids; not with -decode")
	f.BoolVar(&o.decode, "decode", false, "read ids and write text (default false: read text and write ids)")
	f.BoolVar(&o.skipSpecial, "skip-specials", false, "omit special tokens from the text (default false: keep them); only with -decode")
}

// check refuses flags that would have no effect.
func (o *options) check(flags *flag.FlagSet) (err error) {
	flags.Visit(func(f *flag.Flag) {
		switch {
		case f.Name == "specials" && o.decode:
			err = errors.New("-specials has no effect with -decode; -skip-specials has")
		case f.Name == "skip-specials" && !o.decode:
			err = errors.New("-skip-specials has no effect without -decode; -specials=false has")
		}
	})
	return err
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	t, err := cli.LoadTokenizer(o.tokenizer)
	if err != nil {
		return err
	}
	ended := make(chan error, 1) // reading may block forever
	go func() {
		bad, err := convert(t, *o, s.In, s.Out, s.Err)
		if err == nil && bad > 0 {
			err = &cli.Incomplete{Omitted: bad, What: "lines"}
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// convert processes the lines and returns the number of invalid ones; its error is
// one of reading or writing.
func convert(t *tokenizer.Tokenizer, o options, in io.Reader, out, errs io.Writer) (bad int, err error) {
	r, w := bufio.NewReaderSize(in, 1<<16), bufio.NewWriterSize(out, 1<<16)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for n := 1; ; n++ {
		line, readErr := cli.ReadLine(r)
		if readErr != nil && readErr != io.EOF {
			return bad, errors.Join(fmt.Errorf("line %d: %w", n, readErr), w.Flush())
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			answer, lineErr := one(t, o, line)
			if lineErr != nil {
				bad++
				fmt.Fprintf(errs, "tokenize: line %d: %v\n", n, lineErr)
			} else if err := enc.Encode(answer); err != nil {
				return bad, err
			}
		}
		// A program that waits for the answer before it writes the next line receives it.
		if readErr == io.EOF || r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return bad, err
			}
		}
		if readErr == io.EOF {
			return bad, nil
		}
	}
}

type encoded struct {
	IDs    []int32  `json:"ids"`
	Tokens []string `json:"tokens"`
}

type decoded struct {
	Text string `json:"text"`
}

// one converts one line.
func one(t *tokenizer.Tokenizer, o options, line []byte) (any, error) {
	var q struct {
		Text   *string  `json:"text"`
		Base64 *[]byte  `json:"base64"`
		IDs    *[]int32 `json:"ids"`
	}
	if !utf8.Valid(line) {
		return nil, errors.New(`not valid UTF-8, which JSON is; any bytes can come as "base64"`)
	}
	if err := json.Unmarshal(line, &q); err != nil {
		return nil, err
	}
	if o.decode {
		if q.IDs == nil {
			return nil, errors.New(`no "ids"`)
		}
		text, err := t.Decode(*q.IDs, o.skipSpecial)
		return decoded{text}, err
	}
	text := ""
	switch {
	case q.Text != nil && q.Base64 != nil:
		return nil, errors.New(`both "text" and "base64"`)
	case q.Text != nil:
		text = *q.Text
	case q.Base64 != nil:
		text = string(*q.Base64)
	default:
		return nil, errors.New(`neither "text" nor "base64"`)
	}
	spans := t.EncodeSpans(text, o.specials)
	e := encoded{make([]int32, len(spans)), make([]string, len(spans))}
	for i, s := range spans {
		e.IDs[i], e.Tokens[i] = s.ID, s.Token
	}
	return e, nil
}
