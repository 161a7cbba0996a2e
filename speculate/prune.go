package speculate

import "slices"

// prune drops members of the mixture w, which cost time, as long as what is left is
// within one standard error of w (the rule of Breiman et al. 1984, "Classification and
// regression trees"), and no lower than member, the recalls of the best member alone.
// Recalls are over documents that weights were not fitted on; held are those of w. Each
// round drops the member whose removal lowers recall least.
func (p *pool) prune(w, held, member []float64) []float64 {
	for {
		active := with(w)
		if len(active) < 3 { // a single one is no alternative, or it would answer alone
			return w
		}
		least, rest := -1, -1.0
		for _, i := range active {
			v := slices.Clone(w)
			v[i] = 0
			if r := mean(p.recalls(v, everything)); r > rest {
				least, rest = i, r
			}
		}
		start := slices.Clone(w)
		start[least] = 0
		v := p.solve(with(start), len(w)-1, start, everything)
		without := p.held(v, with(start))
		loss, doubt, _ := p.gain(held, without)
		if loss > doubt || mean(p.recalls(v, everything)) < mean(member) {
			return w
		}
		w = v
	}
}

// with returns the members that have a weight.
func with(w []float64) (active []int) {
	for i, x := range w[:len(w)-1] {
		if x != 0 {
			active = append(active, i)
		}
	}
	return active
}
