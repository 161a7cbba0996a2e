package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	sugarme "github.com/sugarme/tokenizer"
)

// unknownPenalty is how much less probable than the least probable token an unknown
// character is, as a difference of logarithms.
const unknownPenalty = 10

// unigramConfig is the Unigram model of a tokenizer.json.
type unigramConfig struct {
	Tokens       []string  // by id
	Scores       []float64 // by id: log probability
	Unk          int32     // id of the unknown token
	ByteFallback bool      // unknown characters become tokens <0x00>..<0xFF>
}

// unigramModel is the unigram language model (Kudo 2018, arXiv:1804.10959) as the
// Hugging Face tokenizers run it: of all sequences of tokens that spell a text, the one
// with the highest sum of scores. Adjacent unknown characters become one unknown token.
// It implements the interface of a sugarme model.
//
// A unigramModel does not change after newUnigram, except a cache that is safe for
// concurrent use.
type unigramModel struct {
	vocabulary

	// A trie of all tokens. Node 0 is its root.
	nodes []trieNode
	first [256]int32 // child of the root by byte, or -1
	next  pairTable  // node and byte -> child

	unk      int32
	unkScore float64
	fallback bool
	byteIDs  [256]int32

	cache *wordCache
}

// trieNode is the token that ends at a node of the trie.
type trieNode struct {
	score float64
	id    int32 // -1: none
}

var _ subwordModel = (*unigramModel)(nil)

// newUnigram builds the model. Its errors begin with the name of the invalid field,
// relative to the "model" object.
func newUnigram(c unigramConfig) (*unigramModel, error) {
	ids := make(map[string]int32, len(c.Tokens))
	for id, tok := range c.Tokens {
		if first, ok := ids[tok]; ok {
			return nil, fmt.Errorf("vocab[%d][0]: %q is also [%d][0]", id, tok, first)
		}
		ids[tok] = int32(id)
	}
	m := &unigramModel{unk: c.Unk, fallback: c.ByteFallback, cache: newWordCache()}
	var err error
	if m.vocabulary, err = newVocabulary(ids); err != nil {
		return nil, err
	}
	if int(c.Unk) >= len(c.Tokens) {
		return nil, fmt.Errorf("unk_id: is %d; must be in [0, %d), the ids of the vocabulary", c.Unk, len(c.Tokens))
	}
	m.byteIDs = m.byteTokens()
	m.unkScore = slices.Min(c.Scores) - unknownPenalty
	m.buildTrie(c.Scores)
	return m, nil
}

func (m *unigramModel) buildTrie(scores []float64) {
	sorted := slices.Sorted(slices.Values(m.tokens))
	n, last := 1, ""
	for _, tok := range sorted {
		n += len(tok) - commonPrefix(last, tok)
		last = tok
	}
	m.nodes = make([]trieNode, 1, n)
	m.nodes[0].id = -1
	m.next = newPairTable(n)
	path := []int32{0} // nodes of the last token, by length
	last = ""
	for _, tok := range sorted {
		path = path[:1+commonPrefix(last, tok)]
		for i := len(path) - 1; i < len(tok); i++ {
			node := int32(len(m.nodes))
			m.nodes = append(m.nodes, trieNode{id: -1})
			m.next.set(path[i], int32(tok[i]), node)
			path = append(path, node)
		}
		if id := m.ids[tok]; tok != "" {
			m.nodes[path[len(tok)]] = trieNode{scores[id], id}
		}
		last = tok
	}
	for b := range m.first {
		m.first[b] = m.child(0, byte(b))
	}
}

func commonPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// child returns a child of a node, or -1.
func (m *unigramModel) child(node int32, b byte) int32 {
	if to := m.next.rank(node, int32(b)); to != noRank {
		return to
	}
	return -1
}

// wholePiece is never true: the best sequence of tokens may be another one.
func (m *unigramModel) wholePiece(string) (int32, bool) { return 0, false }

// wordEnd is the end of the text: a sum of scores rounds otherwise from another start.
func (m *unigramModel) wordEnd(text string) int { return len(text) }

