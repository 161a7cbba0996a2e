package tokenizer

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// normalizeStep is one step of the normalizer.
type normalizeStep interface {
	apply(a alignedText) alignedText
	// growth is how many bytes a byte of text may become.
	growth() float64
}

// normalize applies the tokenizer's normalizer to the text between added tokens.
func (t *Tokenizer) normalize(a alignedText) alignedText {
	for _, s := range t.normalizer {
		a = s.apply(a)
	}
	return a
}

// prependStep puts a string before a text that is not empty.
type prependStep struct{ with string }

func (s prependStep) apply(a alignedText) alignedText {
	if a.text == "" {
		return a
	}
	return a.prepend(s.with)
}

func (s prependStep) growth() float64 { return float64(1 + len(s.with)) }

// literalStep replaces a literal string, which is not empty.
type literalStep struct{ old, with string }

func (s literalStep) apply(a alignedText) alignedText { return a.replace(s.old, s.with) }

func (s literalStep) growth() float64 { return max(1, float64(len(s.with))/float64(len(s.old))) }

// regexpStep replaces the matches of a pattern that matches no empty string.
type regexpStep struct {
	old  *regexp.Regexp
	with string
}

func (s regexpStep) apply(a alignedText) alignedText {
	out := rewriter{from: a}
	for _, m := range s.old.FindAllStringIndex(a.text, -1) {
		out.keep(m[0] - out.pos)
		out.replace(m[1]-m[0], s.with)
	}
	return out.end()
}

func (s regexpStep) growth() float64 { return float64(max(1, len(s.with))) }

// trimStep removes white space at the ends of a text.
type trimStep struct{ left, right bool }

func (s trimStep) apply(a alignedText) alignedText {
	lo, hi := 0, len(a.text)
	if s.left {
		lo = hi - len(strings.TrimLeftFunc(a.text, unicode.IsSpace))
	}
	if s.right {
		hi = lo + len(strings.TrimRightFunc(a.text[lo:], unicode.IsSpace))
	}
	return a.slice(lo, hi)
}

func (trimStep) growth() float64 { return 1 }

// nmtStep removes control characters and makes other invisible characters spaces, as
// sentencepiece does for machine translation.
type nmtStep struct{}

func (nmtStep) apply(a alignedText) alignedText {
	out := rewriter{from: a}
	for _, r := range a.text {
		n := utf8.RuneLen(r)
		switch {
		case 1 <= r && r <= 0x08, r == 0x0B, 0x0E <= r && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
			out.replace(n, "")
		case slices.Contains(nmtSpaces, r):
			out.replace(n, " ")
		default:
			out.keep(n)
		}
	}
	return out.end()
}

var nmtSpaces = []rune{'\t', '\n', '\f', '\r', 0x1680, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD}

func (nmtStep) growth() float64 { return 1 }

// lowercaseStep replaces each character by its lower case.
type lowercaseStep struct{}

func (lowercaseStep) apply(a alignedText) alignedText {
	out := rewriter{from: a}
	for _, r := range a.text {
		n := utf8.RuneLen(r)
		switch low := unicode.ToLower(r); {
		case r == 'İ':
			out.replace(n, "i̇") // the only one with two characters
		case low != r:
			out.replace(n, string(low))
		default:
			out.keep(n)
		}
	}
	return out.end()
}

func (lowercaseStep) growth() float64 { return 1.5 }

// rewriter makes a new text by keeping and replacing parts of another from left to
// right. It copies nothing before the first replacement.
type rewriter struct {
	from    alignedText
	pos     int // bytes of from that were kept or replaced
	done    int // bytes of from that are represented in the new text
	changed bool
	text    []byte
	at      []int
}

// keep keeps the next n bytes.
func (w *rewriter) keep(n int) { w.pos += n }

// replace replaces the next n bytes, which are whole characters. Of the new
// characters, each comes from the old one at its place, and those that follow from the
// last old one.
func (w *rewriter) replace(n int, with string) {
	if !w.changed {
		w.changed = true
		w.text = make([]byte, 0, len(w.from.text)+len(with))
		if w.from.at != nil {
			w.at = make([]int, 0, len(w.from.text)+len(with)+1)
		}
	}
	w.flush()
	old, end := w.pos, w.pos+n
	w.pos, w.done = end, end
	w.text = append(w.text, with...)
	if w.from.at == nil {
		return
	}
	for i := 0; i < len(with); {
		_, size := utf8.DecodeRuneInString(with[i:])
		for range size {
			w.at = append(w.at, w.from.at[old])
		}
		i += size
		if _, m := utf8.DecodeRuneInString(w.from.text[old:end]); old+m < end {
			old += m
		}
	}
}

// flush copies what was kept.
func (w *rewriter) flush() {
	w.text = append(w.text, w.from.text[w.done:w.pos]...)
	if w.from.at != nil {
		w.at = append(w.at, w.from.at[w.done:w.pos]...)
	}
	w.done = w.pos
}

// end keeps what remains and returns the new text.
func (w *rewriter) end() alignedText {
	if !w.changed {
		return w.from
	}
	w.pos = len(w.from.text)
	w.flush()
	if w.from.at != nil {
		w.at = append(w.at, w.from.at[len(w.from.text)])
	}
	return alignedText{string(w.text), w.at}
}
