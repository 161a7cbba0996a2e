package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

// The examples of the Unicode Standard, tables 3-8 to 3-11, and incomplete input.
func TestValidUTF8(t *testing.T) {
	const r = "\uFFFD"
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain é 你 😀", "plain é 你 😀"},
		{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", strings.Repeat(r, 8) + "A"},
		{"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", strings.Repeat(r, 8) + "A"},
		{"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", strings.Repeat(r, 5) + "A" + r + r + "B"},
		{"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", strings.Repeat(r, 4) + "A"},
		{"a\xE2\x96", "a" + r},
		{"a\xF0\x9F\x98", "a" + r},
		{"\xF0\x9F\x98\xF0\x9F\x98\x80", r + "😀"},
		{"\xE2\x96\x81\x81", "▁" + r},
		{"\uFFFD\xFF", r + r},
		{"\xC3", r},
		{"\xC3\xC3\xA9", r + "é"},
		{"\xF5\x80\x80\x80", strings.Repeat(r, 4)},
	} {
		assert.Equal(t, c.want, validUTF8(c.in), "%x", c.in)
	}
}

// lossyByDefinition replaces at each position the longest run of bytes that some character
// begins with, by trying continuations.
func lossyByDefinition(s string) string {
	startsCharacter := func(p string) bool {
		for n := 1; n <= utf8.UTFMax-len(p); n++ {
			for _, fill := range []byte{0x80, 0x90, 0x9F, 0xA0, 0xBF} {
				if r, size := utf8.DecodeRuneInString(p + string(fill2(fill, n))); size == len(p)+n && r != utf8.RuneError {
					return true
				}
			}
		}
		return false
	}
	out := ""
	for len(s) > 0 {
		if r, n := utf8.DecodeRuneInString(s); r != utf8.RuneError || n > 1 {
			out, s = out+s[:n], s[n:]
			continue
		}
		n := 1
		for n < len(s) && n < utf8.UTFMax && startsCharacter(s[:n+1]) {
			n++
		}
		out, s = out+"\uFFFD", s[n:]
	}
	return out
}

// fill2 returns b followed by n-1 bytes 0x80.
func fill2(b byte, n int) []byte {
	return append([]byte{b}, strings.Repeat("\x80", n-1)...)
}

func FuzzValidUTF8(f *testing.F) {
	for _, s := range []string{"a\xE2\x96", "\xF0\x9F\x98\xF0", "\xED\xA0\x80", "\xF4\x90\x80", "\xE0\x9F\x80", "\xC2", "é\xC3\xA9\xFF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := validUTF8(s)
		assert.Equal(t, lossyByDefinition(s), got, "%x", s)
	})
}
