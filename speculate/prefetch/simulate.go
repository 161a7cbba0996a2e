package prefetch

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/expertspec/expertspec/speculate"
)

// simulator drives an Engine by simulated time, in nanoseconds. All ids are
// layer*E+expert.
type simulator struct {
	*Engine
	cfg Config

	stalled []int64 // [L]
	events  []Event
	plan    *plan

	now      int64
	channel  int64   // when it becomes free
	streams  []int64 // [Streams] when each becomes free
	ahead    []int64 // when the prefetches in flight arrive
	below    int64   // when they last became fewer than the limit
	arrive   []int64 // [L*E] when the last copy of an expert arrives
	host     int64   // when the host's cores become free
	deciding int64
}

func newSimulator(cfg Config, s speculate.Shape) *simulator {
	return &simulator{Engine: newEngine(s, cfg), cfg: cfg, stalled: make([]int64, s.Layers),
		streams: make([]int64, cmp.Or(cfg.Streams, 1)), arrive: make([]int64, s.Layers*s.Experts)}
}

func (m *simulator) event(k Kind, step int64, id int32, from, to int64) {
	if len(m.events) >= m.cfg.Events || from == to {
		return
	}
	l := int64(m.shape.Layers)
	token, _ := m.plan.span(m.plan.docs[0], int(step/l))
	e := Event{Document: m.plan.docs[0].id, Token: token, Layer: int(step % l), Expert: -1, Kind: k, Start: seconds(from), End: seconds(to)}
	if id >= 0 {
		e.Expert = int(id) % m.shape.Experts
	}
	m.events = append(m.events, e)
}

// run decodes a batch of documents, from an empty cache to an empty cache.
func (m *simulator) run(p *plan) {
	m.plan, m.channel, m.host, m.below = p, m.now, m.now, m.now
	for i := range m.streams {
		m.streams[i] = m.now
	}
	m.begin(p.requests)
	first := 0
	for _, end := range p.ends {
		m.layerStep(p.requests[first:end])
		first = end
	}
	m.clear()
	for range m.ahead {
		m.Arrived()
	}
	m.ahead = m.ahead[:0]
}

// layerStep is one step: its predictions, its requests, what they wait for, and its computing.
func (m *simulator) layerStep(requests []int32) {
	m.Step()
	layer := int(m.step) % m.shape.Layers
	pass := int(m.step) / m.shape.Layers
	if m.plan.empty(pass, layer) {
		return
	}
	if layer == m.plan.first(pass) {
		m.decide(m.number(pass, -1))
		m.ask(pass, -1)
	}
	m.decide(m.number(pass, layer))
	m.advance()
	if m.hold && len(requests) > m.shape.TopK && !(m.plan.few(pass) && len(requests) <= m.size) {
		m.stream(requests, pass, layer)
	} else {
		m.atOnce(requests, pass, layer)
	}
	if layer == m.plan.last(pass, m.shape.Layers) {
		m.now += int64(m.cfg.Rest)
	}
	m.advance()
}

// compute computes for a time.
func (m *simulator) compute(d int64) {
	m.event(Compute, m.step, -1, m.now, m.now+d)
	m.now += d
}

// atOnce computes with all experts together.
func (m *simulator) atOnce(requests []int32, pass, layer int) {
	host := 0
	for _, id := range requests {
		if m.request(id, true) {
			host++
		}
	}
	m.Expire()
	m.ask(pass, layer)
	for _, id := range requests {
		m.wait(id, m.arrive[id])
	}
	m.compute(max(0, int64(m.cfg.Compute)+int64(len(requests)-m.shape.TopK-host)*int64(m.cfg.Expert)))
	if host > 0 {
		m.wait(requests[0], m.host)
	}
}

