package viz

import (
	"fmt"

	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// CacheStudy holds simulations, on one trace, of running a model with most of
// its experts outside device memory.
type CacheStudy struct {
	// Text says what was simulated: documents, times, predictor.
	Text []string
	// Rates are hit rates by size of a cache shared by all layers, [policy][size],
	// and Names the policies.
	Names []string
	Rates [][]prefetch.Point
	// Costs are simulations, and Labels their policies. [Compare] compares
	// those of the same label and about the same share of resident experts.
	Labels []string
	Costs  []*prefetch.Result
	// Timeline is a simulation with its events, or nil. The tokens From to To-1
	// of its first document are drawn.
	Timeline *prefetch.Result
	From, To int
}

// section is the part of a report about a model: hit rate by size of the cache, cost by
// policy, and a timeline.
func (c *CacheStudy) section(m trace.Model) (Section, error) {
	s := Section{ID: "cache", Title: "Expert cache", Text: c.Text}
	if len(c.Names) != len(c.Rates) || len(c.Labels) != len(c.Costs) {
		return s, fmt.Errorf("viz: expert cache: got %d names for %d curves and %d labels for %d costs", len(c.Names), len(c.Rates), len(c.Labels), len(c.Costs))
	}
	if len(c.Rates) > 0 {
		f := Lines{
			Info:  Info{Name: "cache-hit-rate", Title: "Hit rate by size of the cache", Caption: "The share of choices whose expert was resident in time, by policy."},
			XAxis: "experts held per layer", YAxis: "hit rate (%)", IntegerX: true, YRange: [2]float64{0, 100},
		}
		for i, points := range c.Rates {
			curve := Curve{Name: c.Names[i]}
			for _, p := range points {
				curve.add(float64(p.Capacity)/float64(max(1, m.Layers)), 100*p.HitRate)
			}
			f.Curves = append(f.Curves, curve)
		}
		s.add(f)
	}
	if len(c.Costs) > 0 {
		s.Blocks = append(s.Blocks, c.costTable())
	}
	if c.Timeline != nil {
		s.add(prefetchTimeline(c.Timeline, stacksOf(m), c.From, c.To))
	}
	return s, nil
}

// costTable has a row for each simulation.
func (c *CacheStudy) costTable() Table {
	t := Table{
		Info: Info{Name: "cache-cost", Title: "Cost of prefetch", Caption: "late: choices whose expert was being prefetched and was waited for; wasted: share of prefetches that were not needed; stall: time spent waiting for experts."},
		Columns: []Column{{Name: "policy"}, {Name: "resident", Unit: "%", Digits: 1}, {Name: "hit rate", Unit: "%", Digits: 1}, {Name: "late", Unit: "%", Digits: 1},
			{Name: "copied per token", Unit: "experts", Digits: 2}, {Name: "wasted", Unit: "%", Digits: 1}, {Name: "stall per token", Unit: "ms", Digits: 2}, {Name: "speed", Unit: "tokens/s", Digits: 2}},
	}
	share := func(a, b int64) float64 { return 100 * float64(a) / float64(max(1, b)) }
	for i, r := range c.Costs {
		t.Rows = append(t.Rows, []any{c.Labels[i], 100 * r.Resident, 100 * r.HitRate, share(r.Total.Late, r.Total.Requests),
			r.TransfersPerToken, share(r.Total.Wasted, r.Total.Prefetched), 1000 * r.StallPerToken, r.TokensPerSecond})
	}
	return t
}

// prefetchTimeline draws the events that happened while tokens from to to-1 of
// the first document were decoded, in milliseconds after the start of the first.
// Layers are numbered in their stack.
func prefetchTimeline(r *prefetch.Result, x stacks, from, to int) timeline {
	t := timeline{Info: Info{Name: "prefetch-timeline", Title: "Timeline of prefetch"}, Unit: "ms", Lanes: []string{"compute", "copy", "wait"}}
	tokens := fmt.Sprintf("Tokens %d to %d", from, to-1)
	if to-from == 1 {
		tokens = fmt.Sprintf("Token %d", from)
	}
	t.Caption = tokens + ": when each layer (the number in the box) was computed, which experts were copied (layer.expert) and when the computation waited for them."
	layer := func(l int) int {
		if l >= x.split {
			l -= x.split
		}
		return l
	}
	if x.names != nil {
		t.Caption += " Layers are numbered in their stack."
	}
	start, end := -1.0, 0.0
	for _, e := range r.Events {
		if e.Document == r.Events[0].Document && e.Token >= from && e.Token < to && (e.Kind == prefetch.Compute || e.Kind == prefetch.Stall) {
			if start < 0 {
				start = e.Start
			}
			end = e.End
		}
	}
	if start < 0 {
		return t
	}
	kinds := map[prefetch.Kind]event{
		prefetch.Compute: {Lane: 0, Kind: "compute"}, prefetch.Demand: {Lane: 1, Kind: "copy on demand"},
		prefetch.Prefetch: {Lane: 1, Kind: "prefetch"}, prefetch.Stall: {Lane: 2, Kind: "wait"},
	}
	for _, e := range r.Events {
		if e.Document != r.Events[0].Document || e.End <= start || e.Start >= end || len(t.Events) >= maxEvents {
			continue
		}
		v := kinds[e.Kind]
		v.Start, v.End = 1000*(e.Start-start), 1000*(e.End-start)
		switch e.Kind {
		case prefetch.Compute:
			v.Label = fmt.Sprint(layer(e.Layer))
		case prefetch.Demand, prefetch.Prefetch:
			v.Label = fmt.Sprintf("%d.%d", layer(e.Layer), e.Expert)
		}
		t.Events = append(t.Events, v)
	}
	return t
}
