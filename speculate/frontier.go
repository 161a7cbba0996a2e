package speculate

import (
	"cmp"
	"slices"
)

// Frontier returns the predictors at h to which no other is preferable: whose recall@K
// no other reaches in as little time for a decision. They are in the order of time.
// below are the others whose time is known. The oracle is in neither.
func (r *Results) Frontier(h Horizon) (frontier, below []string) {
	type point struct {
		name       string
		us, recall float64
	}
	var points []point
	for _, p := range r.Predictors {
		recall, ok := r.Recall(p, h)
		if us := r.Costs[p].Microseconds; ok && us > 0 && p != (Oracle{}).Name() {
			points = append(points, point{p, us, recall})
		}
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Or(cmp.Compare(a.us, b.us), cmp.Compare(b.recall, a.recall)) })
	best := -1.
	for _, p := range points {
		if p.recall <= best {
			below = append(below, p.name)
			continue
		}
		best = p.recall
		frontier = append(frontier, p.name)
	}
	return frontier, below
}
