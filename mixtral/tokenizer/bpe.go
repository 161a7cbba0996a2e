package tokenizer

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"unicode/utf8"

	sugarme "github.com/sugarme/tokenizer"
)

// bpePiece is one token of a piece of normalized text: its id and the number of
// bytes of that text that it represents. A fused unknown token covers several
// characters, a byte-fallback token one byte of a character.
type bpePiece struct {
	id   int32
	size int32
}

// bpeMerge is one entry of a merge list: the tokens that are joined.
type bpeMerge struct {
	left, right string
}

// bpeConfig is the BPE model of a tokenizer.json.
type bpeConfig struct {
	Vocab        map[string]int32 // token -> id
	Merges       []bpeMerge       // by rank, best first; of equal ones the last counts
	UnkToken     *string          // nil: unknown characters are dropped
	FuseUnk      bool             // adjacent unknown characters become one token
	ByteFallback bool             // an unknown character becomes tokens <0x00>..<0xFF>
	IgnoreMerges bool             // a whole piece that is itself a token is that token
	Mark         string           // the character that represents a space
}

// bpeModel is byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) as the
// Hugging Face tokenizers run it: the adjacent pair of symbols with the lowest rank is
// joined, the leftmost of equal ones first, until no pair has a rank. It implements
// the interface of a sugarme model.
//
// A bpeModel does not change after newBPE, except a cache that is safe for concurrent
// use.
type bpeModel struct {
	ids    map[string]int32
	tokens []string // by id; "" where no token has that id
	known  []bool   // by id

	chars   charTable
	byteIDs [256]int32 // -1: no such token, or no byte fallback
	unk     int32      // -1: unknown characters are dropped
	fuse    bool
	whole   bool // IgnoreMerges

	pairs  pairTable // two ids -> rank of their merge
	merged []int32   // rank -> id of the joined token

	mark  string // bpeConfig.Mark
	cut   bool   // a piece may be cut before each mark that follows another character
	cache *wordCache
}

var _ sugarme.Model = (*bpeModel)(nil)

// newBPE builds the model. Its errors begin with the name of the invalid field,
// relative to the "model" object.
func newBPE(c bpeConfig) (*bpeModel, error) {
	m := &bpeModel{ids: c.Vocab, unk: -1, fuse: c.FuseUnk, whole: c.IgnoreMerges, mark: c.Mark, cache: newWordCache()}
	if err := m.setVocab(c.Vocab); err != nil {
		return nil, err
	}
	if c.UnkToken != nil {
		id, ok := m.ids[*c.UnkToken]
		if !ok {
			return nil, fmt.Errorf("unk_token: %q is not in the vocabulary", *c.UnkToken)
		}
		if *c.UnkToken == "" {
			return nil, errors.New("unk_token: is empty")
		}
		m.unk = id
	}
	allBytes := c.ByteFallback
	for b := range m.byteIDs {
		id, ok := m.ids[fmt.Sprintf("<0x%02X>", b)]
		if !ok || !c.ByteFallback {
			id, allBytes = -1, false
		}
		m.byteIDs[b] = id
	}
	if err := m.setMerges(c.Merges); err != nil {
		return nil, err
	}
	m.cut = m.mayCut(c, allBytes)
	return m, nil
}

func (m *bpeModel) setVocab(vocab map[string]int32) error {
	if len(vocab) == 0 {
		return errors.New("vocab: is empty")
	}
	// Ids index rows of the embedding. Unused ids are allowed, as by the Hugging Face
	// tokenizers, but one wrong id must not make the table by id large.
	limit := int32(min(1<<30, 16*len(vocab)+4096))
	top := int32(-1)
	for tok, id := range vocab {
		if id < 0 || id >= limit {
			return fmt.Errorf("vocab: id %d of token %q is out of range [0, %d) for %d tokens", id, tok, limit, len(vocab))
		}
		top = max(top, id)
	}
	m.tokens = make([]string, top+1)
	m.known = make([]bool, top+1)
	for tok, id := range vocab {
		if m.known[id] {
			a, b := min(tok, m.tokens[id]), max(tok, m.tokens[id])
			return fmt.Errorf("vocab: tokens %q and %q have the same id %d", a, b, id)
		}
		m.tokens[id], m.known[id] = tok, true
		if r, n := utf8.DecodeRuneInString(tok); n == len(tok) && n > 0 {
			m.chars.set(r, id)
		}
	}
	return nil
}

func (m *bpeModel) setMerges(merges []bpeMerge) error {
	m.pairs = newPairTable(len(merges))
	m.merged = make([]int32, len(merges))
	for rank, p := range merges {
		left, ok := m.ids[p.left]
		if !ok {
			return fmt.Errorf("merges[%d]: %q is not in the vocabulary", rank, p.left)
		}
		right, ok := m.ids[p.right]
		if !ok {
			return fmt.Errorf("merges[%d]: %q is not in the vocabulary", rank, p.right)
		}
		id, ok := m.ids[p.left+p.right]
		if !ok {
			return fmt.Errorf("merges[%d]: %q, of %q and %q, is not in the vocabulary", rank, p.left+p.right, p.left, p.right)
		}
		m.pairs.set(left, right, int32(rank))
		m.merged[rank] = id
	}
	return nil
}

