package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	sugarme "github.com/sugarme/tokenizer"
)

// addedMatcher finds added tokens in text: at each place the longest, from left to
// right, the first given of equals. A trie keeps the time linear in the text, times
// the longest added token at worst.
type addedMatcher struct {
	tokens []sugarme.AddedTokenWithId
	first  [256]bool
	next   map[uint64]int32 // node<<8 | byte -> node
	ends   []int32          // node -> index into tokens, or -1
}

// add makes a pattern of a token; content is what to look for, and not empty.
func (m *addedMatcher) add(tok sugarme.AddedTokenWithId, content string) {
	if m.next == nil {
		m.next, m.ends = map[uint64]int32{}, []int32{-1}
	}
	m.first[content[0]] = true
	node := int32(0)
	for i := range len(content) {
		key := uint64(node)<<8 | uint64(content[i])
		to, ok := m.next[key]
		if !ok {
			to = int32(len(m.ends))
			m.ends = append(m.ends, -1)
			m.next[key] = to
		}
		node = to
	}
	if m.ends[node] < 0 {
		m.ends[node] = int32(len(m.tokens))
		m.tokens = append(m.tokens, tok)
	}
}

// find returns the next token at or after byte i: where it is, and its index, or -1.
func (m *addedMatcher) find(text string, i int) (lo, hi int, tok int32) {
	for ; i < len(text); i++ {
		if !m.first[text[i]] {
			continue
		}
		node, best, end := int32(0), int32(-1), 0
		for k := i; k < len(text); k++ {
			to, ok := m.next[uint64(node)<<8|uint64(text[k])]
			if !ok {
				break
			}
			node = to
			if e := m.ends[node]; e >= 0 {
				best, end = e, k+1
			}
		}
		if best >= 0 {
			return i, end, best
		}
	}
	return 0, 0, -1
}

// split calls fn with the parts of a text in order: the added tokens with their id,
// what lies between with -1, nothing for an empty part. lstrip and rstrip take white
// space along, single_word refuses a match that touches a word. A token made of white
// space is found even where rstrip took it before, as by the Hugging Face tokenizers.
func (m *addedMatcher) split(text string, fn func(lo, hi int, id int32)) {
	done := 0       // up to here everything was told
	spaceEnd := -1  // end of the white space that was last looked through
	spaceFrom := -1 // and its start
	for i := 0; len(m.tokens) > 0; {
		lo, hi, k := m.find(text, i)
		if k < 0 {
			break
		}
		i = hi
		tok := m.tokens[k]
		if tok.Token.SingleWord && (endsWithWord(text[:lo]) || startsWithWord(text[hi:])) {
			continue
		}
		if tok.Token.LStrip {
			for lo > done {
				r, n := utf8.DecodeLastRuneInString(text[done:lo])
				if !unicode.IsSpace(r) {
					break
				}
				lo -= n
			}
			// An earlier rstrip may have taken this far already.
			lo = max(lo, done)
		}
		if tok.Token.RStrip {
			if hi < spaceFrom || hi > spaceEnd {
				rest := strings.TrimLeftFunc(text[hi:], unicode.IsSpace)
				spaceFrom, spaceEnd = hi, len(text)-len(rest)
			}
			hi = spaceEnd
		}
		if done < lo {
			fn(done, lo, -1)
		}
		if lo < hi { // else rstrip took all of it, and the token is lost
			fn(lo, hi, int32(tok.Id))
		}
		done = max(lo, hi)
	}
	if done < len(text) {
		fn(done, len(text), -1)
	}
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWordRune(r)
}

func endsWithWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWordRune(r)
}

// isWordRune is \w of Unicode regular expressions (UTS #18, annex C).
func isWordRune(r rune) bool {
	return r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.Nl, unicode.Nd, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}
