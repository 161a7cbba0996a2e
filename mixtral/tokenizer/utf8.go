package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// validUTF8 replaces each maximal part of a character that is broken off, and each
// byte that can start none, by one U+FFFD: the Unicode Standard's recommendation
// (chapter 3.9, "U+FFFD Substitution of Maximal Subparts"), and what Rust's
// String::from_utf8_lossy and Python's errors="replace" do. Go's strings.ToValidUTF8
// gives one U+FFFD for a whole run, a range loop one for every byte.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			n = brokenPrefix(s[i:])
			r = utf8.RuneError
		}
		b.WriteRune(r)
		i += n
	}
	return b.String()
}

// brokenPrefix returns how many bytes at the start of s, at least one, could start a
// character but for what follows them (Unicode Standard, table 3-7).
func brokenPrefix(s string) int {
	lo, hi, want := byte(0x80), byte(0xBF), 0
	switch c := s[0]; {
	case c >= 0xC2 && c <= 0xDF:
		want = 1
	case c >= 0xE0 && c <= 0xEF:
		want = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		want = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for n <= want && n < len(s) && s[n] >= lo && s[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}
