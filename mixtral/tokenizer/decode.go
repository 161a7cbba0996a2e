package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoderSpec is one step from tokens to text. Each is run on a stream of tokens;
// new starts one.
type decoderSpec interface {
	start() decodeStep
}

// decodeStep is a running step. It hands what is settled to s.feed(next, ...).
type decodeStep interface {
	feed(s *Stream, next int, token string)
	end(s *Stream, next int)
}

// parseDecoder reads the decoder; without one, tokens are joined by spaces.
func (t *Tokenizer) parseDecoder(j jsonValue) error {
	if j.isNull() {
		t.decoders = []decoderSpec{joinSpec{}}
		return nil
	}
	fused := false
	var replaced []normalizeStep
	var parse func(jsonValue) error
	parse = func(j jsonValue) error {
		typ, err := j.typ()
		if err != nil {
			return err
		}
		if typ == "Sequence" {
			return eachOf(j, "decoders", parse)
		}
		// Behind Fuse there is one token as long as the text; only what can work on
		// it bit by bit is implemented there.
		if fused && typ != "Strip" && typ != "Fuse" {
			return j.member("type").errorf("%q behind Fuse is not implemented", typ)
		}
		var spec decoderSpec
		switch typ {
		case "Replace":
			var r replaceSpec
			r.old, r.with, err = parseReplace(j)
			if err == nil {
				replaced = append(replaced, normalizeStep{r.old, r.with})
				err = limitGrowth(j.member("content"), replaced)
			}
			spec = r
		case "ByteFallback":
			spec, err = byteFallbackSpec{}, j.object("type")
		case "Fuse":
			fused = true
			return j.object("type")
		case "Strip":
			spec, err = parseStrip(j, fused)
		case "Metaspace":
			var m *metaspace
			if m, err = parseMetaspace(j); err == nil {
				spec = metaspaceSpec{m.replacement, m.scheme != prependNever}
			}
		default:
			err = j.member("type").errorf("%q is not implemented, only Sequence, Replace, ByteFallback, Fuse, Strip and Metaspace", typ)
		}
		if err != nil {
			return err
		}
		t.decoders = append(t.decoders, spec)
		return nil
	}
	return parse(j)
}

func parseStrip(j jsonValue, fused bool) (decoderSpec, error) {
	s := stripSpec{fused: fused}
	if err := j.object("type", "content", "start", "stop"); err != nil {
		return nil, err
	}
	content, err := j.member("content").str()
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(content) != 1 {
		return nil, j.member("content").errorf("%q is not one character", content)
	}
	s.content = content
	if s.start_, err = j.member("start").id(); err != nil {
		return nil, err
	}
	s.stop, err = j.member("stop").id()
	return s, err
}

// Decode returns the text of token ids [T], without special tokens if skipSpecials
// is true. An id that no token has is an error. Bytes that spell no valid UTF-8 give
// U+FFFD each, as in the Hugging Face tokenizers.
func (t *Tokenizer) Decode(ids []int32, skipSpecials bool) (string, error) {
	s := t.NewStream(skipSpecials)
	s.out.Grow(4 * len(ids))
	for i, id := range ids {
		if err := s.push(id); err != nil {
			return "", fmt.Errorf("tokenizer: decoding token %d of %d: %w", i, len(ids), err)
		}
	}
	s.end()
	return s.out.String(), nil
}

// Stream turns token ids into text as they come, for output while a model
// generates. Every string it returns is whole characters, and all of them together
// are what Decode gives for all the ids: so text that a later token may still change
// (bytes of an unfinished character, and bytes that follow each other, of which one
// that is invalid spoils all) waits for that token or for Flush.
//
// A Stream is for one goroutine.
type Stream struct {
	t     *Tokenizer
	skip  bool
	steps []decodeStep
	out   strings.Builder
}

// NewStream starts a stream; special tokens give no text if skipSpecials is true.
func (t *Tokenizer) NewStream(skipSpecials bool) *Stream {
	s := &Stream{t: t, skip: skipSpecials}
	s.restart()
	return s
}

func (s *Stream) restart() {
	s.steps = make([]decodeStep, len(s.t.decoders))
	for i, d := range s.t.decoders {
		s.steps[i] = d.start()
	}
}

// Push adds a token and returns the text that is settled by it, which may be empty.
// An id that no token has is an error and changes nothing.
func (s *Stream) Push(id int32) (string, error) {
	if err := s.push(id); err != nil {
		return "", fmt.Errorf("tokenizer: %w", err)
	}
	return s.take(), nil
}

// Flush returns the text that was still open; the stream then starts anew.
func (s *Stream) Flush() string {
	s.end()
	s.restart()
	return s.take()
}

func (s *Stream) take() string {
	text := s.out.String()
	s.out.Reset()
	return text
}

func (s *Stream) push(id int32) error {
	tok, ok := s.t.Token(id)
	if !ok {
		return fmt.Errorf("no token has the id %d (vocabulary size %d)", id, s.t.VocabSize())
	}
	if s.skip && s.t.special[id] {
		return nil
	}
	s.feed(0, tok)
	return nil
}

