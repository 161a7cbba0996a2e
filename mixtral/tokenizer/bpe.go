package tokenizer

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"

	sugarme "github.com/sugarme/tokenizer"
)

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
	vocabulary

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

var _ subwordModel = (*bpeModel)(nil)

// newBPE builds the model. Its errors begin with the name of the invalid field,
// relative to the "model" object.
func newBPE(c bpeConfig) (*bpeModel, error) {
	m := &bpeModel{unk: -1, fuse: c.FuseUnk, whole: c.IgnoreMerges, mark: c.Mark, cache: newWordCache()}
	var err error
	if m.vocabulary, err = newVocabulary(c.Vocab); err != nil {
		return nil, err
	}
	for tok, id := range m.ids {
		if r, n := utf8.DecodeRuneInString(tok); n == len(tok) && n > 0 {
			m.chars.set(r, id)
		}
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
	for b := range m.byteIDs {
		m.byteIDs[b] = -1
	}
	if c.ByteFallback {
		m.byteIDs = m.byteTokens()
	}
	if err := m.setMerges(c.Merges); err != nil {
		return nil, err
	}
	m.cut = m.mayCut(c)
	return m, nil
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
func (m *bpeModel) mayCut(c bpeConfig) bool {
	if _, ok := m.ids[m.mark]; !ok || utf8.RuneCountInString(m.mark) != 1 || m.mark == ">" {
		return false
	}
	if m.unk < 0 && slices.Contains(m.byteIDs[:], -1) {
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
	return m.inSugarme(m.appendPieces(nil, sequence)), nil
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
