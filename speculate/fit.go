package speculate

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// Data is a set of documents that can be read any number of times, and the
// header they share. Memory use is that of one document at a time.
type Data struct {
	Header trace.Header
	// Documents starts a reading; an error ends it.
	Documents func() iter.Seq2[*trace.Document, error]
}

// Slice returns documents in memory as Data.
func Slice(h trace.Header, docs []*trace.Document) Data {
	return Data{Header: h, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for _, d := range docs {
				if !yield(d, nil) {
					return
				}
			}
		}
	}}
}

// Filter returns those documents of d for which keep is true.
func (d Data) Filter(keep func(*trace.Document) bool) Data {
	return Data{Header: d.Header, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for doc, err := range d.Documents() {
				if err == nil && !keep(doc) {
					continue
				}
				if !yield(doc, err) || err != nil {
					return
				}
			}
		}
	}}
}

// Parts are disjoint sets of documents: predictors are fitted on Train, chosen
// and calibrated on Valid, and reported on Test.
type Parts struct{ Train, Valid, Test Data }

// Fractions are the shares of documents in a [Split]; Train has the rest.
type Fractions struct{ Valid, Test float64 }

// Split assigns each document to a part, data set by data set, so that each has
// its share in every part. It reads the documents' names once. The same seed
// and documents give the same parts, in any order of the documents. A document
// name that occurs twice is an error: its parts would be in two splits.
func Split(d Data, f Fractions, seed uint64) (Parts, error) {
	if f.Valid <= 0 || f.Test <= 0 || f.Valid+f.Test >= 1 {
		return Parts{}, fmt.Errorf("speculate: split of %g valid and %g test: want both above 0 and their sum below 1", f.Valid, f.Test)
	}
	type name struct{ dataset, id string }
	sets := map[string][]string{}
	part := map[name]int{}
	for doc, err := range d.Documents() {
		if err != nil {
			return Parts{}, err
		}
		n := name{doc.Dataset, doc.ID}
		if _, ok := part[n]; ok {
			return Parts{}, fmt.Errorf("speculate: document %s/%s occurs twice", doc.Dataset, doc.ID)
		}
		part[n] = 0
		sets[doc.Dataset] = append(sets[doc.Dataset], doc.ID)
	}
	for set, ids := range sets {
		slices.Sort(ids)
		h := fnv.New64a()
		h.Write([]byte(set))
		rng := rand.New(rand.NewPCG(seed, h.Sum64()))
		rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		n := float64(len(ids))
		nv, nt := int(n*f.Valid+.5), int(n*f.Test+.5)
		if len(ids) >= 3 {
			nv, nt = max(nv, 1), max(nt, 1)
		}
		for i, id := range ids {
			switch {
			case i < nt:
				part[name{set, id}] = 2
			case i < nt+nv:
				part[name{set, id}] = 1
			}
		}
	}
	of := func(p int) Data {
		return d.Filter(func(doc *trace.Document) bool { return part[name{doc.Dataset, doc.ID}] == p })
	}
	return Parts{Train: of(0), Valid: of(1), Test: of(2)}, nil
}

// Counter is a predictor that is fitted by counting, one document at a time.
type Counter interface {
	Predictor
	// Begin forgets what was fitted and prepares for documents of this shape,
	// to be asked at horizons.
	Begin(s Shape, horizons []Horizon) error
	// Count takes in one document, all of it known.
	Count(doc *trace.Document) error
	// End completes the fit.
	End() error
}

// FitOptions are common to all fits.
type FitOptions struct {
	Horizons []Horizon
	// Progress, when not nil, is told of work done, in documents.
	Progress func(what string, done int)
}

// Fit reads train once and fits every [Counter] among ps; others are left alone.
func Fit(ctx context.Context, train Data, o FitOptions, ps ...Predictor) error {
	shape := ShapeOf(train.Header.Model)
	if err := shape.Validate(); err != nil {
		return err
	}
	if len(o.Horizons) == 0 {
		return errors.New("speculate: fit without horizons")
	}
	for _, h := range o.Horizons {
		if err := h.Validate(shape.Layers); err != nil {
			return err
		}
	}
	var counters []Counter
	for _, p := range ps {
		if c, ok := p.(Counter); ok {
			if err := c.Begin(shape, o.Horizons); err != nil {
				return fmt.Errorf("speculate: %s: %w", p.Name(), err)
			}
			counters = append(counters, c)
		}
	}
	if len(counters) == 0 {
		return nil
	}
	seq, err := newSequence(train.Header)
	if err != nil {
		return err
	}
	n := 0
	for doc, err := range train.Documents() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = seq.setDocument(doc) // checks sizes and expert numbers
		}
		if err != nil {
			return err
		}
		for _, c := range counters {
			if err := c.Count(doc); err != nil {
				return fmt.Errorf("speculate: %s: %w", c.Name(), err)
			}
		}
		if n++; o.Progress != nil {
			o.Progress("counting", n)
		}
	}
	if n == 0 {
		return errors.New("speculate: no documents to fit on")
	}
	for _, c := range counters {
		if err := c.End(); err != nil {
			return fmt.Errorf("speculate: %s: %w", c.Name(), err)
		}
	}
	return nil
}

// FromReader returns a trace on disk as Data.
func FromReader(r *trace.Reader) Data {
	return Data{Header: r.Header(), Documents: r.Documents}
}

// InMemory reads d once and returns it held in memory, where that takes at
// most limit bytes; else d itself, to be streamed.
func InMemory(ctx context.Context, d Data, limit int64) (Data, error) {
	var docs []*trace.Document
	held := int64(0)
	for doc, err := range d.Documents() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Data{}, err
		}
		held += 4 * int64(len(doc.Tokens)+len(doc.Experts)+len(doc.Weights)+len(doc.RouterLogits)+len(doc.RouterInput))
		if held > limit {
			return d, nil
		}
		docs = append(docs, doc)
	}
	return Slice(d.Header, docs), nil
}
