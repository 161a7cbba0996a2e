package offload

import (
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// Costs are what a simulation needs to know of a machine and a model, measured while
// tokens were decoded one at a time: see the fields of the same names in
// [prefetch.Config]. What was not measured is 0.
type Costs struct {
	// LoadSeconds and LatencySeconds are those of a layer that waited for n experts on
	// demand: latency and n loads. They can be told apart if n differed, as with LRU;
	// on demand all is load.
	LoadSeconds     float64 `json:"load_seconds"`
	LatencySeconds  float64 `json:"latency_seconds"`
	Streams         int     `json:"streams"`
	ComputeSeconds  float64 `json:"compute_seconds"`
	ExpertSeconds   float64 `json:"expert_seconds"`
	RestSeconds     float64 `json:"rest_seconds"`
	DecisionSeconds float64 `json:"decision_seconds"`
}

// Config returns cfg with these costs.
func (c Costs) Config(cfg prefetch.Config) prefetch.Config {
	cfg.Load, cfg.Latency, cfg.Streams = duration(c.LoadSeconds), duration(c.LatencySeconds), c.Streams
	cfg.Compute, cfg.Rest, cfg.Decision = duration(c.ComputeSeconds), duration(c.RestSeconds), duration(c.DecisionSeconds)
	cfg.Expert = duration(c.ExpertSeconds)
	return cfg
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// costs are measured where a step has one token.
type costs struct {
	waited time.Duration // of all layers, for experts and predictions
	at     time.Time     // when the last layer began, and what was waited until then
	before time.Duration
	layer  int  // the last one
	one    bool // of one token
	// layers are the times from a layer to the next, turns from the last to the first
	// of the next token, without waiting, and experts those of computing one.
	layers, turns, experts, decisions mean
	demands                           []mean // [n-1] waiting for n experts on demand while nothing else was read
}

type mean struct {
	n   int64
	sum time.Duration
}

func (m *mean) add(d time.Duration, n int) { m.sum, m.n = m.sum+d, m.n+int64(n) }

// seconds is 0 of nothing.
func (m mean) seconds() float64 { return m.sum.Seconds() / float64(max(1, m.n)) }

// enter begins a layer.
func (c *costs) enter(rt *mixtral.Routing, now time.Time) {
	one := len(rt.Position) == 1
	if d := now.Sub(c.at) - (c.waited - c.before); one && c.one {
		switch {
		case rt.Layer == c.layer+1:
			c.layers.add(d, 1)
		case rt.Layer == 0 && c.layer == rt.Layers-1 && rt.Phase[0] == trace.Decode:
			c.turns.add(d, 1)
		}
	}
	c.at, c.before, c.layer, c.one = now, c.waited, rt.Layer, one
}

// computed counts that a layer computed n experts.
func (c *costs) computed(n int, d time.Duration) {
	if c.one {
		c.experts.add(d, n)
	}
}

// demanded counts that a layer waited for n experts on demand.
func (c *costs) demanded(n int, d time.Duration) {
	for len(c.demands) < n {
		c.demands = append(c.demands, mean{})
	}
	c.demands[n-1].add(d, 1)
}

func (c *costs) means() Costs {
	r := Costs{ComputeSeconds: c.layers.seconds(), ExpertSeconds: c.experts.seconds(), DecisionSeconds: c.decisions.seconds()}
	if c.turns.n > 0 {
		r.RestSeconds = max(0, c.turns.seconds()-r.ComputeSeconds)
	}
	// The line through the waits, by least squares.
	var w, x, y, xx, xy float64
	for i, m := range c.demands {
		n, k := float64(i+1), float64(m.n)
		w, x, y = w+k, x+k*n, y+m.sum.Seconds()
		xx, xy = xx+k*n*n, xy+n*m.sum.Seconds()
	}
	switch det := w*xx - x*x; {
	case w == 0:
		return r
	case det > 0:
		r.LoadSeconds = (w*xy - x*y) / det
		r.LatencySeconds = (y - r.LoadSeconds*x) / w
	}
	if r.LoadSeconds <= 0 || r.LatencySeconds < 0 {
		r.LoadSeconds, r.LatencySeconds = y/x, 0
	}
	return r
}
