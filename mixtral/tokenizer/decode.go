package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Decode returns the text of token ids, [T], without special tokens if skipSpecials
// is true. An id without a token is an error. Byte tokens that are not valid UTF-8
// become U+FFFD each, as with the Hugging Face tokenizers.
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

// Stream turns token ids into text one by one, for output while a model generates.
// Every string that it returns is whole characters, and together they are what Decode
// returns for all ids. Text that a later token may still change is held back until
// that token or Flush: the bytes of an incomplete character, and all of a run of byte
// tokens, which one invalid byte spoils.
//
// A Stream is for one goroutine.
type Stream struct {
	t     *Tokenizer
	skip  bool
	steps []decodeStep
	out   strings.Builder
}

// NewStream starts a stream; special tokens have no text if skipSpecials is true.
func (t *Tokenizer) NewStream(skipSpecials bool) *Stream {
	s := &Stream{t: t, skip: skipSpecials}
	s.restart()
	return s
}

func (s *Stream) restart() {
	s.steps = make([]decodeStep, len(s.t.decoders))
	for i, start := range s.t.decoders {
		s.steps[i] = start()
	}
}

// Push adds a token and returns the text that it completes, which may be empty. An id
// without a token is an error and changes nothing.
func (s *Stream) Push(id int32) (string, error) {
	if err := s.push(id); err != nil {
		return "", fmt.Errorf("tokenizer: %w", err)
	}
	return s.take(), nil
}

// Flush returns the text that was held back, and restarts the stream.
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
	if !s.skip || !s.t.special[id] {
		s.feed(0, tok)
	}
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

// decodeStep is a running step from tokens to text. It passes text that no later
// token changes to s.feed(next, ...).
type decodeStep interface {
	feed(s *Stream, next int, token string)
	end(s *Stream, next int)
}

// parseDecoder reads the decoder; without one, tokens are joined by spaces.
func (t *Tokenizer) parseDecoder(j value) {
	add := func(start func() decodeStep) { t.decoders = append(t.decoders, start) }
	if j.null() {
		add(func() decodeStep { return &joinStep{} })
		return
	}
	fused := false
	var replaced []normalizeStep
	var parse func(value)
	parse = func(j value) {
		typ := j.typ()
		// After Fuse there is one token as long as the text; only what can work on
		// it bit by bit is implemented there.
		if fused && typ != "Sequence" && typ != "Strip" && typ != "Fuse" {
			j.member("type").fail("%q after Fuse is not implemented", typ)
		}
		switch typ {
		case "Sequence":
			j.sequence("decoders", parse)
		case "Replace":
			r := parseReplace(j)
			replaced = append(replaced, r)
			limitGrowth(j.member("content"), replaced)
			add(func() decodeStep { return &replaceStep{old: r.old, with: r.with, first: r.with} })
		case "Metaspace":
			m := parseMetaspace(j)
			first := ""
			if m.scheme == "never" {
				first = " "
			}
			add(func() decodeStep { return &replaceStep{old: m.replacement, with: " ", first: first} })
		case "ByteFallback":
			j.members("type")
			add(func() decodeStep { return &byteFallbackStep{} })
		case "Fuse":
			j.members("type")
			fused = true
		case "Strip":
			j.members("type", "content", "start", "stop")
			s := stripStep{content: j.member("content").char(), start: j.member("start").id(), stop: j.member("stop").id(), fused: fused}
			add(func() decodeStep { step := s; return &step })
		default:
			j.member("type").fail("%q is not implemented; must be Sequence, Replace, ByteFallback, Fuse, Strip or Metaspace", typ)
		}
	}
	parse(j)
}

// joinStep puts a space between tokens.
type joinStep struct{ more bool }

func (d *joinStep) feed(s *Stream, next int, token string) {
	if d.more {
		s.feed(next, " ")
	}
	d.more = true
	s.feed(next, token)
}

func (*joinStep) end(*Stream, int) {}

// replaceStep replaces a literal string within each token.
type replaceStep struct {
	old, with string
	first     string // in place of with, in the first token
	more      bool
}

func (d *replaceStep) feed(s *Stream, next int, token string) {
	with := d.with
	if !d.more {
		with, d.more = d.first, true
	}
	s.feed(next, strings.ReplaceAll(token, d.old, with))
}

func (*replaceStep) end(*Stream, int) {}

// byteFallbackStep turns a run of byte tokens into its text, if all of it is valid
// UTF-8, and into a U+FFFD for each of its bytes otherwise.
type byteFallbackStep struct {
	run    []byte
	broken bool // no later token can make the run valid
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
	// The run was valid up to its last, perhaps incomplete character.
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
	if !utf8.Valid(d.run) {
		d.spill(s, next)
	} else if len(d.run) > 0 {
		s.feed(next, string(d.run))
	}
	d.run, d.broken = d.run[:0], false
}

// byteToken reads a token such as <0x0A>. It accepts a sign, "<0x+A>", as Rust's
// u8::from_str_radix does.
func byteToken(token string) (byte, bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(strings.TrimPrefix(token[3:5], "+"), 16, 8)
	return byte(b), err == nil
}

// stripStep removes up to start characters from the front and stop from the back of
// each token, or of the whole text after Fuse, while they are content.
type stripStep struct {
	content     string // one character
	start, stop int32
	fused       bool

	front int32 // removed from the front so far; start once that is over
	held  int   // characters of content that may be the end
}

func (d *stripStep) feed(s *Stream, next int, token string) {
	for d.front < d.start && token != "" {
		rest, ok := strings.CutPrefix(token, d.content)
		if !ok {
			d.front = d.start
			break
		}
		token = rest
		d.front++
	}
	n := 0 // characters of content at the end of the token, at most stop
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
