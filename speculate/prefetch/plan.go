package prefetch

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// plan is what one document asks for, with ids layer*E+expert.
type plan struct {
	requests []int32 // the choices, [T,L,K] without trace.NoExpert
	ends     []int   // [T*L] number of requests up to and including that layer
	wanted   []int32 // [T*L,m] predicted experts, likeliest first, -1 after the last
}

// each calls f with every document and its plan, which f must not keep. It returns
// the number of documents and tokens.
func each(ctx context.Context, data speculate.Data, cfg Config, f func(*trace.Document, *plan)) (documents, tokens int, err error) {
	p := new(plan)
	var scores []float32
	for d, err := range data.All(ctx) {
		if err != nil {
			return 0, 0, err
		}
		views, err := speculate.NewViews(data.Header, d)
		if err != nil {
			return 0, 0, err
		}
		s := speculate.ShapeOf(data.Header.Model)
		if len(d.Tokens) > (maxRequests-s.Layers)/(s.Layers*s.TopK) {
			return 0, 0, fmt.Errorf("prefetch: document %q of data set %q: %d tokens are too many", d.ID, d.Dataset, len(d.Tokens))
		}
		p.read(d, s)
		if cfg.Predictor != nil {
			if scores, err = p.predict(ctx, cfg, s, views, d, scores); err != nil {
				return 0, 0, fmt.Errorf("prefetch: document %q of data set %q: predictor %s: %w", d.ID, d.Dataset, cfg.Predictor.Name(), err)
			}
		}
		f(d, p)
		documents, tokens = documents+1, tokens+len(d.Tokens)
	}
	return documents, tokens, nil
}

func (p *plan) read(d *trace.Document, s speculate.Shape) {
	p.requests, p.ends = p.requests[:0], p.ends[:0]
	for step := range len(d.Tokens) * s.Layers {
		for _, e := range d.Experts[step*s.TopK : (step+1)*s.TopK] {
			if e != trace.NoExpert {
				p.requests = append(p.requests, int32(step%s.Layers*s.Experts)+e)
			}
		}
		p.ends = append(p.ends, len(p.requests))
	}
}

// chunk is the maximum number of tokens whose scores are in memory.
const chunk = 512

// predict fills wanted.
func (p *plan) predict(ctx context.Context, cfg Config, s speculate.Shape, views *speculate.Views, d *trace.Document, scores []float32) ([]float32, error) {
	n, m := len(d.Tokens), cfg.Prefetch
	p.wanted = p.wanted[:0]
	for range n * s.Layers * m {
		p.wanted = append(p.wanted, -1)
	}
	if scores == nil {
		scores = make([]float32, chunk*s.Experts)
	}
	_, oracle := cfg.Predictor.(speculate.Oracle)
	asked := make([]speculate.View, 0, chunk)
	for l := range s.Layers {
		h := cfg.Horizon
		if l < h.Layers {
			if !cfg.NextToken {
				continue
			}
			h = speculate.Horizon{}
		}
		for from := 0; from < n; from += chunk {
			if err := ctx.Err(); err != nil {
				return scores, err
			}
			asked = asked[:0]
			for t := from; t < min(n, from+chunk); t++ {
				asked = append(asked, views.At(t, l, h))
			}
			out := scores[:len(asked)*s.Experts]
			if oracle {
				actual(d, s, l, from, out)
			} else if err := cfg.Predictor.Predict(asked, out); err != nil {
				return scores, fmt.Errorf("layer %d at %v: %w", l, h, err)
			}
			for i, x := range out {
				if !(x >= 0 && x <= 1) {
					return scores, fmt.Errorf("layer %d at %v: token %d, expert %d: got probability %g, expected one in [0,1]", l, h, asked[i/s.Experts].Token(), i%s.Experts, x)
				}
			}
			for i := range asked {
				at := ((from+i)*s.Layers + l) * m
				top(out[i*s.Experts:(i+1)*s.Experts], int32(l*s.Experts), p.wanted[at:at+m])
			}
		}
	}
	return scores, nil
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