// Tokenize splits a piece of normalized text into tokens with byte offsets into it.
// Invalid UTF-8 is read as U+FFFD, and the offsets are those of the text with U+FFFD.
func (m *unigramModel) Tokenize(sequence string) ([]sugarme.Token, error) {
	return m.inSugarme(m.appendWord(nil, validUTF8(sequence))), nil
}

// appendWord appends the tokens of a piece of text, from the cache if it has them.
func (m *unigramModel) appendWord(dst []piece, word string) []piece {
	if len(word) > cachedWordBytes {
		return m.appendBest(dst, word)
	}
	slot := m.cache.slot(word)
	if w := slot.Load(); w != nil && string(w.text[:w.bytes]) == word {
		return append(dst, w.pieces[:w.tokens]...)
	}
	n := len(dst)
	dst = m.appendBest(dst, word)
	cacheWord(slot, word, dst[n:])
	return dst
}

// pathEnd is the end of the best sequence of tokens up to a byte of the text.
type pathEnd struct {
	score float64 // sum of the scores, from the left
	start int32   // of the last token, or -1: no sequence ends here
	id    int32   // of the last token
}

// improve records a token that ends here. Of equal sequences the first remains.
func (p *pathEnd) improve(score float64, start, id int32) {
	if p.start < 0 || score > p.score {
		*p = pathEnd{score, start, id}
	}
}

var pathScratches = sync.Pool{New: func() any { return new([]pathEnd) }}

// appendBest appends the best sequence of tokens (Viterbi's algorithm). Text of more
// than 1 GiB is split, since positions are 32 bits.
func (m *unigramModel) appendBest(dst []piece, text string) []piece {
	for len(text) > math.MaxInt32/2 {
		cut := math.MaxInt32 / 2
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		dst = m.appendBest(dst, text[:cut])
		text = text[cut:]
	}
	scratch := pathScratches.Get().(*[]pathEnd)
	ends := slices.Grow((*scratch)[:0], len(text)+1)[:len(text)+1]
	m.forward(ends, text)
	n := len(dst)
	for end := int32(len(text)); end > 0; {
		start := ends[end].start
		if ends[end].id == m.unk {
			for start > 0 && ends[start].id == m.unk {
				start = ends[start].start
			}
			dst = m.appendUnknown(dst, text[start:end])
		} else {
			dst = append(dst, piece{ends[end].id, end - start})
		}
		end = start
	}
	slices.Reverse(dst[n:])
	if cap(ends) <= keepSymbols {
		*scratch = ends
		pathScratches.Put(scratch)
	}
	return dst
}

// forward finds the best sequence up to each character.
func (m *unigramModel) forward(ends []pathEnd, text string) {
	for i := range ends {
		ends[i].start = -1
	}
	ends[0] = pathEnd{}
	for at := 0; at < len(text); {
		_, size := utf8.DecodeRuneInString(text[at:])
		before := ends[at].score
		single := false // the character is a token
		node := m.first[text[at]]
		for end := at + 1; node >= 0; end++ {
			if n := &m.nodes[node]; n.id >= 0 {
				ends[end].improve(before+n.score, int32(at), n.id)
				single = single || end == at+size
			}
			if end == len(text) {
				break
			}
			node = m.child(node, text[end])
		}
		if !single {
			ends[at+size].improve(before+m.unkScore, int32(at), m.unk)
		}
		at += size
	}
}

// appendUnknown appends the tokens of a run of unknown characters in reverse order.
func (m *unigramModel) appendUnknown(dst []piece, run string) []piece {
	if id, ok := m.ids[run]; ok { // "<unk>" as text, for example
		return append(dst, piece{id, int32(len(run))})
	}
	if !m.fallback || strings.ContainsFunc(run, m.unspellable) {
		return append(dst, piece{m.unk, int32(len(run))})
	}
	for i := len(run) - 1; i >= 0; i-- {
		dst = append(dst, piece{m.byteIDs[run[i]], 1})
	}
	return dst
}

// unspellable reports whether a byte of a character has no token.
func (m *unigramModel) unspellable(r rune) bool {
	var char [utf8.UTFMax]byte
	return slices.ContainsFunc(utf8.AppendRune(char[:0], r), func(b byte) bool { return m.byteIDs[b] < 0 })
}
