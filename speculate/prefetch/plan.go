package prefetch

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// plan is what a batch of documents asks for, with ids layer*E+expert. A step is
// of one layer; a pass is the steps of one or more tokens at all layers. In a model
// with an encoder the first pass is that of all its tokens; the steps of the layers
// of the other stack are empty, and take no time.
type plan struct {
	encoder  int // layers of the encoder
	prompt   int // tokens of each document in the first pass of a decoder
	asks     []ask
	docs     []*docPlan
	requests []int32 // the different choices of each step, in their order
	ends     []int   // [passes*L] number of requests up to and including that step
	stamp    []int32 // [L*E] scratch of read
}

// docPlan is the part of one document.
type docPlan struct {
	id      string
	tokens  int
	encoded int     // of these, the first are the encoder's
	experts []int32 // [T,L,K]
	predicted
}

// span returns the document's tokens [from,to) that a pass computes.
func (p *plan) span(d *docPlan, pass int) (from, to int) {
	if p.encoder > 0 {
		if pass == 0 {
			return 0, d.encoded
		}
		pass--
	}
	if pass == 0 {
		return d.encoded, min(d.encoded+p.prompt, d.tokens)
	}
	from = d.encoded + p.prompt + pass - 1
	return from, min(from+1, d.tokens)
}

// empty reports whether a step is of a layer that the pass does not reach.
func (p *plan) empty(pass, layer int) bool {
	if p.encoder == 0 {
		return false
	}
	encoded := slices.ContainsFunc(p.docs, func(d *docPlan) bool { return d.encoded > 0 })
	return (pass == 0) != (layer < p.encoder) || pass == 0 && !encoded
}

// first and last are the layers of a pass.
func (p *plan) first(pass int) int {
	if pass == 0 {
		return 0
	}
	return p.encoder
}

func (p *plan) last(pass, layers int) int {
	if pass == 0 && p.encoder > 0 {
		return p.encoder - 1
	}
	return layers - 1
}

// few reports whether a pass is that of one token of each document.
func (p *plan) few(pass int) bool {
	if p.encoder > 0 {
		pass--
	}
	return pass > 0 || pass == 0 && p.prompt == 1
}

// passes returns their number for a document.
func (p *plan) passes(d *docPlan) (n int) {
	if p.encoder > 0 {
		n++
	}
	if rest := d.tokens - d.encoded; rest > 0 {
		n += 1 + max(0, rest-p.prompt)
	}
	return n
}

// each calls f with the plans of all batches of documents, which f must not keep. It
// returns the number of documents and tokens.
func each(ctx context.Context, data speculate.Data, cfg Config, f func(*plan)) (documents, tokens int, err error) {
	s := speculate.ShapeOf(data.Header.Model)
	q := &question{cfg: cfg, s: s}
	p := &plan{encoder: s.Encoder, prompt: cmp.Or(cfg.Prompt, 1), asks: cfg.asks(s), stamp: make([]int32, s.Layers*s.Experts)}
	size := cmp.Or(cfg.Batch, 1)
	spare := make([]*docPlan, size)
	for i := range spare {
		spare[i] = &docPlan{predicted: predicted{asks: p.asks}}
	}
	flush := func() {
		if len(p.docs) > 0 {
			p.read(s)
			f(p)
			p.docs = p.docs[:0]
		}
	}
	total := 0 // of the batch
	for d, err := range data.All(ctx) {
		if err != nil {
			return 0, 0, err
		}
		if len(p.docs) == 0 {
			total = 0
		}
		if total += len(d.Tokens); total > (maxRequests-s.Layers)/(s.Layers*s.TopK) {
			return 0, 0, fmt.Errorf("prefetch: document %q of data set %q: %d tokens are too many", d.ID, d.Dataset, total)
		}
		if q.views, err = speculate.NewViews(data.Header, d); err != nil {
			return 0, 0, err
		}
		x := spare[len(p.docs)]
		x.id, x.tokens, x.encoded, x.experts = d.ID, len(d.Tokens), d.Encoded(), append(x.experts[:0], d.Experts...)
		if cfg.Predictor != nil {
			q.d = d
			if err := x.predict(ctx, q); err != nil {
				return 0, 0, fmt.Errorf("prefetch: document %q of data set %q: predictor %s: %w", d.ID, d.Dataset, cfg.Predictor.Name(), err)
			}
		}
		p.docs = append(p.docs, x)
		documents, tokens = documents+1, tokens+len(d.Tokens)
		if len(p.docs) == size {
			flush()
		}
	}
	flush()
	return documents, tokens, nil
}

// read fills requests and ends.
func (p *plan) read(s speculate.Shape) {
	p.requests, p.ends = p.requests[:0], p.ends[:0]
	clear(p.stamp)
	passes := 0
	for _, d := range p.docs {
		passes = max(passes, p.passes(d))
	}
	for pass := range passes {
		for l := range s.Layers {
			now := int32(len(p.ends) + 1)
			for _, d := range p.docs {
				from, to := p.span(d, pass)
				for t := from; t < to; t++ {
					at := (t*s.Layers + l) * s.TopK
					for _, e := range d.experts[at : at+s.TopK] {
						if e == trace.NoExpert {
							continue
						}
						if id := int32(l*s.Experts) + e; p.stamp[id] != now {
							p.stamp[id] = now
							p.requests = append(p.requests, id)
						}
					}
				}
			}
			p.ends = append(p.ends, len(p.requests))
		}
	}
}

// MostFrequent returns the ids layer*E+expert of all experts, those first that the
// tokens of data chose most often, ties to the lower id, for [Config].Static: what a
// policy pins that knows these documents only. The choices of an expert by the tokens
// of an encoder are one, since they are one step.
func MostFrequent(ctx context.Context, data speculate.Data) ([]int32, error) {
	s := speculate.ShapeOf(data.Header.Model)
	if err := s.Validate(); err != nil {
		return nil, err
	}
	counts, ids := make([]int, s.Layers*s.Experts), make([]int32, s.Layers*s.Experts)
	_, _, err := each(ctx, data, Config{}, func(p *plan) {
		for _, id := range p.requests {
			counts[id]++
		}
	})
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return counts[b] - counts[a] })
	return ids, err
}
