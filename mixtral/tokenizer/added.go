package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is one of a file's added_tokens.
type addedToken struct {
	id                         int32
	content                    string
	singleWord, lstrip, rstrip bool
	normalized, special        bool
}

// parseAdded reads the added tokens and fills the tables by id.
//
// The Hugging Face tokenizers assign an added token the id that it has in the
// vocabulary, or else the next free one, whatever the file states. A file that states
// another id is refused: its text would become ids that it does not name.
func (t *Tokenizer) parseAdded(j value) {
	t.tokens, t.known = slices.Clone(t.vocab.tokens), slices.Clone(t.vocab.known)
	t.ids = map[string]int32{}
	var added []addedToken
	if !j.null() {
		for _, m := range j.list() {
			tok := parseAddedToken(m)
			t.addID(m, tok, added)
			added = append(added, tok)
		}
	}
	t.special = make([]bool, len(t.tokens))
	// Special tokens precede others of the same content.
	for _, special := range []bool{true, false} {
		for i, tok := range added {
			if tok.special != special {
				continue
			}
			if !tok.normalized {
				t.special[tok.id] = special
				t.raw.add(tok, tok.content)
				continue
			}
			if t.align && t.precompiled() {
				j.list()[i].member("normalized").fail("true is not implemented with prepend_scheme first behind a Precompiled normalizer")
			}
			content := t.normalize(alignedText{text: tok.content}).text
			if content == "" {
				j.list()[i].fail("%q is normalized to nothing", tok.content)
			}
			t.norm.add(tok, content)
			// Decoding returns the normalized content, which is special only if it
			// is the content of a special token.
			t.tokens[tok.id] = content
			t.special[tok.id] = slices.ContainsFunc(added, func(a addedToken) bool {
				return a.special && a.content == content
			})
		}
	}
}

func parseAddedToken(j value) addedToken {
	j.members("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
	tok := addedToken{
		id:         j.member("id").id(),
		content:    j.member("content").str(),
		singleWord: j.member("single_word").boolean(),
		lstrip:     j.member("lstrip").boolean(),
		rstrip:     j.member("rstrip").boolean(),
		normalized: j.member("normalized").boolean(),
		special:    j.member("special").boolean(),
	}
	if tok.content == "" {
		j.member("content").fail("is empty")
	}
	return tok
}

// addID checks the id of a token that follows earlier added ones, and enters it into
// the tables.
func (t *Tokenizer) addID(j value, tok addedToken, earlier []addedToken) {
	if _, ok := t.ids[tok.content]; ok {
		j.member("content").fail("%q was added before", tok.content)
	}
	id, inVocabulary := t.vocab.ids[tok.content]
	if !inVocabulary {
		id = int32(len(t.vocab.ids))
		for _, a := range earlier {
			id = max(id, a.id+1)
		}
	}
	if tok.id != id {
		j.member("id").fail("is %d; must be %d, the id that %q has or would be assigned", tok.id, id, tok.content)
	}
	t.ids[tok.content] = id
	switch {
	case inVocabulary:
	case int(id) == len(t.tokens):
		t.tokens, t.known = append(t.tokens, tok.content), append(t.known, true)
	case t.known[id]:
		j.member("id").fail("%d of %q is also that of %q", id, tok.content, t.tokens[id])
	default:
		t.tokens[id], t.known[id] = tok.content, true
	}
}

// addedMatcher finds added tokens in text: at each position the longest, from left to
// right, and the first added of equal ones. A trie keeps the time linear in the text,
// times the longest added token in the worst case.
type addedMatcher struct {
	tokens []addedToken
	first  [256]bool
	next   map[uint64]int32 // node<<8 | byte -> node
	ends   []int32          // node -> index into tokens, or -1
}

// add adds a token that is found by content, which is not empty.
func (m *addedMatcher) add(tok addedToken, content string) {
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

// find returns the bytes and the index of the next token at or after byte i, or -1.
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

// split calls fn with the parts of a text that are not empty, in order: added tokens
// with their id, and the text between them with -1. lstrip and rstrip extend a token
// over white space, single_word refuses a match that touches a word. A token made of
// white space is found even where an earlier rstrip covered it, as by the Hugging Face
// tokenizers.
func (m *addedMatcher) split(text string, fn func(lo, hi int, id int32)) {
	done := 0                     // bytes that fn was called with
	spaceFrom, spaceEnd := -1, -1 // the white space that the last rstrip found
	for i := 0; len(m.tokens) > 0; {
		lo, hi, k := m.find(text, i)
		if k < 0 {
			break
		}
		i = hi
		tok := &m.tokens[k]
		if tok.singleWord && (endsWithWord(text[:lo]) || startsWithWord(text[hi:])) {
			continue
		}
		if tok.lstrip {
			lo = max(lo, done) // an earlier rstrip may have covered the start
			lo = done + len(strings.TrimRightFunc(text[done:lo], unicode.IsSpace))
		}
		if tok.rstrip {
			if hi < spaceFrom || hi > spaceEnd {
				spaceFrom, spaceEnd = hi, len(text)-len(strings.TrimLeftFunc(text[hi:], unicode.IsSpace))
			}
			hi = spaceEnd
		}
		if done < lo {
			fn(done, lo, -1)
		}
		if lo < hi { // else the earlier rstrip covered all of it, and the token is lost
			fn(lo, hi, tok.id)
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

// isWordRune reports whether r is \w of Unicode regular expressions (UTS #18, annex C).
func isWordRune(r rune) bool {
	return r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.Nl, unicode.Nd, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}
