package speculate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/expertspec/expertspec/trace"
)

// latencyTime bounds the measurement of one predictor in [MeasureCosts].
const latencyTime = 300 * time.Millisecond

// MeasureCosts returns known with, for each predictor except the oracle, the number of
// parameters where known has none, and the time of a decision on one core, measured on
// the longest of the first eight documents of d at those of horizons that it supports.
func MeasureCosts(ctx context.Context, d Data, horizons []Horizon, known map[string]Cost, ps ...Predictor) (map[string]Cost, error) {
	var doc *trace.Document
	seen := 0
	for x, err := range d.All(ctx) {
		if err != nil {
			return nil, err
		}
		if doc == nil || len(x.Tokens) > len(doc.Tokens) {
			doc = x
		}
		if seen++; seen == 8 {
			break
		}
	}
	if doc == nil {
		return nil, errors.New("speculate: no document to measure latency on")
	}
	costs := map[string]Cost{}
	maps.Copy(costs, known)
	for _, p := range ps {
		if p == (Oracle{}) {
			continue // it knows the answer, and takes no time to find it
		}
		c := costs[p.Name()]
		if c.Parameters == 0 {
			c.Parameters = parameters(p)
		}
		t, err := latency(ctx, p, d.Header, doc, horizons, latencyTime)
		if err != nil {
			return nil, err
		}
		c.Microseconds = float64(t.Nanoseconds()) / 1000
		costs[p.Name()] = c
	}
	return costs, nil
}

// parameters counts the numbers that p learned, and those of the predictors that
// it depends on, without calibration curves and the model's own routers. It is 0
// for a predictor that cannot be saved.
func parameters(p Predictor) int64 {
	p = Base(p)
	n := int64(0)
	if q, ok := p.(dependent); ok {
		for _, m := range q.Needs() {
			n += parameters(m)
		}
	}
	if e, ok := p.(*Ensemble); ok {
		for _, w := range e.Weights {
			n += int64(len(w))
		}
		return n
	}
	sv, ok := p.(Saver)
	if !ok {
		return n
	}
	s, err := sv.Save()
	if err != nil {
		return n
	}
	for _, t := range s.Tensors {
		size := int64(1)
		for _, d := range t.Shape {
			size *= int64(d)
		}
		n += size
	}
	return n
}

// errEnough ends a measurement.
var errEnough = errors.New("measured for long enough")

// latency measures the time of one decision on one core. It feeds doc to a
// [Session], as in decoding, and asks about each token and layer separately and
// as early as possible, layer after layer, so that a layer's weights are not in
// the nearest cache. Only [Session.PredictScores] is timed: reading the view, the
// predictor's work and calibration. The result is the median over tokens, which
// other programs disturb little, of the mean over a token's decisions, less the
// time of reading the clock. It takes about atMost unless doc ends earlier. It is
// 0 if p supports none of horizons.
func latency(ctx context.Context, p Predictor, h trace.Header, doc *trace.Document, horizons []Horizon, atMost time.Duration) (time.Duration, error) {
	ds, err := decisions(p, ShapeOf(h.Model), horizons)
	if err != nil || len(ds) == 0 {
		return 0, err
	}
	if err := doc.Validate(&h); err != nil {
		return 0, fmt.Errorf("speculate: %w", err)
	}
	ses, err := NewSession(p, h)
	if err != nil {
		return 0, err
	}
	clock := clockTime()
	scores := make([]float32, ses.seq.shape.Experts)
	var means []time.Duration // of each token
	var spent, sum time.Duration
	token, asked := -1, 0
	finish := func() {
		if asked > 0 {
			means = append(means, sum/time.Duration(asked)-clock)
		}
		spent, sum, asked = spent+sum, 0, 0
	}
	err = replay(ses, h, doc, ds, func(t, i int) error {
		if t != token {
			finish()
			token = t
			if spent > atMost {
				return errEnough
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := ses.PredictScores(ds[i].layer, ds[i].hor, scores); err != nil {
			return err
		}
		sum += time.Since(began)
		asked++
		return nil
	})
	if err != nil && err != errEnough {
		return 0, err
	}
	finish()
	if len(means) == 0 { // no token of a decoder
		return 0, nil
	}
	slices.Sort(means)
	return max(means[len(means)/2], 0), nil
}

// clockTime is what reading the clock twice adds to a measurement.
func clockTime() time.Duration {
	const n = 1000
	times := make([]time.Duration, n)
	for i := range times {
		began := time.Now()
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times[n/2]
}
