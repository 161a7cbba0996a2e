package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// validUTF8 replaces each byte that cannot begin a character, and each maximal part
// of an incomplete character, by U+FFFD: the recommendation of the Unicode Standard
// (chapter 3.9, "U+FFFD Substitution of Maximal Subparts"), and what Rust's
// String::from_utf8_lossy and Python's errors="replace" do. strings.ToValidUTF8
// replaces a whole run by one U+FFFD, and a range loop each byte.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			for n < min(len(s), utf8.UTFMax) && !utf8.FullRuneInString(s[:n+1]) {
				n++
			}
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// alignedText is text on its way from the input to the model. at, if kept, has for
// each byte the byte of the input that it comes from, and one more entry for the end.
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

// prepend puts s before the text; it comes from no bytes of the input.
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
	out := alignedText{text: strings.ReplaceAll(a.text, old, with)}
	if a.at == nil {
		return out
	}
	out.at = make([]int, 0, len(out.text)+1)
	for i := 0; i < len(a.text); {
		if !strings.HasPrefix(a.text[i:], old) {
			out.at = append(out.at, a.at[i])
			i++
			continue
		}
		for k := range len(with) {
			out.at = append(out.at, min(a.at[i]+k, a.at[i+len(old)]))
		}
		i += len(old)
	}
	out.at = append(out.at, a.at[len(a.text)])
	return out
}
