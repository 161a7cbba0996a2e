package speculate

import (
	"context"
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/trace"
)

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
	for doc, err := range train.All(ctx) {
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