func (s *Stream) feed(step int, token string) {
	if step == len(s.steps) {
		s.out.WriteString(token)
		return
	}
	s.steps[step].feed(s, step+1, token)
}

func (s *Stream) end() {
	for i, step := range s.steps {
		step.end(s, i+1)
	}
}

// stateless is embedded by steps that hold nothing back.
type stateless struct{}

func (stateless) end(*Stream, int) {}

// joinSpec puts a space between tokens.
type joinSpec struct{}

func (joinSpec) start() decodeStep { return &joinStep{} }

type joinStep struct {
	stateless
	more bool
}

func (d *joinStep) feed(s *Stream, next int, token string) {
	if d.more {
		s.feed(next, " ")
	}
	d.more = true
	s.feed(next, token)
}

// replaceSpec replaces a literal string within each token.
type replaceSpec struct {
	stateless
	old, with string
}

func (d replaceSpec) start() decodeStep { return d }

func (d replaceSpec) feed(s *Stream, next int, token string) {
	s.feed(next, strings.ReplaceAll(token, d.old, d.with))
}

// metaspaceSpec makes the replacement a space, and nothing in the first token.
type metaspaceSpec struct {
	replacement string
	drop        bool
}

func (d metaspaceSpec) start() decodeStep { return &metaspaceStep{metaspaceSpec: d} }

type metaspaceStep struct {
	stateless
	metaspaceSpec
	more bool
}

func (d *metaspaceStep) feed(s *Stream, next int, token string) {
	with := " "
	if d.drop && !d.more {
		with = ""
	}
	d.more = true
	s.feed(next, strings.ReplaceAll(token, d.replacement, with))
}

// byteFallbackSpec turns a run of byte tokens into the text that it spells, if all of
// it is valid UTF-8, and into a U+FFFD for each of its bytes if not.
type byteFallbackSpec struct{}

func (byteFallbackSpec) start() decodeStep { return &byteFallbackStep{} }

type byteFallbackStep struct {
	run    []byte
	broken bool // nothing that follows can make the run valid
}

func (d *byteFallbackStep) feed(s *Stream, next int, token string) {
	b, ok := byteToken(token)
	if !ok {
		d.end(s, next)
		s.feed(next, token)
		return
	}
	if d.broken {
		s.feed(next, "\uFFFD")
		return
	}
	d.run = append(d.run, b)
	// The run was valid up to its last, perhaps unfinished character.
	i := len(d.run) - 1
	for i > 0 && len(d.run)-i < utf8.UTFMax && !utf8.RuneStart(d.run[i]) {
		i--
	}
	if tail := d.run[i:]; utf8.FullRune(tail) && !utf8.Valid(tail) {
		d.broken = true
		d.spill(s, next)
	}
}

func (d *byteFallbackStep) spill(s *Stream, next int) {
	for range d.run {
		s.feed(next, "\uFFFD")
	}
	d.run = d.run[:0]
}

func (d *byteFallbackStep) end(s *Stream, next int) {
	if utf8.Valid(d.run) {
		if len(d.run) > 0 {
			s.feed(next, string(d.run))
		}
	} else {
		d.spill(s, next)
	}
	d.run, d.broken = d.run[:0], false
}

// byteToken reads a token like <0x0A>. A sign is let through, "<0x+A>", as Rust's
// u8::from_str_radix does.
func byteToken(token string) (byte, bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	hex := strings.TrimPrefix(token[3:5], "+")
	b, err := strconv.ParseUint(hex, 16, 8)
	return byte(b), err == nil
}

// stripSpec takes up to start_ characters off the front and stop off the back of each
// token, or of the whole text behind Fuse, while they are content.
type stripSpec struct {
	content      string // one character
	start_, stop int32
	fused        bool
}

func (d stripSpec) start() decodeStep { return &stripStep{stripSpec: d} }

type stripStep struct {
	stripSpec
	front int32 // taken off the front so far, start_ once that is over
	held  int   // characters of content that may be the end
}

func (d *stripStep) feed(s *Stream, next int, token string) {
	for d.front < d.start_ && token != "" {
		rest, ok := strings.CutPrefix(token, d.content)
		if !ok {
			d.front = d.start_
			break
		}
		token = rest
		d.front++
	}
	n := 0 // characters of content at the end of the token, stop at most
	end := len(token)
	for n < int(d.stop) && strings.HasSuffix(token[:end], d.content) {
		end -= len(d.content)
		n++
	}
	if end > 0 {
		s.feed(next, strings.Repeat(d.content, d.held)+token[:end])
		d.held = n
	} else if over := d.held + n - int(d.stop); over > 0 {
		s.feed(next, strings.Repeat(d.content, over))
		d.held = int(d.stop)
	} else {
		d.held += n
	}
	if !d.fused {
		d.front, d.held = 0, 0
	}
}

func (d *stripStep) end(*Stream, int) { d.front, d.held = 0, 0 }
