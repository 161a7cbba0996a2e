package tokenizer

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	sugarme "github.com/sugarme/tokenizer"
)

// Tokenizer turns text into token ids and back, token for token as the Hugging Face
// tokenizers library does with the same tokenizer.json.
//
// It covers what Mixtral's family uses: a BPE model with byte fallback, fused
// unknown tokens and ignored merges; added tokens; a normalizer of Prepend and
// Replace steps, or a Metaspace pre-tokenizer; a TemplateProcessing post-processor;
// and decoders made of Replace, ByteFallback, Fuse, Strip and Metaspace. A file that
// asks for anything else is refused when it is read.
//
// It is built on github.com/sugarme/tokenizer: its Model interface, with our BPE
// behind it (see Model), and its added tokens. The steps around the model are our own,
// because there sugarme's differ from the reference or panic on some inputs, and its
// normalized strings take quadratic time (20 kB of prose 15 s; here 1 MB takes .05 s).
//
// A Tokenizer is safe for concurrent use.
type Tokenizer struct {
	model *bpeModel

	added   []sugarme.AddedTokenWithId // in the order of the file
	ids     map[string]int32           // of added tokens
	tokens  []string                   // by id, vocabulary and added tokens
	known   []bool                     // by id
	special []bool                     // by id: left out when decoding asks for it

	raw  addedMatcher // added tokens searched in the text as given
	norm addedMatcher // added tokens searched in normalized text

	normalizer []normalizeStep
	metaspace  *metaspace // nil: no pre-tokenizer
	align      bool       // where a section starts cannot be told without alignment

	template []int32 // ids around the text, which is textPlace
	decoders []decoderSpec
}

// textPlace stands for the text itself in Tokenizer.template.
const textPlace = -1

// Span is a token and the part of the text that it stands for.
type Span struct {
	ID    int32  // row of the embedding, in [0, VocabSize)
	Token string // as in the vocabulary; for an added token, the text it matched
	// Start and End are bytes of the text, after invalid UTF-8 was replaced by
	// U+FFFD. The spans of a text follow each other; a token that stands for no text
	// (<s>, a space put before the first word) has an empty one.
	Start, End int
}

// maxTokenizerFile bounds what Load reads; the largest known tokenizer.json
// of any model has about 35 MB.
const maxTokenizerFile = 1 << 28

// Load reads a tokenizer.json of the Hugging Face tokenizers library from a
// file system. Errors name the file and the field.
func Load(fsys fs.FS, name string) (*Tokenizer, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenizerFile+1))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", name, err)
	}
	if len(data) > maxTokenizerFile {
		return nil, fmt.Errorf("tokenizer: %s: has more than %d bytes", name, maxTokenizerFile)
	}
	return Parse(name, data)
}

// Model returns the BPE model behind sugarme's interface, for use in a pipeline of
// that library.
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

// ID returns the id of a token as it is written in the vocabulary ("▁the", "<0x0A>",
// "<s>"), and false if there is none.
func (t *Tokenizer) ID(token string) (int32, bool) {
	if id, ok := t.ids[token]; ok {
		return id, true
	}
	id, ok := t.model.ids[token]
	return id, ok
}

// IsSpecial says whether a token is left out of decoded text when asked.
func (t *Tokenizer) IsSpecial(id int32) bool {
	return id >= 0 && int(id) < len(t.special) && t.special[id]
}

// Encode returns the token ids [T] of a text, with those that the tokenizer's
// template puts around it (for Mixtral <s> before it) if specials is true. Added
// tokens that the text spells out, "</s>" for one, become those tokens. Invalid
// UTF-8 counts as U+FFFD, one for each maximal broken part, as in Rust's
// String::from_utf8_lossy.
func (t *Tokenizer) Encode(text string, specials bool) []int32 {
	e := encoding{t: t, track: t.align}
	e.run(text)
	ids := e.ids
	if ids == nil {
		ids = []int32{}
	}
	if !specials {
		return ids
	}
	out := make([]int32, 0, len(ids)+len(t.template))
	for _, id := range t.template {
		if id == textPlace {
			out = append(out, ids...)
		} else {
			out = append(out, id)
		}
	}
	return out
}

