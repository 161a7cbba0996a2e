package tokenizer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	sugarme "github.com/sugarme/tokenizer"
)

// Tokenizer turns text into token ids and back, token for token as the Hugging Face
// tokenizers library does with the same tokenizer.json.
//
// It implements what the families of Mixtral and of T5 use: a BPE model with byte
// fallback, fused unknown tokens and ignored merges, or a Unigram model with byte
// fallback; added tokens; normalizers made of Precompiled, Prepend, Replace, Strip,
// Nmt and Lowercase; pre-tokenizers made of Metaspace and WhitespaceSplit; a
// TemplateProcessing post-processor; and decoders made of Replace, ByteFallback, Fuse,
// Strip and Metaspace. A file that contains anything else is an error.
//
// A Tokenizer is safe for concurrent use.
type Tokenizer struct {
	model subwordModel
	vocab *vocabulary // of the model
	mark  string      // the character that represents a space

	ids     map[string]int32 // of added tokens
	tokens  []string         // by id, vocabulary and added tokens
	known   []bool           // by id
	special []bool           // by id: omitted when decoding skips special tokens

	raw  addedMatcher // added tokens searched in the text as given
	norm addedMatcher // added tokens searched in normalized text

	normalizer []normalizeStep
	pre        []preTokenizer
	align      bool // whether a section is at the start is known from its alignment only

	template []int32 // ids around the text, which is textPlace
	decoders []func() decodeStep
}

// textPlace is the place of the text in Tokenizer.template.
const textPlace = -1

// Span is a token and the part of the text that it represents.
type Span struct {
	ID    int32  // row of the embedding, in [0, VocabSize)
	Token string // as in the vocabulary; for an added token, the text it matched
	// Start and End are bytes of the text, after invalid UTF-8 was replaced by
	// U+FFFD. The spans of a text follow each other. The span of a token that
	// represents no text (<s>, a space put before the first word) is empty. Text that
	// normalization removes belongs to the span before it or to none.
	Start, End int
}

// maxFile bounds what Load reads; the largest known tokenizer.json of any model has
// about 35 MB.
const maxFile = 1 << 28

// Load reads a tokenizer.json of the Hugging Face tokenizers library from a file
// system. For a missing file, errors.Is(err, fs.ErrNotExist) is true. Errors name the
// file, and those of its contents the field.
func Load(fsys fs.FS, name string) (*Tokenizer, error) {
	data, err := read(fsys, name)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err // without the name
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return Parse(name, data)
}

func read(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("has more than %d bytes", maxFile)
	}
	return data, err
}

// Model returns the BPE or Unigram model as a model of github.com/sugarme/tokenizer, for a
// pipeline of that library.
func (t *Tokenizer) Model() sugarme.Model { return t.model }

// VocabSize returns V: one more than the largest token id, added tokens included.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns the token of an id, and false if no token has it.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.tokens) || !t.known[id] {
		return "", false
	}
	return t.tokens[id], true
}

// ID returns the id of a token as written in the vocabulary ("▁the", "<0x0A>",
// "<s>"), and false if it does not exist.
func (t *Tokenizer) ID(token string) (int32, bool) {
	if id, ok := t.ids[token]; ok {
		return id, true
	}
	id, ok := t.vocab.ids[token]
	return id, ok
}

// Encode returns the token ids of a text, [T], with those that the tokenizer's
// template puts around it (for Mixtral <s> before it) if specials is true. Added
// tokens that the text spells out, for example "</s>", become those tokens. Invalid
// UTF-8 is read as U+FFFD, one for each maximal invalid part, as in Rust's
// String::from_utf8_lossy.
func (t *Tokenizer) Encode(text string, specials bool) []int32 {
	e := encoding{t: t, track: t.align, ids: make([]int32, 0, len(text)/3+2)}
	e.run(text, specials)
	return e.ids
}

// EncodeSpans is Encode with each token's text and position, [T].
func (t *Tokenizer) EncodeSpans(text string, specials bool) []Span {
	e := encoding{t: t, track: true, spans: []Span{}}
	e.run(text, specials)
	return e.spans
}

// Pieces returns for each token id, [T], a text that shows it alone: spaces as
// spaces, special tokens by name, and a byte that is no character by name ("<0xE4>").
// An id without a token is "<id N>".
func (t *Tokenizer) Pieces(ids []int32) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		tok, ok := t.Token(id)
		b, isByte := byteToken(tok)
		switch {
		case !ok:
			out[i] = fmt.Sprintf("<id %d>", id)
		case isByte && b < 0x80:
			out[i] = string(rune(b))
		case t.special[id]:
			out[i] = tok
		default:
			out[i] = strings.ReplaceAll(tok, t.mark, " ")
		}
	}
	return out
}

// encoding is one call of Encode or EncodeSpans.
type encoding struct {
	t      *Tokenizer
	track  bool // keep where everything comes from
	ids    []int32
	spans  []Span // filled instead of ids if not nil
	pieces []piece
}

func (e *encoding) run(text string, specials bool) {
	text = validUTF8(text)
	whole := alignedText{text: text}
	if e.track {
		whole = alignIdentity(text)
	}
	if !specials {
		e.text(whole)
		return
	}
	at := 0
	for _, id := range e.t.template {
		switch {
		case id == textPlace:
			e.text(whole)
			at = len(text)
		case e.spans != nil:
			e.spans = append(e.spans, Span{id, e.t.tokens[id], at, at})
		default:
			e.ids = append(e.ids, id)
		}
	}
}

// text adds the tokens of the whole text.
func (e *encoding) text(whole alignedText) {
	t := e.t
	t.raw.split(whole.text, func(lo, hi int, id int32) {
		part := whole.slice(lo, hi)
		if id >= 0 {
			e.one(part, id)
			return
		}
		part = t.normalize(part)
		t.norm.split(part.text, func(lo2, hi2 int, id int32) {
			sub := part.slice(lo2, hi2)
			switch {
			case id >= 0:
				e.one(sub, id)
			default:
				e.cut(t.pre, sub, lo == 0 && lo2 == 0)
			}
		})
	})
}

// cut adds the tokens of a text after the pre-tokenizers that remain.
func (e *encoding) cut(pre []preTokenizer, a alignedText, atStart bool) {
	if len(pre) == 0 {
		e.words(a)
		return
	}
	if a.at != nil {
		atStart = a.at[0] == 0
	}
	if len(pre) == 1 {
		pre[0].each(a, atStart, e.words)
		return
	}
	pre[0].each(a, atStart, func(part alignedText) { e.cut(pre[1:], part, atStart) })
}

// one adds a token that represents a whole piece of text.
func (e *encoding) one(part alignedText, id int32) {
	if e.spans == nil {
		e.ids = append(e.ids, id)
		return
	}
	e.spans = append(e.spans, Span{id, part.text, part.at[0], part.at[len(part.text)]})
}

// words adds the tokens of a piece of text, word by word.
func (e *encoding) words(a alignedText) {
	m := e.t.model
	if id, ok := m.wholePiece(a.text); ok {
		e.one(a, id)
		return
	}
	for pos := 0; pos < len(a.text); {
		end := pos + m.wordEnd(a.text[pos:])
		e.pieces = m.appendWord(e.pieces[:0], a.text[pos:end])
		for _, p := range e.pieces {
			if e.spans == nil {
				e.ids = append(e.ids, p.id)
				continue
			}
			e.spans = append(e.spans, Span{p.id, e.t.vocab.tokens[p.id], a.at[pos], a.at[pos+int(p.size)]})
			pos += int(p.size)
		}
		pos = end // also where all characters were dropped
	}
}
