package collect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// order is a document's random number: documents are chosen, and computed, in
// its order. It also identifies a document in its data set.
type order [16]byte

func (o order) compare(p order) int { return bytes.Compare(o[:], p[:]) }

// hash is a part of a text's hash.
type hash [8]byte

// entry is a chosen document.
type entry struct {
	dataset int32 // index in choice.names
	order   order
	text    hash
}

func (e entry) compare(f entry) int {
	return cmp.Or(cmp.Compare(e.dataset, f.dataset), e.order.compare(f.order))
}

// number returns a document's random number. That of a document without id
// depends on its text and, among equal ones, on its place.
func number(seed uint64, d *Document) (o order) {
	if d.ID != "" {
		sum := digest(seed, d.Dataset, "id", d.ID)
		copy(o[:], sum[:])
		return o
	}
	text := sha256.Sum256([]byte(d.Text))
	sum, place := digest(seed, d.Dataset, "text", string(text[:])), digest(seed, d.Dataset, "place", d.Place)
	copy(o[:10], sum[:])
	copy(o[10:], place[:])
	return o
}

func hashText(d *Document) hash {
	sum := sha256.Sum256([]byte(d.Text))
	return hash(sum[:len(hash{})])
}

// digest hashes strings, different lists of them differently.
func digest(seed uint64, parts ...string) [32]byte {
	b := binary.LittleEndian.AppendUint64(nil, seed)
	for _, p := range parts {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}

// sample is the choice of one data set: of all documents added, those with the n
// smallest numbers; n = 0: all.
type sample struct {
	n     int
	texts map[order]hash // the n smallest, and for a while some more
	limit *order         // larger ones are not among them
}

var errTwice = errors.New("another document of the data set has this id")

// add adds a document. Of two with one id the one whose text has the smaller hash
// is kept.
func (s *sample) add(o order, text hash) error {
	if s.limit != nil && o.compare(*s.limit) > 0 {
		return nil
	}
	other, twice := s.texts[o]
	if !twice || bytes.Compare(text[:], other[:]) < 0 {
		s.texts[o] = text
	}
	if twice {
		return errTwice
	}
	if s.n > 0 && len(s.texts) >= 2*s.n+1000 {
		sorted := s.sorted()
		s.limit = &sorted[s.n-1]
		for _, o := range sorted[s.n:] {
			delete(s.texts, o)
		}
	}
	return nil
}

func (s *sample) sorted() []order { return slices.SortedFunc(maps.Keys(s.texts), order.compare) }

// choice is which documents are collected, in the order of the trace.
type choice struct {
	docs  []entry
	names []string // of data sets, sorted
	hash  string   // of the documents and their texts
}

// find returns the index of a document.
func (c *choice) find(dataset string, o order) (int, bool) {
	i, ok := slices.BinarySearch(c.names, dataset)
	if !ok {
		return 0, false
	}
	return slices.BinarySearchFunc(c.docs, entry{dataset: int32(i), order: o}, entry.compare)
}

// documents calls each for the documents of all sources, with their data sets
// filled in. Several sources are read at the same time, because parsing and hashing
// their texts takes longer than computing on an accelerator when each of many parts
// reads all of them: each is called by several goroutines. Documents that cannot be
// read are skipped, and reported if report is set.
func (r *run) documents(ctx context.Context, report bool, each func(d *Document) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, s := range r.sources {
		group.Go(func() error {
			for d, err := range s.Documents(groupCtx) {
				if groupCtx.Err() != nil {
					return groupCtx.Err()
				}
				if err != nil {
					if report {
						r.lockedProblem(Problem{Err: err})
					}
					continue
				}
				d.Dataset = cmp.Or(d.Dataset, s.Name)
				if err := each(&d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmp.Or(group.Wait(), ctx.Err())
}

// lockedProblem is problem while sources are read.
func (r *run) lockedProblem(p Problem) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.problem(p)
}

var errNoTokens = errors.New("has no tokens")

// choose reads all sources and chooses.
func (r *run) choose(ctx context.Context) (*choice, error) {
	samples := make(map[string]*sample)
	err := r.documents(ctx, true, func(d *Document) error {
		if d.Text == "" {
			r.lockedProblem(Problem{d.Dataset, d.name(), errNoTokens})
			return nil
		}
		number, text := number(r.o.Seed, d), hashText(d)
		r.reading.Lock()
		defer r.reading.Unlock()
		s := samples[d.Dataset]
		if s == nil {
			s = &sample{n: r.o.DocumentsPerDataset, texts: make(map[order]hash)}
			samples[d.Dataset] = s
		}
		if err := s.add(number, text); err != nil {
			r.problem(Problem{d.Dataset, d.name(), err})
			return nil
		}
		r.report.Found++
		r.show(Progress{Stage: "choosing", Documents: r.report.Found})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(samples) == 0 {
		return nil, errors.New("collect: the sources have no documents that can be read")
	}
	return list(samples), nil
}

// list joins the samples.
func list(samples map[string]*sample) *choice {
	c := &choice{names: slices.Sorted(maps.Keys(samples))}
	sum := sha256.New()
	for i, name := range c.names {
		s := samples[name]
		delete(samples, name)
		orders := s.sorted()
		if s.n > 0 {
			orders = orders[:min(s.n, len(orders))]
		}
		d := digest(uint64(len(orders)), name)
		sum.Write(d[:])
		for _, o := range orders {
			text := s.texts[o]
			sum.Write(o[:])
			sum.Write(text[:])
			c.docs = append(c.docs, entry{int32(i), o, text})
		}
	}
	c.hash = hex.EncodeToString(sum.Sum(nil)[:16])
	return c
}
