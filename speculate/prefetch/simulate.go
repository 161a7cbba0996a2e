package prefetch

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// simulator drives an Engine by simulated time. All ids are layer*E+expert.
type simulator struct {
	*Engine
	cfg  Config
	load int64 // ns
	comp int64 // ns

	stalled []int64 // [L] ns
	events  []Event
	doc     string

	now, busy int64 // ns: the compute unit's clock, and when the channel becomes free
	running   int32 // the expert being prefetched until busy; -1: none
}

func newSimulator(cfg Config, s speculate.Shape) *simulator {
	return &simulator{Engine: newEngine(s, cfg), cfg: cfg, load: int64(cfg.Load), comp: int64(cfg.Compute),
		stalled: make([]int64, s.Layers), running: -1}
}

func (m *simulator) event(k Kind, step int64, id int32, from, to int64) {
	if len(m.events) >= m.cfg.Events || from == to {
		return
	}
	l := int64(m.shape.Layers)
	e := Event{Document: m.doc, Token: int(step / l), Layer: int(step % l), Expert: -1, Kind: k, Start: seconds(from), End: seconds(to)}
	if id >= 0 {
		e.Expert = int(id) % m.shape.Experts
	}
	m.events = append(m.events, e)
}

// document decodes one document, from an empty cache to an empty cache.
func (m *simulator) document(name string, p *plan) {
	m.doc, m.busy, m.running = name, m.now, -1
	m.begin(p.requests)
	first := 0
	for _, end := range p.ends {
		m.Step()
		for _, id := range p.requests[first:end] {
			m.request(id)
		}
		first = end
		m.Expire()
		m.ask(p)
		m.event(Compute, m.step, -1, m.now, m.now+m.comp)
		m.now += m.comp
		m.advance()
	}
	m.clear()
}

// request serves a choice: the layer waits for a copy that is under way, or for one
// on demand.
func (m *simulator) request(id int32) {
	late := m.running == id && m.busy > m.now
	resident, _, _ := m.Request(id, late)
	switch {
	case !resident:
		start := max(m.busy, m.now)
		m.running = -1 // that copy ends before this one starts
		m.busy = start + m.load
		m.event(Demand, m.step, id, start, m.busy)
		m.wait(id, m.busy)
	case late:
		m.wait(id, m.busy)
	}
}

func (m *simulator) wait(id int32, until int64) {
	m.event(Stall, m.step, id, m.now, until)
	m.stalled[m.layer(id)] += until - m.now
	m.now = until
}

// ask queues what is predicted from the routing of the current layer.
func (m *simulator) ask(p *plan) {
	if p.wanted == nil {
		return
	}
	l, ahead := int(m.step)%m.shape.Layers, m.cfg.Horizon.Layers
	if l+ahead < m.shape.Layers {
		m.want(p, m.step+int64(ahead))
	}
	if l == m.shape.Layers-1 && m.cfg.NextToken && int(m.step)+1 < len(p.ends) {
		for s := m.step + 1; s <= m.step+int64(ahead); s++ {
			m.want(p, s)
		}
	}
}

func (m *simulator) want(p *plan, step int64) {
	n := m.cfg.Prefetch
	m.Want(p.wanted[int(step)*n:(int(step)+1)*n], step, m.now)
}

// advance starts the prefetches that start before now.
func (m *simulator) advance() {
	for {
		at, ok := m.Next()
		start := max(m.busy, at)
		if !ok || start >= m.now {
			return
		}
		id, _, step, ok := m.Start()
		if !ok {
			continue
		}
		m.running, m.busy = id, start+m.load
		m.event(Prefetch, step, id, start, m.busy)
	}
}

// result returns the totals.
func (m *simulator) result(documents, tokens int) *Result {
	s := m.shape
	r := &Result{Policy: m.policy, Capacity: m.size, PerLayer: m.cfg.PerLayer, Documents: documents, Tokens: tokens, Events: m.events,
		Resident: float64(m.size) / float64(m.cfg.most(s)), Seconds: seconds(m.now)}
	r.Layers, r.Total = m.Counts()
	if m.cfg.Predictor != nil {
		r.Predictor, r.Horizon, r.Prefetch = m.cfg.Predictor.Name(), m.cfg.Horizon.String(), m.cfg.Prefetch
	}
	var stalled int64
	for l := range r.Layers {
		c := &r.Layers[l]
		c.StallSeconds = seconds(m.stalled[l])
		stalled += m.stalled[l]
	}
	r.Total.StallSeconds = seconds(stalled)
	r.HitRate = r.Total.HitRate()
	r.TransfersPerToken = ratio(float64(r.Total.Transfers), float64(tokens))
	r.StallPerToken = ratio(r.Total.StallSeconds, float64(tokens))
	r.TokensPerSecond = ratio(float64(tokens), r.Seconds)
	return r
}

