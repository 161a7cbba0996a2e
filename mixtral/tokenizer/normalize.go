package tokenizer

import "strings"

// alignedText is text on its way from the input to the model. at, where it is
// kept, has for each byte the byte of the input that it comes from, and one more
// entry for the end; it is kept only when a caller wants to know.
type alignedText struct {
	text string
	at   []int
}

func alignIdentity(text string) alignedText {
	at := make([]int, len(text)+1)
	for i := range at {
		at[i] = i
	}
	return alignedText{text, at}
}

func (a alignedText) slice(lo, hi int) alignedText {
	if a.at == nil {
		return alignedText{text: a.text[lo:hi]}
	}
	return alignedText{a.text[lo:hi], a.at[lo : hi+1]}
}

// prepend puts s before the text; it stands for no bytes of the input.
func (a alignedText) prepend(s string) alignedText {
	out := alignedText{text: s + a.text}
	if a.at != nil {
		out.at = make([]int, len(out.text)+1)
		for i := range len(s) {
			out.at[i] = a.at[0]
		}
		copy(out.at[len(s):], a.at)
	}
	return out
}

// replace replaces every occurrence of old, which is not empty.
func (a alignedText) replace(old, with string) alignedText {
	if a.at == nil {
		return alignedText{text: strings.ReplaceAll(a.text, old, with)}
	}
	n := strings.Count(a.text, old)
	size := len(a.text) + n*(len(with)-len(old))
	var b strings.Builder
	b.Grow(size)
	at := make([]int, 0, size+1)
	for i := 0; i < len(a.text); {
		if !strings.HasPrefix(a.text[i:], old) {
			b.WriteByte(a.text[i])
			at = append(at, a.at[i])
			i++
			continue
		}
		b.WriteString(with)
		for k := range len(with) {
			at = append(at, min(a.at[i]+k, a.at[i+len(old)]))
		}
		i += len(old)
	}
	return alignedText{b.String(), append(at, a.at[len(a.text)])}
}

// normalizeStep is a Prepend (old is empty) or a Replace of a literal string.
type normalizeStep struct {
	old, with string
}

// normalize applies the tokenizer's normalizer to the text between added tokens.
func (t *Tokenizer) normalize(a alignedText) alignedText {
	for _, s := range t.normalizer {
		switch {
		case s.old != "":
			a = a.replace(s.old, s.with)
		case a.text != "":
			a = a.prepend(s.with)
		}
	}
	return a
}

type prependScheme string

const (
	prependAlways prependScheme = "always"
	prependFirst  prependScheme = "first"
	prependNever  prependScheme = "never"
)

// metaspace is the pre-tokenizer that makes spaces visible: each becomes the
// replacement, and one is put before the text unless it starts with one.
type metaspace struct {
	replacement string // one character
	scheme      prependScheme
	split       bool // cut before every replacement
}

// each calls fn with the pieces that the model gets. atStart says that the text is
// where the input starts.
func (p *metaspace) each(a alignedText, atStart bool, fn func(alignedText)) {
	a = a.replace(" ", p.replacement)
	if p.scheme == prependAlways || p.scheme == prependFirst && atStart {
		if !strings.HasPrefix(a.text, p.replacement) {
			a = a.prepend(p.replacement)
		}
	}
	if !p.split {
		fn(a)
		return
	}
	start := 0
	for start < len(a.text) {
		// A piece is a replacement, if it starts with one, and what follows up to
		// the next.
		skip := 0
		if strings.HasPrefix(a.text[start:], p.replacement) {
			skip = len(p.replacement)
		}
		end := len(a.text)
		if n := strings.Index(a.text[start+skip:], p.replacement); n >= 0 {
			end = start + skip + n
		}
		fn(a.slice(start, end))
		start = end
	}
}
