package tokenizer

import (
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	shortWord   = 24 // symbols; up to here a scan beats the heap
	noRank      = math.MaxInt32
	keepSymbols = 1 << 18 // larger scratch space is not reused
)

// appendPieces appends the tokens of one piece of text, which must be valid UTF-8.
// It takes O(n log n) time for n symbols without a place to cut, otherwise O(n).
func (m *bpeModel) appendPieces(dst []piece, text string) []piece {
	for text != "" {
		n := m.wordEnd(text)
		dst = m.appendWord(dst, text[:n])
		text = text[n:]
	}
	return dst
}

// wordEnd returns the end of the first word of a text, which is not empty and is at
// the start of a piece or of a word. Words can be tokenized one by one.
func (m *bpeModel) wordEnd(text string) int {
	if !m.cut {
		return len(text)
	}
	first, afterMark := m.mark[0], true
	for i := 0; i < len(text); {
		switch {
		case text[i] != first || !strings.HasPrefix(text[i:], m.mark):
			afterMark = false
			i++
		case afterMark:
			i += len(m.mark)
		default:
			return i
		}
	}
	return len(text)
}

// wholePiece returns the token that is a whole piece of text, if merges are ignored
// for such pieces.
func (m *bpeModel) wholePiece(text string) (int32, bool) {
	if !m.whole {
		return 0, false
	}
	id, ok := m.ids[text]
	return id, ok
}

// appendWord appends the tokens of a word, from the cache if it has them.
func (m *bpeModel) appendWord(dst []piece, word string) []piece {
	if len(word) > cachedWordBytes {
		return m.appendMerged(dst, word)
	}
	slot := m.cache.slot(word)
	if w := slot.Load(); w != nil && string(w.text[:w.bytes]) == word {
		return append(dst, w.pieces[:w.tokens]...)
	}
	n := len(dst)
	dst = m.appendMerged(dst, word)
	cacheWord(slot, word, dst[n:])
	return dst
}

// bpeSymbol is a run of text that is one token so far, in a list linked by
// positions; -1 ends the list, and an id of -1 marks a symbol joined to its left.
type bpeSymbol struct {
	id, size   int32
	prev, next int32
}

// bpeScratch is the working space of one call.
type bpeScratch struct {
	pieces []piece
	syms   []bpeSymbol
	heap   rankHeap
}

var bpeScratches = sync.Pool{New: func() any { return new(bpeScratch) }}

// appendMerged applies the merges to a word. Words of more than 2 GiB are split, since
// positions are 32 bits.
func (m *bpeModel) appendMerged(dst []piece, word string) []piece {
	for len(word) > math.MaxInt32-utf8.UTFMax {
		cut := math.MaxInt32 - utf8.UTFMax
		for !utf8.RuneStart(word[cut]) {
			cut--
		}
		dst = m.appendMerged(dst, word[:cut])
		word = word[cut:]
	}
	s := bpeScratches.Get().(*bpeScratch)
	s.pieces = m.appendSymbols(s.pieces[:0], word)
	if len(s.pieces) <= shortWord {
		dst = m.mergeShort(dst, s.pieces)
	} else {
		dst = m.mergeLong(dst, s)
	}
	if cap(s.pieces) <= keepSymbols && cap(s.heap) <= keepSymbols {
		bpeScratches.Put(s)
	}
	return dst
}

// appendSymbols appends the symbols that merging starts from: the characters of a
// word, and the bytes of unknown ones or the unknown token.
func (m *bpeModel) appendSymbols(dst []piece, word string) []piece {
	unk := int32(0)     // bytes of a pending unknown token
	dropped := int32(0) // bytes dropped before the first symbol
	for i, r := range word {
		n := int32(utf8.RuneLen(r))
		if id := m.chars.get(r); id >= 0 {
			if unk > 0 {
				dst = append(dst, piece{m.unk, unk})
				unk = 0
			}
			dst = append(dst, piece{id, n + dropped})
			dropped = 0
			continue
		}
		if m.spellable(word[i : i+int(n)]) {
			// A pending unknown token remains pending: it follows the bytes, as with
			// the Hugging Face tokenizers.
			for _, b := range []byte(word[i : i+int(n)]) {
				dst = append(dst, piece{m.byteIDs[b], 1 + dropped})
				dropped = 0
			}
			continue
		}
		switch {
		case m.unk < 0 && len(dst) > 0:
			dst[len(dst)-1].size += n
		case m.unk < 0:
			dropped += n
		case m.fuse || unk == 0:
			unk += n
		default:
			dst = append(dst, piece{m.unk, unk})
			unk = n
		}
	}
	if unk > 0 {
		dst = append(dst, piece{m.unk, unk})
	}
	return dst
}

