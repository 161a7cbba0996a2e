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
	// Begin discards an earlier fit and prepares for documents of this shape and
	// for predictions at horizons.
	Begin(s Shape, horizons []Horizon) error
	// Count adds one document, all of it known.
	Count(doc *trace.Document) error
	// End completes the fit.
	End() error
}

// Fit reads train once and fits every [Counter] among ps, for predictions at
// horizons. Other predictors are ignored.
func Fit(ctx context.Context, train Data, horizons []Horizon, ps ...Predictor) error {
	shape := ShapeOf(train.Header.Model)
	if err := shape.Validate(); err != nil {
		return err
	}
	if len(horizons) == 0 {
		return errors.New("speculate: no horizons to fit for")
	}
	for _, h := range horizons {
		if err := h.Validate(shape.Depth()); err != nil {
			return err
		}
	}
	seq, err := newSequence(train.Header)
	if err != nil {
		return err
	}
	var counters []Counter
	for _, p := range ps {
		if c, ok := p.(Counter); ok {
			if err := c.Begin(shape, horizons); err != nil {
				return fmt.Errorf("speculate: %s: %w", p.Name(), err)
			}
			counters = append(counters, c)
		}
	}
	if len(counters) == 0 {
		return nil
	}
	empty := true
	for doc, err := range train.All(ctx) {
		if err == nil {
			err = seq.setDocument(doc) // which validates it
		}
		if err != nil {
			return err
		}
		for _, c := range counters {
			if err := c.Count(doc); err != nil {
				return fmt.Errorf("speculate: %s: %w", c.Name(), err)
			}
		}
		empty = false
	}
	if empty {
		return errors.New("speculate: no documents to fit on")
	}
	for _, c := range counters {
		if err := c.End(); err != nil {
			return fmt.Errorf("speculate: %s: %w", c.Name(), err)
		}
	}
	return nil
}
