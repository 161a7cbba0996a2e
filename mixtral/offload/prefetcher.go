package offload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// PrefetchOptions say what is predicted. Predictor is required. With policy Reuse it
// also predicts all layers one token ahead.
type PrefetchOptions struct {
	Predictor speculate.Predictor
	// Horizon is a distance of at least one layer; the zero value is one layer.
	Horizon speculate.Horizon
	// Experts is the number of the likeliest experts that are read ahead; 0: K, or with
	// policy Reuse none.
	Experts int
	// Nearer also predicts at all distances below Horizon.Layers.
	Nearer bool
	// NextToken also predicts one token ahead, for the layers below Horizon.Layers.
	NextToken bool
}

// distances are those of the layers that are predicted, the farthest first.
func (o *PrefetchOptions) distances() []int {
	var hs []int
	for h := o.Horizon.Layers; h > 0 && o.Experts > 0; h-- {
		hs = append(hs, h)
		if !o.Nearer {
			break
		}
	}
	return hs
}

// Prefetcher has a store read ahead what a predictor says about the documents of one
// request and its continuations. Its Observe method is the value of Request.Observe
// or GenerateOptions.Observe; RouterInput of these must be what RouterInput returns.
// Tokens that are computed one at a time are predicted; of others, as of a prompt,
// the predictor is told. After a pass that failed, use a new one.
type Prefetcher struct {
	s        *Store
	o        PrefetchOptions
	h        trace.Header
	record   *mixtral.Recorder
	sessions map[int]*speculate.Session // by the document's index in the request
	scores   []float32                  // [E]
}

// NewPrefetcher returns a prefetcher for the model of a store, which is loaded and
// whose description is m (see [mixtral.Config.TraceModel]).
func (s *Store) NewPrefetcher(m trace.Model, o PrefetchOptions) (*Prefetcher, error) {
	if s.turn == nil {
		return nil, errors.New("offload: no model is loaded with the store")
	}
	if m.Layers != s.src.Layers || m.Experts != s.src.Experts || m.TopK != s.src.TopK {
		return nil, fmt.Errorf("offload: the description is of %d layers, %d experts and top-k %d; the store's model has %d, %d and %d",
			m.Layers, m.Experts, m.TopK, s.src.Layers, s.src.Experts, s.src.TopK)
	}
	if o.Predictor == nil {
		return nil, errors.New("offload: PrefetchOptions.Predictor is nil")
	}
	if o.Horizon == (speculate.Horizon{}) {
		o.Horizon.Layers = 1
	}
	reuse := s.o.Policy == prefetch.Reuse
	if o.Experts == 0 && !reuse {
		o.Experts = m.TopK
	}
	name := o.Predictor.Name()
	switch err := o.Horizon.Validate(m.Layers); {
	case err != nil:
		return nil, err
	case o.Horizon.Layers < 1:
		return nil, fmt.Errorf("offload: horizon is %v; must be a distance of at least one layer", o.Horizon)
	case o.Experts < 0 || o.Experts > m.Experts:
		return nil, fmt.Errorf("offload: %d experts are to be read ahead; must be 1 to %d", o.Experts, m.Experts)
	case (o.NextToken || reuse) && !o.Predictor.Supports(speculate.Horizon{}):
		return nil, fmt.Errorf("offload: predictor %s at %v: %w", name, speculate.Horizon{}, speculate.ErrHorizon)
	}
	for _, d := range o.distances() {
		if h := (speculate.Horizon{Layers: d}); !o.Predictor.Supports(h) {
			return nil, fmt.Errorf("offload: predictor %s at %v: %w", name, h, speculate.ErrHorizon)
		}
	}
	h := trace.Header{Model: m}
	for l := range m.Layers {
		if o.Predictor.Requires().Logits {
			h.LogitLayers = append(h.LogitLayers, l)
		}
		if o.Predictor.Requires().Inputs {
			h.InputLayers = append(h.InputLayers, l)
		}
	}
	record, err := mixtral.NewRecorder(h)
	if err != nil {
		return nil, err
	}
	p := &Prefetcher{s: s, o: o, h: h, record: record, sessions: map[int]*speculate.Session{}, scores: make([]float32, m.Experts)}
	_, err = p.session()
	return p, err
}

// RouterInput reports whether the predictor reads router inputs.
func (p *Prefetcher) RouterInput() bool { return p.o.Predictor.Requires().Inputs }

func (p *Prefetcher) session() (*speculate.Session, error) {
	return speculate.NewSession(p.o.Predictor, p.h)
}