// mayCut reports whether a piece may be cut before every mark that follows another
// character, without a change of its tokens.
//
// At such a place, the symbol on the right begins with the mark (the mark is a token
// itself, and joining only appends), and the symbol on the left does not end with it
// (characters, byte tokens and <unk> do not). If no merge joins two such symbols, no
// symbol ever spans the place, and merges on one side do not depend on the other: the
// order by rank and position is the same within each side. A dropped character would
// let its neighbours meet across the place, so characters must not be dropped either.
func (m *bpeModel) mayCut(c bpeConfig, allBytes bool) bool {
	if _, ok := m.ids[m.mark]; !ok || utf8.RuneCountInString(m.mark) != 1 || m.mark == ">" {
		return false
	}
	if m.unk < 0 && !allBytes {
		return false
	}
	if c.UnkToken != nil && strings.HasSuffix(*c.UnkToken, m.mark) {
		return false
	}
	for _, p := range c.Merges {
		if strings.HasPrefix(p.right, m.mark) && !strings.HasSuffix(p.left, m.mark) {
			return false
		}
	}
	return true
}

// Tokenize splits a piece of normalized text into tokens with byte offsets into it.
// Invalid UTF-8 is read as U+FFFD, and the offsets are those of the text with U+FFFD.
func (m *bpeModel) Tokenize(sequence string) ([]sugarme.Token, error) {
	sequence = validUTF8(sequence)
	if id, ok := m.wholePiece(sequence); ok && sequence != "" {
		return []sugarme.Token{sugarme.NewToken(int(id), sequence, []int{0, len(sequence)})}, nil
	}
	pieces := m.appendPieces(nil, sequence)
	out := make([]sugarme.Token, len(pieces))
	pos := 0
	for i, p := range pieces {
		out[i] = sugarme.NewToken(int(p.id), m.tokens[p.id], []int{pos, pos + int(p.size)})
		pos += int(p.size)
	}
	return out, nil
}

// TokenToId returns the id of a token.
func (m *bpeModel) TokenToId(token string) (int, bool) {
	id, ok := m.ids[token]
	return int(id), ok
}

// IdToToken returns the token of an id.
func (m *bpeModel) IdToToken(id int) (string, bool) {
	if id < 0 || id >= len(m.tokens) || !m.known[id] {
		return "", false
	}
	return m.tokens[id], true
}

// GetVocab returns a copy of the vocabulary.
func (m *bpeModel) GetVocab() map[string]int {
	out := make(map[string]int, len(m.ids))
	for tok, id := range m.ids {
		out[tok] = int(id)
	}
	return out
}

// GetVocabSize returns the number of tokens.
func (m *bpeModel) GetVocabSize() int { return len(m.ids) }

// Save is part of sugarme's interface, and returns an error: this package does not
// write tokenizers.
func (m *bpeModel) Save(string, ...string) error {
	return fmt.Errorf("tokenizer: saving a BPE model: %w", errors.ErrUnsupported)
}

// pairTable maps pairs of ids to ranks, by open addressing with linear probing, at most
// half full. Encoding is a third faster with it than with a Go map.
type pairTable struct {
	entries []pairEntry
	factor  uint64 // odd and random, so that no file can make probing slow
	shift   uint8
}

type pairEntry struct {
	left, right int32
	rank        int32 // noRank: free
}

func newPairTable(n int) pairTable {
	log := bits.Len(uint(2*n + 2))
	t := pairTable{make([]pairEntry, 1<<log), rand.Uint64() | 1, uint8(64 - log)}
	for i := range t.entries {
		t.entries[i].rank = noRank
	}
	return t
}

// find returns the entry of a pair, or the free one where it belongs.
func (t *pairTable) find(left, right int32) *pairEntry {
	h := (uint64(uint32(left))<<32 | uint64(uint32(right))) * t.factor >> t.shift
	for {
		e := &t.entries[h]
		if e.rank == noRank || e.left == left && e.right == right {
			return e
		}
		h = (h + 1) & uint64(len(t.entries)-1)
	}
}

func (t *pairTable) set(left, right, rank int32) {
	*t.find(left, right) = pairEntry{left, right, rank}
}

// rank returns the rank of a pair, or noRank.
func (t *pairTable) rank(left, right int32) int32 { return t.find(left, right).rank }

// charTable maps characters to ids by pages of 256.
type charTable struct {
	pages [(utf8.MaxRune + 1) >> 8]*[256]int32
}

func (t *charTable) set(r rune, id int32) {
	p := t.pages[r>>8]
	if p == nil {
		p = new([256]int32)
		for i := range p {
			p[i] = -1
		}
		t.pages[r>>8] = p
	}
	p[r&255] = id
}

// get returns the id of a character, or -1.
func (t *charTable) get(r rune) int32 {
	p := t.pages[r>>8]
	if p == nil {
		return -1
	}
	return p[r&255]
}
