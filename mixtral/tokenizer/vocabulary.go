package tokenizer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"

	sugarme "github.com/sugarme/tokenizer"
)

// subwordModel splits normalized text into tokens.
type subwordModel interface {
	sugarme.Model
	// wholePiece returns the token that is all of a piece of text, without a look at
	// its parts.
	wholePiece(text string) (int32, bool)
	// wordEnd returns the end of the first part of a piece of text that can be
	// tokenized alone. The text is not empty.
	wordEnd(text string) int
	// appendWord appends the tokens of such a part.
	appendWord(dst []piece, word string) []piece
}

// piece is one token of a piece of normalized text: its id and the number of
// bytes of that text that it represents. A fused unknown token covers several
// characters, a byte-fallback token one byte of a character.
type piece struct {
	id   int32
	size int32
}

// vocabulary is the tokens of a model. Its methods are those of a sugarme model.
type vocabulary struct {
	ids    map[string]int32
	tokens []string // by id; "" where no token has that id
	known  []bool   // by id
}

func newVocabulary(ids map[string]int32) (vocabulary, error) {
	if len(ids) == 0 {
		return vocabulary{}, errors.New("vocab: is empty")
	}
	// Ids index rows of the embedding. Unused ids are allowed, as by the Hugging Face
	// tokenizers, but one wrong id must not make the table by id large.
	limit := int32(min(1<<30, 16*len(ids)+4096))
	top := int32(-1)
	for tok, id := range ids {
		if id < 0 || id >= limit {
			return vocabulary{}, fmt.Errorf("vocab: id %d of token %q is out of range [0, %d) for %d tokens", id, tok, limit, len(ids))
		}
		top = max(top, id)
	}
	v := vocabulary{ids, make([]string, top+1), make([]bool, top+1)}
	for tok, id := range ids {
		if v.known[id] {
			a, b := min(tok, v.tokens[id]), max(tok, v.tokens[id])
			return vocabulary{}, fmt.Errorf("vocab: tokens %q and %q have the same id %d", a, b, id)
		}
		v.tokens[id], v.known[id] = tok, true
	}
	return v, nil
}

// TokenToId returns the id of a token.
func (v *vocabulary) TokenToId(token string) (int, bool) {
	id, ok := v.ids[token]
	return int(id), ok
}

// IdToToken returns the token of an id.
func (v *vocabulary) IdToToken(id int) (string, bool) {
	if id < 0 || id >= len(v.tokens) || !v.known[id] {
		return "", false
	}
	return v.tokens[id], true
}

// GetVocab returns a copy of the vocabulary.
func (v *vocabulary) GetVocab() map[string]int {
	out := make(map[string]int, len(v.ids))
	for tok, id := range v.ids {
		out[tok] = int(id)
	}
	return out
}

// GetVocabSize returns the number of tokens.
func (v *vocabulary) GetVocabSize() int { return len(v.ids) }

// Save is part of sugarme's interface, and returns an error: this package does not
// write tokenizers.
func (v *vocabulary) Save(string, ...string) error {
	return fmt.Errorf("tokenizer: saving a model: %w", errors.ErrUnsupported)
}

// byteTokens returns the ids of the tokens <0x00>..<0xFF>, -1 where one does not exist.
func (v *vocabulary) byteTokens() (ids [256]int32) {
	for b := range ids {
		id, ok := v.ids[fmt.Sprintf("<0x%02X>", b)]
		if !ok {
			id = -1
		}
		ids[b] = id
	}
	return ids
}

// inSugarme makes the tokens of a piece of text those of a sugarme model.
func (v *vocabulary) inSugarme(pieces []piece) []sugarme.Token {
	out := make([]sugarme.Token, len(pieces))
	pos := 0
	for i, p := range pieces {
		out[i] = sugarme.NewToken(int(p.id), v.tokens[p.id], []int{pos, pos + int(p.size)})
		pos += int(p.size)
	}
	return out
}

const (
	cachedWordBytes  = 30      // longer words are not cached
	cachedWordTokens = 8       // nor are those of more tokens
	cacheSlots       = 1 << 16 // of 96 bytes each when filled: 6 MiB
)

// wordCache keeps the tokens of words by hash. A new word replaces an older one with
// the same hash, so the cache is bounded and needs no lock.
type wordCache struct {
	seed  maphash.Seed
	slots [cacheSlots]atomic.Pointer[cachedWord]
}

type cachedWord struct {
	bytes, tokens uint8
	text          [cachedWordBytes]byte
	pieces        [cachedWordTokens]piece
}

func newWordCache() *wordCache { return &wordCache{seed: maphash.MakeSeed()} }

func (c *wordCache) slot(word string) *atomic.Pointer[cachedWord] {
	return &c.slots[maphash.String(c.seed, word)%cacheSlots]
}

// cacheWord keeps the tokens of a word if they are few.
func cacheWord(slot *atomic.Pointer[cachedWord], word string, pieces []piece) {
	if len(pieces) > cachedWordTokens {
		return
	}
	w := &cachedWord{bytes: uint8(len(word)), tokens: uint8(len(pieces))}
	copy(w.text[:], word)
	copy(w.pieces[:], pieces)
	slot.Store(w)
}
