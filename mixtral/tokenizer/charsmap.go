package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/graphemes"
)

// charsmap is the normalizer Precompiled: sentencepiece's table of character
// sequences and their replacements.
//
// The table is a double-array trie as darts-clone writes it (Aoe 1989, "An Efficient
// Digital Search Algorithm by Using a Double-Array Structure") of 32-bit units. A
// unit that a byte leads to has that byte in bits 0-7, in bits 10-30 an offset, which
// bit 9 multiplies by 256, and bit 8 set if a key ends there. The children of the unit
// at position p are at (p ^ offset) ^ byte, and the value of the key at (p ^ offset):
// the place of its replacement in text.
type charsmap struct {
	units   []uint32
	text    string // replacements, each ended by a NUL
	plain   [utf8.RuneSelf]bool
	longest int // of the replacements
}

// longestGrapheme is the most bytes of a grapheme that is replaced as a whole.
const longestGrapheme = 5

// newCharsmap reads a precompiled table: the size of the trie in bytes, the trie, the
// replacements; numbers are little-endian.
func newCharsmap(encoded string) (*charsmap, error) {
	blob, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("is not base64: %w", err)
	}
	if len(blob) < 4 {
		return nil, fmt.Errorf("has %d bytes; must have at least 4", len(blob))
	}
	size := binary.LittleEndian.Uint32(blob)
	blob = blob[4:]
	if size%4 != 0 || size == 0 || uint64(size) > uint64(len(blob)) {
		return nil, fmt.Errorf("has a trie of %d bytes in %d; must be a multiple of 4", size, len(blob))
	}
	c := &charsmap{units: make([]uint32, size/4), text: string(blob[size:])}
	for i := range c.units {
		c.units[i] = binary.LittleEndian.Uint32(blob[4*i:])
	}
	if !utf8.ValidString(c.text) {
		return nil, errors.New("has replacements that are not valid UTF-8")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	for b := range c.plain {
		_, mapped := c.find(string(rune(b)))
		c.plain[b] = !mapped && b != '\r' // which may be part of a longer grapheme
	}
	return c, nil
}

func trieOffset(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
func trieLabel(unit uint32) uint32  { return unit & (1<<31 | 0xFF) }
func trieHasLeaf(unit uint32) bool  { return unit>>8&1 == 1 }

// check visits every unit that a lookup can reach.
func (c *charsmap) check() error {
	seen := make([]bool, len(c.units))
	next := []uint32{0}
	for len(next) > 0 {
		pos := next[len(next)-1]
		next = next[:len(next)-1]
		unit := c.units[pos]
		base := pos ^ trieOffset(unit)
		if uint64(base|0xFF) >= uint64(len(c.units)) {
			return fmt.Errorf("trie: unit %d refers to unit %d of %d", pos, base|0xFF, len(c.units))
		}
		if seen[pos] && trieHasLeaf(unit) { // not at the root as such
			at := c.value(base)
			if at > len(c.text) || at < len(c.text) && !utf8.RuneStart(c.text[at]) {
				return fmt.Errorf("trie: unit %d refers to byte %d of %d bytes of replacements, where none begins", base, at, len(c.text))
			}
			c.longest = max(c.longest, len(c.replacement(at)))
		}
		for b := uint32(1); b < 256; b++ {
			if to := base ^ b; trieLabel(c.units[to]) == b && !seen[to] {
				seen[to] = true
				next = append(next, to)
			}
		}
	}
	return nil
}

func (c *charsmap) value(base uint32) int { return int(c.units[base] & (1<<31 - 1)) }

func (c *charsmap) replacement(at int) string {
	with, _, _ := strings.Cut(c.text[at:], "\x00")
	return with
}

// find returns the replacement of the shortest beginning of s that has one. It
// replaces all of s, as the Hugging Face tokenizers apply sentencepiece's table.
func (c *charsmap) find(s string) (with string, ok bool) {
	base := trieOffset(c.units[0])
	for i := range len(s) {
		b := uint32(s[i])
		if b == 0 {
			break
		}
		pos := base ^ b
		unit := c.units[pos]
		if trieLabel(unit) != b {
			break
		}
		base = pos ^ trieOffset(unit)
		if trieHasLeaf(unit) {
			return c.replacement(c.value(base)), true
		}
	}
	return "", false
}

func (c *charsmap) growth() float64 { return float64(max(1, c.longest)) }

// apply replaces each grapheme (extended grapheme cluster, UAX #29) of few bytes that
// has a replacement, and otherwise each of its characters that has one.
func (c *charsmap) apply(a alignedText) alignedText {
	out := rewriter{from: a}
	for out.pos < len(a.text) {
		if n := c.plainBytes(a.text[out.pos:]); n > 0 {
			out.keep(n)
			continue
		}
		clusters := graphemes.FromString(a.text[out.pos:])
		for clusters.Next() {
			c.cluster(&out, clusters.Value())
			if c.plainBytes(a.text[out.pos:]) > 0 {
				break
			}
		}
	}
	end := out.end()
	if out.changed && end.at != nil {
		end.at[0] = a.at[0] // what was removed at the start belongs to the first character
	}
	return end
}

// plainBytes returns the number of bytes at the start of a text that are each a
// grapheme without a replacement.
func (c *charsmap) plainBytes(text string) int {
	for i := range len(text) {
		// A grapheme of several characters that begins with an ASCII character other
		// than a carriage return does not continue with one.
		if b := text[i]; b >= utf8.RuneSelf || !c.plain[b] || i+1 < len(text) && text[i+1] >= utf8.RuneSelf {
			return i
		}
	}
	return len(text)
}

func (c *charsmap) cluster(out *rewriter, cluster string) {
	if len(cluster) <= longestGrapheme {
		if with, ok := c.find(cluster); ok {
			out.replace(len(cluster), with)
			return
		}
	}
	for i, r := range cluster {
		n := utf8.RuneLen(r)
		if with, ok := c.find(cluster[i : i+n]); ok {
			out.replace(n, with)
		} else {
			out.keep(n)
		}
	}
}
