package prefetch

import (
	"context"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// simulator runs one configuration. All ids are layer*E+expert.
type simulator struct {
	cfg    Config
	shape  speculate.Shape
	load   int64 // ns
	comp   int64 // ns
	use    *usage
	caches []*cache // [1], or [L] with PerLayer
	size   int

	layers  []Counts // [L]
	stalled []int64  // [L] ns
	events  []Event
	doc     string

	now, busy int64 // ns: the compute unit's clock, and when the channel becomes free
	step      int   // t*L+l
	running   int32 // the expert being prefetched until busy; -1: none
	queue     []wish
	due       []int32 // [L*E] last step for which it is protected from eviction; -1: none
	usedAt    []int32 // [L*E] step of the last request in this document; -1: none
	queued    []bool  // [L*E]
	fresh     []bool  // [L*E] prefetched, resident, not yet requested
}

// wish is a prefetch in the queue.
type wish struct {
	id   int32
	step int // that it is for
	at   int64
}

func newSimulator(cfg Config, s speculate.Shape) *simulator {
	n := s.Layers * s.Experts
	m := &simulator{cfg: cfg, shape: s, load: int64(cfg.Load), comp: int64(cfg.Compute), use: newUsage(cfg.policy(), n), size: cfg.Capacity,
		layers: make([]Counts, s.Layers), stalled: make([]int64, s.Layers), running: -1,
		due: make([]int32, n), usedAt: make([]int32, n), queued: make([]bool, n), fresh: make([]bool, n)}
	at := make([]int32, n)
	for i := range at {
		at[i] = -1
	}
	for range s.Layers {
		m.caches = append(m.caches, &cache{use: m.use, at: at})
		if !cfg.PerLayer {
			break
		}
	}
	return m
}

func (m *simulator) layer(id int32) int { return int(id) / m.shape.Experts }

func (m *simulator) cache(id int32) *cache {
	if len(m.caches) == 1 {
		return m.caches[0]
	}
	return m.caches[m.layer(id)]
}

func (m *simulator) resident(id int32) bool { return m.caches[0].at[id] >= 0 }

func (m *simulator) event(k Kind, step int, id int32, from, to int64) {
	if len(m.events) >= m.cfg.Events || from == to {
		return
	}
	e := Event{Document: m.doc, Token: step / m.shape.Layers, Layer: step % m.shape.Layers, Expert: -1, Kind: k, Start: seconds(from), End: seconds(to)}
	if id >= 0 {
		e.Expert = int(id) % m.shape.Experts
	}
	m.events = append(m.events, e)
}

// document decodes one document, from an empty cache to an empty cache.
func (m *simulator) document(name string, p *plan) {
	m.begin(name, p)
	steps, first := len(p.ends), 0
	for m.step = 0; m.step < steps; m.step++ {
		for i := first; i < p.ends[m.step]; i++ {
			m.request(i, p.requests[i])
		}
		first = p.ends[m.step]
		m.expire()
		m.ask(p)
		m.event(Compute, m.step, -1, m.now, m.now+m.comp)
		m.now += m.comp
		m.advance()
	}
	for _, w := range m.queue {
		m.layers[m.layer(w.id)].Dropped++
		m.queued[w.id] = false
	}
	m.queue = m.queue[:0]
	for _, c := range m.caches {
		for _, id := range c.heap {
			m.unused(id)
		}
		c.clear()
	}
}

func (m *simulator) begin(name string, p *plan) {
	m.doc, m.busy, m.running = name, m.now, -1
	m.use.begin(p.requests)
	for i := range m.due {
		m.due[i], m.usedAt[i] = -1, -1
	}
}

// unused counts a prefetched expert that is evicted before it was requested.
func (m *simulator) unused(id int32) {
	if m.fresh[id] {
		m.fresh[id] = false
		m.layers[m.layer(id)].Wasted++
	}
}

// expire drops the prefetches for the current layer, whose experts are all resident.
func (m *simulator) expire() {
	m.queue = slices.DeleteFunc(m.queue, func(w wish) bool {
		if w.step > m.step {
			return false
		}
		m.queued[w.id] = false
		m.layers[m.layer(w.id)].Dropped++
		return true
	})
}

// request serves the i-th request of the document.
func (m *simulator) request(i int, id int32) {
	c := &m.layers[m.layer(id)]
	c.Requests++
	if m.usedAt[id] < 0 {
		c.Cold++
	}
	m.usedAt[id] = int32(m.step)
	switch {
	case m.resident(id) && m.running == id && m.busy > m.now:
		c.Late++
		m.wait(id, m.busy)
	case m.resident(id):
		c.Hits++
	default:
		m.miss(c, id)
		m.use.request(i, id)
		m.cache(id).insert(id)
		return
	}
	if m.fresh[id] {
		m.fresh[id] = false
		c.Used++
	}
	m.use.request(i, id)
	m.cache(id).fix(id)
}

func (m *simulator) wait(id int32, until int64) {
	m.event(Stall, m.step, id, m.now, until)
	m.stalled[m.layer(id)] += until - m.now
	m.now = until
}

// miss makes room and copies id on demand.
func (m *simulator) miss(c *Counts, id int32) {
	c.Misses++
	if m.queued[id] {
		m.queued[id] = false
		m.queue = slices.DeleteFunc(m.queue, func(w wish) bool { return w.id == id })
		c.Dropped++
	}
	start := max(m.busy, m.now)
	if h := m.cache(id); len(h.heap) >= m.size {
		victim := h.evict(func(x int32) bool { return int(m.due[x]) < m.step })
		if victim < 0 {
			victim = h.pop()
		}
		m.unused(victim)
	}
	m.running = -1 // that copy ends before this one starts
	m.busy = start + m.load
	m.event(Demand, m.step, id, start, m.busy)
	m.wait(id, m.busy)
}

// ask queues what is predicted from the routing of the current layer.
func (m *simulator) ask(p *plan) {
	if p.wanted == nil {
		return
	}
	l, ahead := m.step%m.shape.Layers, m.cfg.Horizon.Layers
	if l+ahead < m.shape.Layers {
		m.want(p, m.step+ahead)
	}
	if l == m.shape.Layers-1 && m.cfg.NextToken && m.step+1 < len(p.ends) {
		for s := m.step + 1; s <= m.step+ahead; s++ {
			m.want(p, s)
		}
	}
}

func (m *simulator) want(p *plan, step int) {
	n := m.cfg.Prefetch
	for _, id := range p.wanted[step*n : (step+1)*n] {
		if id < 0 {
			break
		}
		m.due[id] = max(m.due[id], int32(step))
		if m.resident(id) || m.queued[id] {
			continue
		}
		m.queued[id] = true
		m.queue = append(m.queue, wish{id, step, m.now})
	}
}

// advance starts the prefetches that start before now.
func (m *simulator) advance() {
	for len(m.queue) > 0 {
		w := m.queue[0]
		start := max(m.busy, w.at)
		if start >= m.now {
			return
		}
		m.queue = append(m.queue[:0], m.queue[1:]...)
		m.queued[w.id] = false
		c := &m.layers[m.layer(w.id)]
		h := m.cache(w.id)
		if len(h.heap) >= m.size {
			victim := h.evict(func(x int32) bool { return int(m.due[x]) <= m.step && int(m.usedAt[x]) != m.step })
			if victim < 0 {
				c.Dropped++
				continue
			}
			m.unused(victim)
		}
		c.Prefetched++
		m.fresh[w.id] = true
		h.insert(w.id)
		m.running, m.busy = w.id, start+m.load
		m.event(Prefetch, w.step, w.id, start, m.busy)
	}
}

// result returns the totals.
func (m *simulator) result(documents, tokens int) *Result {
	s := m.shape
	r := &Result{Policy: m.use.policy, Capacity: m.size, PerLayer: m.cfg.PerLayer, Documents: documents, Tokens: tokens, Events: m.events,
		Resident: float64(m.size) / float64(m.cfg.most(s)), Layers: m.layers, Seconds: seconds(m.now)}
	if m.cfg.Predictor != nil {
		r.Predictor, r.Horizon, r.Prefetch = m.cfg.Predictor.Name(), m.cfg.Horizon.String(), m.cfg.Prefetch
	}
	var stalled int64
	for l := range r.Layers {
		c := &r.Layers[l]
		c.Transfers, c.StallSeconds = c.Misses+c.Prefetched, seconds(m.stalled[l])
		stalled += m.stalled[l]
		r.Total.add(*c)
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
// for any number of capacities, because LRU, LFU and OPT are stack algorithms
// (Mattson et al. 1970, "Evaluation techniques for storage hierarchies").
// cfg.Capacity is ignored.
func HitRates(ctx context.Context, data speculate.Data, cfg Config, capacities []int) ([]Point, error) {
	cfg.Events = 0
	s := speculate.ShapeOf(data.Header.Model)
	for _, c := range append([]int{1}, capacities...) {
		cfg.Capacity = c
		if err := cfg.Validate(data.Header); err != nil {
			return nil, err
		}
	}
	if cfg.Predictor == nil {
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
	use := newUsage(cfg.policy(), s.Layers*s.Experts)
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