// stream computes with one expert after the other, while the next are copied.
func (m *simulator) stream(requests []int32, pass, layer int) {
	sorted := slices.Sorted(slices.Values(requests))
	for _, id := range sorted {
		m.Protect(id)
	}
	window := 1 + len(m.streams)
	copying := 0 // of those that are not computed
	here := make([]bool, 0, len(sorted))
	for i, id := range sorted {
		m.advance()
		for n := len(here); n < len(sorted) && n-i < m.size && copying < window; n++ {
			m.request(sorted[n], false)
			if here = append(here, m.arrive[sorted[n]] <= m.now); !here[n] {
				copying++
			}
			if n == len(sorted)-1 {
				m.Expire()
				m.ask(pass, layer)
				if len(sorted) == m.shape.Experts {
					m.Follow(layer, window, m.now)
				}
			}
		}
		m.wait(id, m.arrive[id])
		m.compute(int64(m.cfg.Expert))
		if !here[i] {
			copying--
		}
		m.Release(id, m.now)
	}
	m.compute(int64(m.cfg.Compute) - int64(m.shape.TopK)*int64(m.cfg.Expert))
}

// request serves a choice, and reports whether the host, if it may, computes it.
func (m *simulator) request(id int32, host bool) bool {
	if host && m.cfg.Host > 0 && !m.Resident(id) {
		_, arrive := m.next(m.now)
		if end := max(m.host, m.now) + int64(m.cfg.Host); end < arrive {
			m.event(Host, m.step, id, end-int64(m.cfg.Host), end)
			m.host, m.arrive[id] = end, m.now
			m.OnHost(id, m.now)
			return true
		}
	}
	resident, victim, _ := m.Request(id, m.arrive[id] > m.now)
	if !resident {
		m.copy(Demand, m.step, id, victim, m.now)
	}
	return false
}

// next returns the stream that is free first and when a copy that is asked for at a
// time would arrive by it.
func (m *simulator) next(at int64) (stream int, arrive int64) {
	for i, free := range m.streams {
		if free < m.streams[stream] {
			stream = i
		}
	}
	return stream, max(max(m.streams[stream], at)+int64(m.cfg.Latency), m.channel) + int64(m.cfg.Load)
}

// copy copies an expert into the place of victim, after what is on its way there.
func (m *simulator) copy(k Kind, step int64, id, victim int32, at int64) {
	if victim >= 0 {
		at = max(at, m.arrive[victim])
	}
	stream, end := m.next(at)
	m.event(k, step, id, max(m.streams[stream], at), end)
	m.streams[stream], m.channel, m.arrive[id] = end, end, end
}

func (m *simulator) wait(id int32, until int64) {
	if until <= m.now {
		return
	}
	m.event(Stall, m.step, id, m.now, until)
	m.stalled[m.layer(id)] += until - m.now
	m.Waited(until - m.now)
	m.now = until
	m.advance()
}

// number is that of predictions that follow a layer's routing, or begin a token.
func (m *simulator) number(pass, layer int) (n int) {
	for _, d := range m.plan.docs {
		for range m.asked(d, pass, layer) {
			n++
		}
		if m.scores(d, pass, layer) != nil {
			n += m.shape.Layers - m.shape.Encoder
			for _, a := range d.asks { // which are among them
				if a.next {
					n--
				}
			}
		}
	}
	return n
}

// scores returns those of all layers, [L,E], of a decoder that follow a document's
// last layer.
func (m *simulator) scores(d *docPlan, pass, layer int) []float32 {
	from, to := m.plan.span(d, pass)
	size := m.shape.Layers * m.shape.Experts
	if len(d.scores) == 0 || layer < m.shape.Layers-1 || from >= to || to >= d.tokens {
		return nil
	}
	return d.scores[to*size:][:size]
}

// decide waits for n predictions.
func (m *simulator) decide(n int) {
	d := int64(n) * int64(m.cfg.Decision)
	m.event(Predict, m.step, -1, m.now, m.now+d)
	m.now += d
	m.deciding += d
}

