package prefetch

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
)

// ordersByKey reports whether a policy is a stack algorithm.
func (p Policy) ordersByKey() bool { return p == LRU || p == LFU || p == DecayedLFU || p == OPT }

// HitRates returns the hit rate at each of capacities, in their order, and
// reads data once. Without a predictor it takes about the time of one simulation
// for any number of capacities, because most policies are stack algorithms
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
	if cfg.Predictor == nil && !cfg.Hold && cfg.policy().ordersByKey() {
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
	documents, tokens, err := each(ctx, data, cfg, func(p *plan) {
		for _, m := range sims {
			m.run(p)
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
	_, tokens, err := each(ctx, data, cfg, func(p *plan) {
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
