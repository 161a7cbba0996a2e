package tokenizer

import (
	"strings"
	"unicode"
)

// preTokenizer cuts normalized text into pieces, which the model splits into tokens
// one by one.
type preTokenizer interface {
	// each calls fn with the pieces of a text that is not empty. atStart reports that
	// the text is at the start of the input.
	each(a alignedText, atStart bool, fn func(alignedText))
}

// whitespaceSplit cuts at white space and removes it.
type whitespaceSplit struct{}

func (whitespaceSplit) each(a alignedText, _ bool, fn func(alignedText)) {
	start := -1
	for i, r := range a.text {
		switch space := unicode.IsSpace(r); {
		case space && start >= 0:
			fn(a.slice(start, i))
			start = -1
		case !space && start < 0:
			start = i
		}
	}
	if start >= 0 {
		fn(a.slice(start, len(a.text)))
	}
}

// metaspace is the pre-tokenizer that makes spaces visible: each becomes the
// replacement, and one is put before the text unless it starts with one.
type metaspace struct {
	replacement string // one character
	scheme      string // where one is put: always, first (before the input only) or never
	split       bool   // cut before every replacement
}

func (m *metaspace) each(a alignedText, atStart bool, fn func(alignedText)) {
	a = a.replace(" ", m.replacement)
	if m.scheme == "always" || m.scheme == "first" && atStart {
		if !strings.HasPrefix(a.text, m.replacement) {
			a = a.prepend(m.replacement)
		}
	}
	if !m.split {
		fn(a)
		return
	}
	for start := 0; start < len(a.text); {
		// A piece is what follows up to the next replacement, not counting one at
		// its own start.
		end, skip := len(a.text), 0
		if strings.HasPrefix(a.text[start:], m.replacement) {
			skip = len(m.replacement)
		}
		if n := strings.Index(a.text[start+skip:], m.replacement); n >= 0 {
			end = start + skip + n
		}
		fn(a.slice(start, end))
		start = end
	}
}
