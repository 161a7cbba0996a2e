package prefetch

import (
	"context"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// ask is a prediction that is made for each token.
type ask struct {
	after   int // layer whose routing it follows; -1: it begins the token
	layer   int // that it is about
	next    bool
	horizon speculate.Horizon
}

// asks are the predictions of a token that prefetches follow, in their order; of a
// model with an encoder those of the decoder's tokens.
func (c Config) asks(s speculate.Shape) []ask {
	var asks []ask
	if c.Predictor == nil || c.Prefetch == 0 {
		return nil
	}
	far := c.Horizon.Layers
	for h := far; h > 0 && (h == far || c.Nearer); h-- {
		for l := s.Encoder + h; l < s.Layers; l++ {
			asks = append(asks, ask{after: l - h, layer: l, horizon: speculate.Horizon{Layers: h}})
		}
	}
	switch {
	case c.Horizon.KnownID:
		for l := s.Encoder; l < s.Layers; l++ {
			asks = append(asks, ask{after: -1, layer: l, horizon: c.Horizon})
		}
	case far == 0 || c.NextToken:
		for l := s.Encoder; l < s.Layers; l++ {
			if far == 0 || l-s.Encoder < far {
				asks = append(asks, ask{after: s.Layers - 1, layer: l, next: true})
			}
		}
	}
	slices.SortStableFunc(asks, func(a, b ask) int { return a.after - b.after })
	return asks
}

// predicted is what is predicted for one document.
type predicted struct {
	asks   []ask
	wanted []int32   // [T,len(asks),m] experts, likeliest first, -1 after the last; of the token that they are about
	scores []float32 // [T,L,E] for Reuse, one token ahead; empty: none
}

// chunk is the maximum number of tokens whose scores are in memory.
const chunk = 512

// question is what the prediction of one document needs.
type question struct {
	cfg    Config
	s      speculate.Shape
	views  *speculate.Views
	d      *trace.Document
	scores []float32 // scratch, [chunk,E]
	asked  []speculate.View
}

// predict fills what is predicted.
func (p *predicted) predict(ctx context.Context, q *question) error {
	m := q.cfg.Prefetch
	p.wanted = slices.Grow(p.wanted[:0], len(q.d.Tokens)*len(p.asks)*m)[:len(q.d.Tokens)*len(p.asks)*m]
	for i := range p.wanted {
		p.wanted[i] = -1
	}
	for i, a := range p.asks {
		err := q.each(ctx, a.layer, a.horizon, func(t int, scores []float32) {
			at := (t*len(p.asks) + i) * m
			top(scores, int32(a.layer*q.s.Experts), p.wanted[at:at+m])
		})
		if err != nil {
			return err
		}
	}
	if q.cfg.Policy != Reuse {
		return nil
	}
	size := len(q.d.Tokens) * q.s.Layers * q.s.Experts
	p.scores = slices.Grow(p.scores[:0], size)[:size]
	for l := q.s.Encoder; l < q.s.Layers; l++ {
		err := q.each(ctx, l, speculate.Horizon{}, func(t int, scores []float32) {
			copy(p.scores[(t*q.s.Layers+l)*q.s.Experts:], scores)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// each calls f with the scores, [E], of each token of the decoder at a layer, which f
// may change.
func (q *question) each(ctx context.Context, layer int, h speculate.Horizon, f func(t int, scores []float32)) error {
	n, e := len(q.d.Tokens), q.s.Experts
	if q.scores == nil {
		q.scores = make([]float32, chunk*e)
	}
	_, oracle := q.cfg.Predictor.(speculate.Oracle)
	for from := q.d.Encoded(); from < n; from += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		q.asked = q.asked[:0]
		for t := from; t < min(n, from+chunk); t++ {
			q.asked = append(q.asked, q.views.At(t, layer, h))
		}
		out := q.scores[:len(q.asked)*e]
		if oracle {
			actual(q.d, q.s, layer, from, out)
		} else if err := q.cfg.Predictor.Predict(q.asked, out); err != nil {
			return fmt.Errorf("layer %d at %v: %w", layer, h, err)
		}
		for i, x := range out {
			if !(x >= 0 && x <= 1) {
				return fmt.Errorf("layer %d at %v: token %d, expert %d: got probability %g, expected one in [0,1]", layer, h, from+i/e, i%e, x)
			}
		}
		for i := range q.asked {
			f(from+i, out[i*e:(i+1)*e])
		}
	}
	return nil
}

// actual is the answer of the oracle, first choice first, which a view does not hold.
func actual(d *trace.Document, s speculate.Shape, l, from int, out []float32) {
	clear(out)
	for i := range len(out) / s.Experts {
		at := ((from+i)*s.Layers + l) * s.TopK
		for k, e := range d.Experts[at : at+s.TopK] {
			if e >= 0 {
				out[i*s.Experts+int(e)] = float32(s.TopK-k) / float32(s.TopK)
			}
		}
	}
}

// top writes base plus the numbers of the highest scores above 0, highest
// first, ties to the lower number. It takes them out of scores.
func top(scores []float32, base int32, out []int32) {
	for i := range out {
		best, at := float32(0), -1
		for e, x := range scores {
			if x > best {
				best, at = x, e
			}
		}
		if at < 0 {
			return
		}
		out[i], scores[at] = base+int32(at), 0
	}
}