// EncodeTokens is Encode with each token's text and place [T].
func (t *Tokenizer) EncodeTokens(text string, specials bool) []Span {
	e := encoding{t: t, track: true, spans: []Span{}}
	e.run(text)
	if !specials {
		return e.spans
	}
	out := make([]Span, 0, len(e.spans)+len(t.template))
	at := 0
	for _, id := range t.template {
		if id == textPlace {
			out = append(out, e.spans...)
			at = e.length
		} else {
			out = append(out, Span{id, t.tokens[id], at, at})
		}
	}
	return out
}

// Pieces returns for each token id [T] a text to show for it alone: spaces as
// spaces, special tokens by name, the bytes of a character by name ("<0xE4>") unless
// the byte is a character. An id without a token gives "<id N>".
func (t *Tokenizer) Pieces(ids []int32) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		tok, ok := t.Token(id)
		if !ok {
			out[i] = fmt.Sprintf("<id %d>", id)
			continue
		}
		if b, ok := byteToken(tok); ok && b < 0x80 {
			out[i] = string(rune(b))
			continue
		}
		if !t.special[id] {
			tok = strings.ReplaceAll(tok, t.model.mark, " ")
		}
		out[i] = tok
	}
	return out
}

// encoding is one call of Encode or EncodeTokens.
type encoding struct {
	t      *Tokenizer
	track  bool // keep where everything comes from
	ids    []int32
	spans  []Span // filled instead of ids if not nil
	pieces []bpePiece
	length int // of the text, in bytes
}

var encodingPieces = sync.Pool{New: func() any { return new([]bpePiece) }}

func (e *encoding) run(text string) {
	buf := encodingPieces.Get().(*[]bpePiece)
	e.pieces = *buf
	defer func() {
		if cap(e.pieces) <= keepSymbols {
			*buf = e.pieces[:0]
			encodingPieces.Put(buf)
		}
	}()
	text = validUTF8(text)
	e.length = len(text)
	if e.spans == nil {
		e.ids = make([]int32, 0, len(text)/3+2)
	}
	whole := alignedText{text: text}
	if e.track {
		whole = alignIdentity(text)
	}
	t := e.t
	t.raw.split(text, func(lo, hi int, id int32) {
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
			case t.metaspace == nil:
				e.words(sub)
			default:
				atStart := lo == 0 && lo2 == 0
				if sub.at != nil {
					atStart = sub.at[0] == 0
				}
				t.metaspace.each(sub, atStart, e.words)
			}
		})
	})
}

// one adds a token that stands for a whole piece of text.
func (e *encoding) one(part alignedText, id int32) {
	if e.spans == nil {
		e.ids = append(e.ids, id)
		return
	}
	e.spans = append(e.spans, Span{id, part.text, part.at[0], part.at[len(part.text)]})
}

// words gives a piece of text to the model, word by word.
func (e *encoding) words(a alignedText) {
	m := e.t.model
	if id, ok := m.wholePiece(a.text); ok {
		e.one(a, id)
		return
	}
	pos := 0
	for pos < len(a.text) {
		end := pos + m.wordEnd(a.text[pos:])
		e.pieces = m.appendWord(e.pieces[:0], a.text[pos:end])
		if e.spans == nil {
			for _, p := range e.pieces {
				e.ids = append(e.ids, p.id)
			}
			pos = end
			continue
		}
		for _, p := range e.pieces {
			e.spans = append(e.spans, Span{p.id, m.tokens[p.id], a.at[pos], a.at[pos+int(p.size)]})
			pos += int(p.size)
		}
		pos = end
	}
}
