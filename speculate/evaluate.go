package speculate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// EvaluateOptions configure [Evaluate], [Calibrate] and [FitEnsemble].
type EvaluateOptions struct {
	// Horizons of the predictions. Predictors are omitted at those that they do
	// not support.
	Horizons []Horizon
	// Resamples is how often the documents are resampled for the 95 % intervals;
	// 0 means 1000, a negative number means no intervals.
	Resamples int
	Seed      uint64
	// Workers is the number of documents evaluated concurrently; 0 means GOMAXPROCS.
	Workers int
	// Each, if not nil, is called with every prediction, in the order of documents,
	// horizons, layers, predictors, tokens. It must not keep the slices.
	Each func(*Answer) error
	// Progress, if not nil, is called after each document with totals.
	Progress func(documents, tokens int)
}

// Answer is a prediction and what was chosen.
type Answer struct {
	Dataset, Document string
	Position          int32
	Phase             trace.Phase
	Layer             int
	Horizon           Horizon
	Predictor         string
	Predicted         []int32   // [E], likeliest first
	Confidence        []float32 // [E], of Predicted
	Actual            []int32   // the chosen experts, [K], first choice first
}

// report is what one document contributes.
type report struct {
	tokens  int
	cells   []cell // one for each predictor at each horizon, [H*P]
	answers []Answer
}

// cell is one document's sums for one predictor at one horizon.
type cell struct {
	all    tally
	layers []tally
	phases map[trace.Phase]*tally
}

type evaluation struct {
	o     EvaluateOptions
	shape Shape
	ps    []Predictor
}

// Evaluate measures the predictions of ps about every token of test at every layer
// that it passes.
// It reads the documents once and holds a few at a time. The figures depend
// neither on Workers nor on the order of ps. A document that is not valid, or that
// occurs twice, is an error, as is an answer that is not a probability; it names
// the predictor, the horizon, the layer and the token.
func Evaluate(ctx context.Context, test Data, o EvaluateOptions, ps ...Predictor) (*Results, error) {
	e := &evaluation{o: o, shape: ShapeOf(test.Header.Model), ps: ps}
	if err := e.check(test.Header); err != nil {
		return nil, err
	}
	c := newCollector(e)
	docs, tokens := 0, 0
	err := scan(ctx, test, e.workers(), e.document, func(doc *trace.Document, r *report) error {
		docs++
		tokens += r.tokens
		c.add(doc, r)
		for i := range r.answers {
			if err := o.Each(&r.answers[i]); err != nil {
				return err
			}
		}
		if o.Progress != nil {
			o.Progress(docs, tokens)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if tokens == 0 {
		return nil, errors.New("speculate: no tokens to evaluate on")
	}
	return c.results(), nil
}

func (e *evaluation) workers() int {
	if e.o.Workers > 0 {
		return e.o.Workers
	}
	return runtime.GOMAXPROCS(0)
}

func (e *evaluation) check(h trace.Header) error {
	if err := e.shape.Validate(); err != nil {
		return err
	}
	if len(e.o.Horizons) == 0 || len(e.ps) == 0 {
		return errors.New("speculate: no horizons or no predictors to evaluate")
	}
	for i, hz := range e.o.Horizons {
		if err := hz.Validate(e.shape.Depth()); err != nil {
			return err
		}
		if slices.Contains(e.o.Horizons[:i], hz) {
			return fmt.Errorf("speculate: horizon %v given twice", hz)
		}
	}
	names := map[string]bool{}
	for _, p := range e.ps {
		if names[p.Name()] {
			return fmt.Errorf("speculate: two predictors named %q", p.Name())
		}
		names[p.Name()] = true
		if err := p.Requires().Check(h); err != nil {
			return fmt.Errorf("speculate: %s: %w", p.Name(), err)
		}
	}
	return nil
}

func (e *evaluation) document(doc *trace.Document, seq *sequence) (*report, error) {
	r := &report{tokens: len(doc.Tokens), cells: make([]cell, len(e.o.Horizons)*len(e.ps))}
	a := &answers{seq: seq}
	order, all := make([]int32, e.shape.Experts), some(len(doc.Tokens), len(doc.Tokens))
	for i, h := range e.o.Horizons {
		for _, l := range e.shape.Targets(h) {
			from, to := e.shape.span(seq.n, seq.enc, l)
			tokens := all[from:to]
			if len(tokens) == 0 {
				continue
			}
			a.ask(h, l, tokens)
			for j, p := range e.ps {
				if !Supports(p, e.shape, h, l) {
					continue
				}
				scores, err := a.of(p)
				if err != nil {
					return nil, err
				}
				c := &r.cells[i*len(e.ps)+j]
				if c.layers == nil {
					c.layers, c.phases = make([]tally, e.shape.Layers), map[trace.Phase]*tally{}
				}
				e.score(doc, c, p, h, l, tokens, scores, order, r)
			}
		}
	}
	return r, nil
}

// score adds one predictor's answers [len(tokens),E] at one layer to c.
func (e *evaluation) score(doc *trace.Document, c *cell, p Predictor, h Horizon, l int, tokens []int, scores []float32, order []int32, r *report) {
	s := e.shape
	for i, t := range tokens {
		row, at := scores[i*s.Experts:(i+1)*s.Experts], (t*s.Layers+l)*s.TopK
		actual := doc.Experts[at : at+s.TopK]
		prob.Rank(row, order)
		c.layers[l].observe(row, order, actual)
		ph := doc.Phase(t)
		if len(doc.Phases) > 0 {
			if c.phases[ph] == nil {
				c.phases[ph] = &tally{}
			}
			c.phases[ph].observe(row, order, actual)
		}
		if e.o.Each != nil {
			pr := newPrediction(row)
			r.answers = append(r.answers, Answer{Dataset: doc.Dataset, Document: doc.ID, Position: doc.Position(t), Phase: ph,
				Layer: l, Horizon: h, Predictor: p.Name(), Predicted: pr.Experts, Confidence: pr.Confidence, Actual: actual})
		}
	}
	c.all.add(&c.layers[l])
	if len(doc.Phases) == 0 { // all of it was prefilled
		if c.phases[trace.Prefill] == nil {
			c.phases[trace.Prefill] = &tally{}
		}
		c.phases[trace.Prefill].add(&c.layers[l])
	}
}
