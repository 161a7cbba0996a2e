package collect

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
)

// order is a document's random number: documents are chosen, and computed, in
// its order. It also tells documents of a data set apart.
type order [16]byte

// entry is a chosen document.
type entry struct {
	dataset int32 // index in choice.names
	order   order
	text    [8]byte // hash of the text
}

func (e *entry) compare(f *entry) int {
	return cmp.Or(cmp.Compare(e.dataset, f.dataset), bytes.Compare(e.order[:], f.order[:]))
}

// number makes a document's random number and the hash of its text. A document
// without id is numbered by its text and, among equal ones, by its place.
func number(seed uint64, d *Document) (order, [8]byte) {
	text := sha256.Sum256([]byte(d.Text))
	var o order
	if d.ID != "" {
		sum := digest(seed, d.Dataset, "id", d.ID)
		copy(o[:], sum[:])
	} else {
		sum, place := digest(seed, d.Dataset, "text", string(text[:])), digest(seed, d.Dataset, "place", d.Place)
		copy(o[:10], sum[:])
		copy(o[10:], place[:])
	}
	return o, [8]byte(text[:8])
}

// digest hashes strings so that no two lists of them are the same bytes.
func digest(seed uint64, parts ...string) [32]byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(seed))
	for _, p := range parts {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}

// sample holds the chosen documents of one data set: of all that were added,
// those with the smallest numbers, the largest of them on top.
type sample struct {
	docs []entry
	have map[order]int // index in docs
}

func (s *sample) Len() int { return len(s.docs) }
func (s *sample) Less(i, j int) bool {
	return bytes.Compare(s.docs[i].order[:], s.docs[j].order[:]) > 0
}
func (s *sample) Swap(i, j int) {
	s.docs[i], s.docs[j] = s.docs[j], s.docs[i]
	s.have[s.docs[i].order], s.have[s.docs[j].order] = i, j
}

// Push is for container/heap.
func (s *sample) Push(x any) {
	s.have[x.(entry).order] = len(s.docs)
	s.docs = append(s.docs, x.(entry))
}

// Pop is for container/heap.
func (s *sample) Pop() any {
	last := s.docs[len(s.docs)-1]
	s.docs = s.docs[:len(s.docs)-1]
	delete(s.have, last.order)
	return last
}

var errTwice = errors.New("another document of the data set has this id")

// add takes a document in if it is among the n smallest (0: always). Of two with
// one id it keeps that whose text has the smaller hash.
func (s *sample) add(e entry, n int) error {
	if i, ok := s.have[e.order]; ok {
		if bytes.Compare(e.text[:], s.docs[i].text[:]) < 0 {
			s.docs[i].text = e.text
		}
		return errTwice
	}
	switch {
	case n == 0:
		s.Push(e) // order does not matter
	case len(s.docs) < n:
		heap.Push(s, e)
	case bytes.Compare(e.order[:], s.docs[0].order[:]) < 0:
		heap.Pop(s)
		heap.Push(s, e)
	}
	return nil
}

// choice is which documents are collected, in the order of the trace.
type choice struct {
	names []string // data sets, ascending
	docs  []entry
	hash  string // over all of it
}

// find returns the place of a document in c.docs, or false.
func (c *choice) find(dataset int32, o order) (int, bool) {
	return slices.BinarySearchFunc(c.docs, entry{dataset: dataset, order: o}, func(e, f entry) int { return e.compare(&f) })
}

// documents goes through all sources, with each document's data set filled in.
// Errors are reported and passed over.
func (r *run) documents(ctx context.Context, report bool, each func(d *Document) error) error {
	for _, s := range r.sources {
		for d, err := range s.Documents(ctx) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				if report {
					r.problem(Problem{Err: err})
				}
				continue
			}
			if d.Dataset == "" {
				d.Dataset = s.Name
			}
			if err := each(&d); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

var errNoTokens = errors.New("has no tokens")

// choose reads all sources and chooses.
func (r *run) choose(ctx context.Context) (*choice, error) {
	samples := make(map[string]*sample)
	seen := int64(0)
	err := r.documents(ctx, true, func(d *Document) error {
		if seen++; seen%1024 == 0 {
			r.tell(Progress{Stage: Choosing, Documents: seen})
		}
		if d.Text == "" {
			r.problem(Problem{d.Dataset, d.name(), errNoTokens})
			return nil
		}
		s := samples[d.Dataset]
		if s == nil {
			s = &sample{have: make(map[order]int)}
			samples[d.Dataset] = s
		}
		o, text := number(r.o.Seed, d)
		if err := s.add(entry{order: o, text: text}, r.o.Docs); err != nil {
			r.problem(Problem{d.Dataset, d.name(), err})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(samples) == 0 {
		return nil, errors.New("collect: the sources have no documents")
	}
	return list(samples), nil
}

// list puts the samples into one list.
func list(samples map[string]*sample) *choice {
	c := &choice{}
	for name := range samples {
		c.names = append(c.names, name)
	}
	slices.Sort(c.names)
	sum := sha256.New()
	for i, name := range c.names {
		docs := samples[name].docs
		for j := range docs {
			docs[j].dataset = int32(i)
		}
		slices.SortFunc(docs, func(a, b entry) int { return a.compare(&b) })
		d := digest(uint64(len(docs)), name)
		sum.Write(d[:])
		for j := range docs {
			sum.Write(docs[j].order[:])
			sum.Write(docs[j].text[:])
		}
		c.docs = append(c.docs, docs...)
		delete(samples, name)
	}
	c.hash = hex.EncodeToString(sum.Sum(nil)[:16])
	return c
}
