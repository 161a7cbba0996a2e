package speculate

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/expertspec/expertspec/trace"
)

// scan calls work with every document, several at a time, and merge with the
// results in the order of the documents, so that sums do not depend on the number
// of workers. It validates the documents and holds at most 2*workers of them.
func scan[R any](ctx context.Context, d Data, workers int, work func(*trace.Document, *sequence) (R, error), merge func(*trace.Document, R) error) error {
	type job struct {
		doc  *trace.Document
		done chan struct{}
		r    R
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs, order := make(chan *job), make(chan *job, workers)
	if _, err := newSequence(d.Header); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			seq, _ := newSequence(d.Header)
			for j := range jobs {
				if j.err = seq.setDocument(j.doc); j.err == nil {
					if j.r, j.err = work(j.doc, seq); j.err != nil {
						j.err = fmt.Errorf("speculate: document %q of data set %q: %w", j.doc.ID, j.doc.Dataset, j.err)
					}
				}
				close(j.done)
			}
		})
	}
	var readErr error
	wg.Go(func() {
		defer close(order)
		defer close(jobs)
		for doc, err := range d.All(ctx) {
			if err != nil {
				readErr = err
				return
			}
			j := &job{doc: doc, done: make(chan struct{})}
			select {
			case order <- j:
			case <-ctx.Done():
				readErr = ctx.Err()
				return
			}
			jobs <- j // a worker takes it, because order is filled first
		}
	})
	var firstErr error
	for j := range order {
		<-j.done
		if firstErr != nil {
			continue
		}
		if firstErr = j.err; firstErr == nil {
			firstErr = merge(j.doc, j.r)
		}
		if firstErr != nil {
			cancel()
		}
	}
	wg.Wait()
	if firstErr != nil {
		return firstErr
	}
	return readErr
}

// peeker is a predictor that is called with the answer.
type peeker interface {
	peek(actual []int32, out []float32)
}

func (Oracle) peek(actual []int32, out []float32) {
	clear(out)
	for i, e := range actual {
		if e >= 0 {
			out[e] = 1 - float32(i)*1e-3 // first choice first
		}
	}
}

// combiner is a predictor that is a function of other predictors' answers, so
// that an evaluation of all of them computes each once.
type combiner interface {
	// members are nil where an answer is not needed at h.
	members(h Horizon) []Predictor
	combine(v View, members [][]float32, out []float32) error
}

// answers computes predictors' scores for tokens of one document at one
// layer and horizon, each predictor once.
type answers struct {
	seq   *sequence
	views []View
	h     Horizon
	l     int
	memo  map[Predictor][]float32
	free  [][]float32
}

// ask selects a layer, a horizon and tokens.
func (a *answers) ask(h Horizon, l int, tokens []int) {
	a.views = a.views[:0]
	for _, t := range tokens {
		a.views = append(a.views, a.seq.view(t, l, h))
	}
	a.h, a.l = h, l
	for _, m := range a.memo {
		a.free = append(a.free, m)
	}
	clear(a.memo)
}

// of returns p's scores, [tokens,E], which are valid until the next ask.
func (a *answers) of(p Predictor) ([]float32, error) {
	if s, ok := a.memo[p]; ok {
		return s, nil
	}
	s, n := a.seq.shape, len(a.views)
	var out []float32
	if k := len(a.free); k > 0 {
		out, a.free = a.free[k-1], a.free[:k-1]
	}
	if cap(out) < n*s.Experts {
		out = make([]float32, n*s.Experts)
	}
	out = out[:n*s.Experts]
	err := a.fill(p, out)
	if err == nil {
		err = a.check(out)
	}
	if err != nil {
		return nil, fmt.Errorf("%s at %v, layer %d: %w", p.Name(), a.h, a.l, err)
	}
	if a.memo == nil {
		a.memo = map[Predictor][]float32{}
	}
	a.memo[p] = out
	return out, nil
}

// check returns an error for an answer that is not a probability.
func (a *answers) check(out []float32) error {
	for i, x := range out {
		if !(x >= 0 && x <= 1) {
			e := a.seq.shape.Experts
			return fmt.Errorf("token %d, expert %d: got probability %g, expected one in [0,1]", a.views[i/e].t, i%e, x)
		}
	}
	return nil
}

func (a *answers) fill(p Predictor, out []float32) error {
	s := a.seq.shape
	switch p := p.(type) {
	case peeker:
		for t, v := range a.views {
			i := (v.t*s.Layers + a.l) * s.TopK
			p.peek(a.seq.experts[i:i+s.TopK], out[t*s.Experts:(t+1)*s.Experts])
		}
		return nil
	case combiner:
		var ms [][]float32
		for _, m := range p.members(a.h) {
			if m == nil {
				ms = append(ms, nil)
				continue
			}
			x, err := a.of(m)
			if err != nil {
				return err
			}
			ms = append(ms, x)
		}
		if len(a.views) == 0 {
			return nil
		}
		return p.combine(a.views[0], ms, out)
	}
	return guarded(p, a.views, out)
}

// guarded calls p, which may be a user's: a panic, in one of the goroutines that
// evaluate, would end the process, and is an error with its stack.
func guarded(p Predictor, views []View, out []float32) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return p.Predict(views, out)
}