// asked yields the predictions about a document after a layer, with the experts
// and the step that they are about.
func (m *simulator) asked(d *docPlan, pass, layer int) iter.Seq2[[]int32, int64] {
	return func(yield func([]int32, int64) bool) {
		from, to := m.plan.span(d, pass)
		n := m.cfg.Prefetch
		for i, a := range d.asks {
			t, steps := to-1, a.layer-a.after
			switch {
			case a.after != layer || from >= to || to-from > 1 && !a.next || pass == 0 && m.plan.encoder > 0:
				continue
			case a.after < 0:
				steps = a.layer - m.plan.encoder
			case a.next:
				t, steps = to, 1+a.layer
			}
			if t >= d.tokens {
				continue
			}
			at := (t*len(d.asks) + i) * n
			if !yield(d.wanted[at:at+n], m.step+int64(steps)) {
				return
			}
		}
	}
}

// ask queues what is predicted after a layer.
func (m *simulator) ask(pass, layer int) {
	if m.cfg.Predictor == nil {
		return
	}
	for _, d := range m.plan.docs {
		if scores := m.scores(d, pass, layer); scores != nil {
			for l := m.shape.Encoder; l < m.shape.Layers; l++ {
				m.Score(l, scores[l*m.shape.Experts:][:m.shape.Experts])
			}
		}
		for ids, step := range m.asked(d, pass, layer) {
			m.Want(ids, step, m.now)
		}
	}
}

// advance starts the prefetches that start before now.
func (m *simulator) advance() {
	for {
		at, ok := m.Next()
		if !ok {
			if len(m.ahead) == 0 || m.ahead[0] >= m.now {
				return
			}
			m.below, m.ahead = m.ahead[0], m.ahead[1:]
			m.Arrived()
			continue
		}
		at = max(at, m.below)
		if stream, _ := m.next(at); max(m.streams[stream], at) >= m.now {
			return
		}
		if id, victim, step, ok := m.Start(); ok {
			m.copy(Prefetch, step, id, victim, at)
			m.ahead = append(m.ahead, m.arrive[id])
		}
	}
}

// result returns the totals.
func (m *simulator) result(documents, tokens int) *Result {
	s := m.shape
	r := &Result{Policy: m.policy, Capacity: m.size, PerLayer: m.cfg.PerLayer, Documents: documents, Tokens: tokens, Events: m.events,
		Resident: float64(m.size) / float64(m.cfg.most(s)), Seconds: seconds(m.now), DecisionSeconds: seconds(m.deciding)}
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
	all, err := SimulateAll(ctx, data, []Config{cfg})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// SimulateAll is [Simulate] of configurations that predict the same, such as one at
// several capacities and times: data is read once, and its predictor asked once. It is
// an error if they differ in Predictor, Horizon, Prefetch, Nearer, NextToken, Batch or
// Prompt, or if Policy is Reuse in some of them only.
func SimulateAll(ctx context.Context, data speculate.Data, cfgs []Config) ([]*Result, error) {
	var sims []*simulator
	for i, c := range cfgs {
		if err := c.Validate(data.Header); err != nil {
			return nil, err
		}
		if i > 0 && !c.predictsAs(cfgs[0]) {
			return nil, fmt.Errorf("prefetch: configuration %d predicts otherwise than the first", i)
		}
		sims = append(sims, newSimulator(c, speculate.ShapeOf(data.Header.Model)))
	}
	if len(sims) == 0 {
		return nil, nil
	}
	documents, tokens, err := each(ctx, data, cfgs[0], func(p *plan) {
		for _, m := range sims {
			m.run(p)
		}
	})
	if err != nil {
		return nil, err
	}
	var all []*Result
	for _, m := range sims {
		all = append(all, m.result(documents, tokens))
	}
	return all, nil
}

// predictsAs reports whether the plans of c are those of d.
func (c Config) predictsAs(d Config) bool {
	if p := c.Predictor; p != nil && !reflect.ValueOf(p).Comparable() {
		return false
	}
	return c.Predictor == d.Predictor && c.Horizon == d.Horizon && c.Prefetch == d.Prefetch && c.Nearer == d.Nearer && c.NextToken == d.NextToken &&
		c.Batch == d.Batch && c.Prompt == d.Prompt && (c.Policy == Reuse) == (d.Policy == Reuse)
}
