package neural

import (
	"context"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// folds is the number of parts of the training documents for [heldOut].
const folds = 5

// heldOut holds statistics for training. Counts that include a document look more
// certain of it than they are of others, and a network that learned from them would
// trust them too much: those read with a document are of the other folds alone
// (stacking: Wolpert 1992).
type heldOut struct {
	fold  map[trace.Key]int
	stats [folds][]speculate.Predictor
}

// newHeldOut reads train once. It returns nil where there is one document alone.
// Statistics other than those of [speculate.Baselines] are used unchanged.
func newHeldOut(ctx context.Context, train speculate.Data, o TrainOptions) (*heldOut, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	s := &heldOut{fold: map[trace.Key]int{}}
	counters := [folds][]speculate.Counter{}
	for i := range folds {
		fresh, err := speculate.Baselines(shape, nil)
		if err != nil {
			return nil, err
		}
		s.stats[i] = slices.Clone(o.Statistics)
		for j, p := range o.Statistics {
			at := slices.IndexFunc(fresh, func(q speculate.Predictor) bool { return q.Name() == p.Name() })
			if at < 0 {
				continue
			}
			c, ok := fresh[at].(speculate.Counter)
			if !ok {
				continue
			}
			if err := c.Begin(shape, o.Horizons); err != nil {
				return nil, fmt.Errorf("neural: %s: %w", c.Name(), err)
			}
			s.stats[i][j], counters[i] = c, append(counters[i], c)
		}
	}
	for doc, err := range train.All(ctx) {
		if err == nil {
			err = validDocument(doc, train.Header)
		}
		if err != nil {
			return nil, err
		}
		fold := len(s.fold) % folds
		s.fold[doc.Key()] = fold
		if err := parallel(folds, func(i int) error {
			if i == fold {
				return nil
			}
			for _, c := range counters[i] {
				if err := c.Count(doc); err != nil {
					return fmt.Errorf("neural: %s: %w", c.Name(), err)
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if len(s.fold) < 2 {
		return nil, nil
	}
	for _, cs := range counters {
		for _, c := range cs {
			if err := c.End(); err != nil {
				return nil, fmt.Errorf("neural: %s: %w", c.Name(), err)
			}
		}
	}
	return s, nil
}

// of returns the statistics to read with a training document.
func (s *heldOut) of(doc *trace.Document) []speculate.Predictor { return s.stats[s.fold[doc.Key()]] }