// Observe is called with a layer's routing.
func (p *Prefetcher) Observe(ctx context.Context, rt *mixtral.Routing) error {
	defer p.s.predicting(time.Now(), len(rt.Position) == 1)
	if err := p.record.Observe(ctx, rt); err != nil {
		return err
	}
	for from, to := 0, 0; from < len(rt.Document); from = to {
		for to = from + 1; to < len(rt.Document) && rt.Document[to] == rt.Document[from]; to++ {
		}
		if err := p.document(rt, from, to); err != nil {
			return err
		}
	}
	return nil
}

// document observes rows [from,to) of rt, which are of one document.
func (p *Prefetcher) document(rt *mixtral.Routing, from, to int) error {
	doc := rt.Document[from]
	if rt.Layer == 0 && (rt.Position[from] == 0 || p.sessions[doc] == nil) {
		s, err := p.session()
		if err != nil {
			return err
		}
		p.sessions[doc] = s
	}
	s := p.sessions[doc]
	if s == nil {
		return fmt.Errorf("offload: document %d begins at layer %d", doc, rt.Layer)
	}
	if to-from == 1 {
		if err := p.token(s, rt, from); err != nil {
			return err
		}
	}
	if rt.Layer < rt.Layers-1 {
		return nil
	}
	recorded := p.record.Take(doc)
	if recorded == nil {
		return nil
	}
	defer p.record.Reuse(recorded)
	if to-from > 1 {
		if err := s.Append(recorded); err != nil {
			return err
		}
	}
	return p.nextToken(s, rt)
}

// token observes row i of rt, the only one of its document, and predicts.
func (p *Prefetcher) token(s *speculate.Session, rt *mixtral.Routing, i int) error {
	if rt.Layer == 0 {
		if err := s.Begin(rt.Token[i]); err != nil {
			return err
		}
	}
	m := &p.h.Model
	r := speculate.Routing{Experts: rt.Experts[i*m.TopK:][:m.TopK], Weights: rt.Weights[i*m.TopK:][:m.TopK], Logits: rt.Logits[i*m.Experts:][:m.Experts]}
	if rt.Input != nil {
		r.Input = rt.Input[i*m.Hidden:][:m.Hidden]
	}
	if err := s.Observe(r); err != nil {
		return err
	}
	for _, d := range p.o.distances() {
		if rt.Layer+d >= m.Layers {
			continue
		}
		if err := p.predict(s, rt.Layer+d, speculate.Horizon{Layers: d}, d, p.o.Experts); err != nil {
			return err
		}
	}
	return nil
}

// nextToken predicts the layers of the next token of which nothing else will be, and
// for policy Reuse all.
func (p *Prefetcher) nextToken(s *speculate.Session, rt *mixtral.Routing) error {
	wanted := 0
	if p.o.NextToken {
		wanted = min(p.o.Horizon.Layers, rt.Layers)
	}
	for l := range rt.Layers {
		n := p.o.Experts
		if l >= wanted {
			n = 0
			if p.s.o.Policy != prefetch.Reuse {
				break
			}
		}
		if err := p.predict(s, l, speculate.Horizon{}, 1+l, n); err != nil {
			return err
		}
	}
	return nil
}

// predict has the n likeliest experts of a layer read, which are for the step so many
// steps ahead.
func (p *Prefetcher) predict(s *speculate.Session, layer int, h speculate.Horizon, ahead, n int) error {
	if err := s.PredictScores(layer, h, p.scores); err != nil {
		return err
	}
	for e, x := range p.scores {
		if !(x >= 0 && x <= 1) {
			return fmt.Errorf("offload: predictor %s at %v, layer %d, expert %d: got probability %g, expected one in [0,1]", p.o.Predictor.Name(), h, layer, e, x)
		}
	}
	w := want{ids: make([]int32, n), ahead: int64(ahead), layer: layer}
	if p.s.o.Policy == prefetch.Reuse && h == (speculate.Horizon{}) {
		w.scores = slices.Clone(p.scores)
	}
	p.s.predicted(w, p.scores)
	return nil
}

// predicted keeps a prediction until the step that follows, whose own experts precede
// it.
func (s *Store) predicted(w want, scores []float32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.Likeliest(scores, w.layer, w.ids)
	s.wants = append(s.wants, w)
	s.stats.predictions++
}

// predicting counts that computing waited for a prefetcher, about one token or more.
func (s *Store) predicting(start time.Time, one bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := time.Since(start)
	s.stats.predicting += d
	s.stats.costs.waited += d
	if one {
		s.stats.costs.decisions.add(d, len(s.wants))
	}
}
