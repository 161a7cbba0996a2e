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

// latencyTime bounds the asking of one predictor in [MeasureCosts].
const latencyTime = 300 * time.Millisecond

// MeasureCosts returns known with what can be measured here filled in: each
// predictor's parameters, and the time of a decision on the longest of the first eight
// documents of d, mean over those of horizons that it supports.
func MeasureCosts(ctx context.Context, d Data, horizons []Horizon, known map[string]Cost, ps ...Predictor) (map[string]Cost, error) {
	var doc *trace.Document
	seen := 0
	for x, err := range d.Documents() {
		if err == nil {
			err = ctx.Err()
		}
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
		c.Parameters = parameters(p)
		t, err := latency(ctx, p, d.Header, doc, horizons, latencyTime)
		if err != nil {
			return nil, err
		}
		c.Microseconds = float64(t.Nanoseconds()) / 1000
		costs[p.Name()] = c
	}
	return costs, nil
}

// parameters counts the numbers that p learned, counted or trained, and those
// of the predictors that it asks: an ensemble's members, a network's
// statistics. Calibration curves are left out, and the model's own routers,
// which gate reuse reads. A predictor that cannot be saved has 0.
func parameters(p Predictor) int64 {
	p = Base(p)
	n := int64(0)
	if q, ok := p.(interface{ Needs() []Predictor }); ok {
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

// latency measures the time of one decision on one core: p follows doc in a
// [Session], as in decoding, and is asked about each (token, layer) by itself as
// soon as a horizon allows, layer after layer, so that no layer's weights are
// in the nearest cache when they are needed. Only [Session.PredictScores] is
// timed: reading the view, the predictor's own work and calibration, not the
// recording of what was routed. The result is the median over tokens of the
// mean over a token's decisions, less the time of reading the clock; other
// programs' use of the machine disturbs a median little. The time spent asking
// is about atMost, or all of doc if that is less. It is 0 for a predictor that
// supports none of horizons.
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
		return 0, fmt.Errorf("speculate: latency of %s: %w", p.Name(), err)
	}
	finish()
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