// spellable reports whether every byte of a character has a token.
func (m *bpeModel) spellable(char string) bool {
	for i := range len(char) {
		if m.byteIDs[char[i]] < 0 {
			return false
		}
	}
	return true
}

// mergeShort joins by scanning for the best pair each time.
func (m *bpeModel) mergeShort(dst, word []piece) []piece {
	var ranks [shortWord]int32 // of the pair that starts at this symbol
	n := len(word)
	for i := range n - 1 {
		ranks[i] = m.pairs.rank(word[i].id, word[i+1].id)
	}
	for n > 1 {
		best, at := int32(noRank), 0
		for i, r := range ranks[:n-1] {
			if r < best {
				best, at = r, i
			}
		}
		if best == noRank {
			break
		}
		word[at] = piece{m.merged[best], word[at].size + word[at+1].size}
		copy(word[at+1:], word[at+2:n])
		copy(ranks[at:], ranks[at+1:n-1])
		n--
		if at > 0 {
			ranks[at-1] = m.pairs.rank(word[at-1].id, word[at].id)
		}
		if at < n-1 {
			ranks[at] = m.pairs.rank(word[at].id, word[at+1].id)
		}
	}
	return append(dst, word[:n]...)
}

// mergeLong joins with a heap of candidate pairs, from which stale ones are skipped.
// The order is that of mergeShort: a pair in the text is always in the heap, and
// symbols only grow, so a stale entry cannot name a pair that exists again.
func (m *bpeModel) mergeLong(dst []piece, s *bpeScratch) []piece {
	syms := slices.Grow(s.syms[:0], len(s.pieces))
	for i, p := range s.pieces {
		syms = append(syms, bpeSymbol{p.id, p.size, int32(i) - 1, int32(i) + 1})
	}
	syms[len(syms)-1].next = -1
	h := s.heap[:0]
	for i := range len(syms) - 1 {
		if r := m.pairs.rank(syms[i].id, syms[i+1].id); r != noRank {
			h = append(h, rankEntry(r, int32(i)))
		}
	}
	h.init()
	for len(h) > 0 {
		rank, pos := h.pop()
		left := &syms[pos]
		if left.id < 0 || left.next < 0 {
			continue
		}
		right := &syms[left.next]
		if m.pairs.rank(left.id, right.id) != rank {
			continue
		}
		left.id, left.size, left.next = m.merged[rank], left.size+right.size, right.next
		right.id = -1
		if left.prev >= 0 {
			if r := m.pairs.rank(syms[left.prev].id, left.id); r != noRank {
				h.push(rankEntry(r, left.prev))
			}
		}
		if left.next >= 0 {
			syms[left.next].prev = pos
			if r := m.pairs.rank(left.id, syms[left.next].id); r != noRank {
				h.push(rankEntry(r, pos))
			}
		}
	}
	for i := int32(0); i >= 0; i = syms[i].next {
		dst = append(dst, piece{syms[i].id, syms[i].size})
	}
	s.syms, s.heap = syms, h
	return dst
}

// rankHeap is a binary heap, smallest first, of rank<<32 | position.
type rankHeap []uint64

func rankEntry(rank, pos int32) uint64 { return uint64(rank)<<32 | uint64(pos) }

func (h rankHeap) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *rankHeap) push(e uint64) {
	a := append(*h, e)
	i := len(a) - 1
	for i > 0 {
		p := (i - 1) / 2
		if a[p] <= e {
			break
		}
		a[i] = a[p]
		i = p
	}
	a[i] = e
	*h = a
}

func (h *rankHeap) pop() (rank, pos int32) {
	a := *h
	e := a[0]
	a[0] = a[len(a)-1]
	a = a[:len(a)-1]
	if len(a) > 0 {
		a.down(0)
	}
	*h = a
	return int32(e >> 32), int32(uint32(e))
}

func (h rankHeap) down(i int) {
	e := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[c] >= e {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = e
}
