package collect

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/expertspec/expertspec/trace"
)

// maxFailedDocuments in a row end a run: then the cause is not the documents.
const maxFailedDocuments = 8

// pass is a batch on its way through the model.
type pass struct {
	job   *job
	last  bool   // of the job
	texts []text // empty if nothing of the job needs to be computed
	done  chan struct{}
	docs  []*trace.Document // once done
	err   error             // once done
}

// pipeline connects the goroutine that starts passes with the one that writes
// their results, in order.
type pipeline struct {
	passes chan *pass
	slots  chan struct{}          // of passes that are not written yet
	spare  chan []*trace.Document // written
}

// shards makes all shards of todo. While one batch is written, others are
// computed.
func (r *run) shards(ctx context.Context) error {
	r.collect = time.Now()
	ctx, cancel := context.WithCancel(ctx)
	n := r.o.Concurrency
	p := &pipeline{make(chan *pass, n), make(chan struct{}, n), make(chan []*trace.Document, n+1)}
	started := make(chan error, 1)
	go func() { started <- r.compute(ctx, p) }()
	err := r.store(ctx, p)
	cancel()
	if e := <-started; err == nil {
		err = e
	}
	if err == errEnough {
		return nil
	}
	return err
}

// compute starts all passes and returns when all have ended.
func (r *run) compute(ctx context.Context, p *pipeline) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(p.passes)
	dataset := ""
	for x, err := range r.passes() {
		if err != nil {
			return err
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(x.texts) > 0 && x.texts[0].Dataset != dataset {
			if dataset != "" {
				debug.FreeOSMemory() // what its documents and their sizes left
			}
			dataset = x.texts[0].Dataset
		}
		var spare []*trace.Document
		select {
		case spare = <-p.spare:
			if len(spare) > 0 && spare[0].Dataset != dataset {
				spare = nil // of other lengths
			}
		default:
		}
		wg.Go(func() {
			defer close(x.done)
			x.docs, x.err = r.record(ctx, x.texts, spare)
		})
		p.passes <- x
	}
	return nil
}

// store writes the results of passes.
func (r *run) store(ctx context.Context, p *pipeline) error {
	var open *job
	defer func() {
		if open != nil {
			open.abort()
		}
	}()
	for x := range p.passes {
		<-x.done
		var omitted []Problem
		var err error
		if x.err != nil {
			x.docs, omitted, err = r.recordAlone(ctx, x.texts)
		} else if len(x.docs) > 0 {
			r.failed = 0
		}
		<-p.slots
		if err != nil {
			return err
		}
		if open == nil {
			open = x.job
			r.create(open)
		}
		r.write(open, x.docs, omitted)
		select {
		case p.spare <- x.docs:
		default:
		}
		r.show(r.collected())
		if x.last {
			open = nil
			if err := r.finish(x.job); err != nil {
				return err
			}
		}
	}
	return nil
}

// passes yields the batches of all shards of todo. Every shard has at least one.
func (r *run) passes() iter.Seq2[*pass, error] {
	return func(yield func(*pass, error) bool) {
		for at, s := range r.todo {
			j := &job{shard: s, at: at, docs: make([]text, len(s.places))}
			for i, place := range s.places {
				var err error
				if j.docs[i], err = r.spill.get(place); err != nil {
					yield(nil, err)
					return
				}
			}
			batches := r.batches(j.docs)
			for i := 0; ; i++ {
				lost := j.lost.Load()
				x := &pass{job: j, last: lost || i >= len(batches)-1, done: make(chan struct{})}
				if !lost && i < len(batches) {
					x.texts = batches[i]
				}
				if !yield(x, nil) {
					return
				}
				if x.last {
					break
				}
			}
		}
	}
}

// record has the model compute a batch.
func (r *run) record(ctx context.Context, texts []text, spare []*trace.Document) ([]*trace.Document, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	tokens := make([][]int32, len(texts))
	for i := range texts {
		tokens[i] = texts[i].Tokens
	}
	docs, err := r.model.Record(ctx, &r.header, tokens, spare)
	if err != nil {
		return nil, err
	}
	if len(docs) != len(texts) {
		return nil, fmt.Errorf("collect: the model returned %d documents for a batch of %d", len(docs), len(texts))
	}
	for i, d := range docs {
		d.Dataset, d.ID = texts[i].Dataset, texts[i].ID
	}
	return docs, nil
}

// recordAlone computes the documents of a batch that failed one by one, so that
// one that makes the model overflow, for example, does not affect others.
func (r *run) recordAlone(ctx context.Context, texts []text) (docs []*trace.Document, omitted []Problem, err error) {
	for i, t := range texts {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		d, err := r.record(ctx, texts[i:i+1], nil)
		if err == nil {
			docs = append(docs, d...)
			r.failed = 0
			continue
		}
		if r.failed++; r.failed == maxFailedDocuments {
			return nil, nil, fmt.Errorf("%s: document %s, the %dth in a row that fails: %w", t.Dataset, t.ID, r.failed, err)
		}
		omitted = append(omitted, Problem{t.Dataset, t.ID, err})
	}
	return docs, omitted, ctx.Err()
}

// batches sorts a shard's documents by data set and length and divides them into
// batches of one data set and of lengths that round up to the same power of two.
func (r *run) batches(docs []text) [][]text {
	slices.SortFunc(docs, func(a, b text) int {
		return cmp.Or(cmp.Compare(a.Dataset, b.Dataset), cmp.Compare(len(a.Tokens), len(b.Tokens)), cmp.Compare(a.ID, b.ID))
	})
	bucket := func(t *text) int { return 1 << bits.Len(uint(len(t.Tokens)-1)) }
	var out [][]text
	from := 0
	for i := range docs {
		size := bucket(&docs[i])
		if i > from && (docs[i].Dataset != docs[from].Dataset || size != bucket(&docs[from]) || (i-from+1)*size > r.batchTokens()) {
			out = append(out, docs[from:i])
			from = i
		}
	}
	if from < len(docs) {
		out = append(out, docs[from:])
	}
	return out
}

// batchTokens returns the maximum number of tokens of a batch.
func (r *run) batchTokens() int {
	m := &r.header.Model
	token := 4 * (2*m.Layers*m.TopK + len(r.header.LogitLayers)*m.Experts + len(r.header.InputLayers)*m.Hidden)
	return min(r.o.BatchTokens, max(1, maxRecord/token))
}