// Simulate runs cfg on all documents of data, one after another. Memory use is
// that of one document, and L*E numbers. Its error names the document.
func Simulate(ctx context.Context, data speculate.Data, cfg Config) (*Result, error) {
	if err := cfg.Validate(data.Header); err != nil {
		return nil, err
	}
	m := newSimulator(cfg, speculate.ShapeOf(data.Header.Model))
	documents, tokens, err := each(ctx, data, cfg, func(d *trace.Document, p *plan) { m.document(d.ID, p) })
	if err != nil {
		return nil, err
	}
	return m.result(documents, tokens), nil
}

// HitRates returns the hit rate at each of capacities, in their order, and
// reads data once. Without a predictor it takes about the time of one simulation
// for any number of capacities, because its policies are stack algorithms
// (Mattson et al. 1970, "Evaluation techniques for storage hierarchies").
// cfg.Capacity is ignored.
func HitRates(ctx context.Context, data speculate.Data, cfg Config, capacities []int) ([]Point, error) {
	cfg.Events = 0
	s := speculate.ShapeOf(data.Header.Model)
	least := 1
	if cfg.Hold {
		least = s.TopK
	}
	for _, c := range append([]int{least}, capacities...) {
		cfg.Capacity = c
		if err := cfg.Validate(data.Header); err != nil {
			return nil, err
		}
	}
	if cfg.Predictor == nil && !cfg.Hold && cfg.Policy != OnDemand {
		return stackRates(ctx, data, cfg, s, capacities)
	}
	if n := s.Layers * s.Experts; len(capacities) > maxExperts/n {
		return nil, fmt.Errorf("prefetch: %d capacities of a cache of %d experts; must be at most %d", len(capacities), n, maxExperts/n)
	}
	var sims []*simulator
	for _, c := range capacities {
		cfg.Capacity = c
		sims = append(sims, newSimulator(cfg, s))
	}
	documents, tokens, err := each(ctx, data, cfg, func(d *trace.Document, p *plan) {
		for _, m := range sims {
			m.document(d.ID, p)
		}
	})
	if err != nil {
		return nil, err
	}
	var points []Point
	for i, m := range sims {
		r := m.result(documents, tokens)
		points = append(points, Point{r.Policy, capacities[i], r.HitRate, r.TransfersPerToken, r.Total})
	}
	return points, nil
}

// stackRates counts the requests by depth in the stack.
func stackRates(ctx context.Context, data speculate.Data, cfg Config, s speculate.Shape, capacities []int) ([]Point, error) {
	use := newUsage(cfg, s)
	stacks := make([]stack, 1)
	if cfg.PerLayer {
		stacks = make([]stack, s.Layers)
	}
	depths := make([]int64, cfg.most(s)+1) // [c] requests that hit from capacity c on; [0]: cold
	_, tokens, err := each(ctx, data, cfg, func(_ *trace.Document, p *plan) {
		use.begin(p.requests)
		for i := range stacks {
			stacks[i] = stack{use, stacks[i].ids[:0]}
		}
		for i, id := range p.requests {
			at := &stacks[0]
			if cfg.PerLayer {
				at = &stacks[int(id)/s.Experts]
			}
			depths[at.request(id)+1]++
			use.request(i, id)
		}
	})
	if err != nil {
		return nil, err
	}
	var all int64
	for _, n := range depths {
		all += n
	}
	var points []Point
	for _, c := range capacities {
		t := Counts{Requests: all, Cold: depths[0]}
		for _, n := range depths[1 : c+1] {
			t.Hits += n
		}
		t.Misses = all - t.Hits
		t.Transfers = t.Misses
		points = append(points, Point{use.policy, c, t.HitRate(), ratio(float64(t.Transfers), float64(tokens)), t})
	}
	return points, nil
}
