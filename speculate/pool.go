package speculate

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/speculate/internal/prob"
)

// item is one (token, layer): members' log odds [M,E] and what was chosen.
type item struct {
	doc    int
	odds   []float32
	actual []int32
}

// pool is a uniform sample of items, of bounded size.
type pool struct {
	items []item
	seen  int
	bound int
	e     int
	rng   *rand.Rand
}

func (p *pool) offer(it item) {
	p.seen++
	if len(p.items) < p.bound {
		p.items = append(p.items, it)
	} else if i := p.rng.IntN(p.seen); i < p.bound {
		p.items[i] = it
	}
}

// fit returns weights for members active among m; the rest are 0. They are those
// of a mixture where its recall is significantly higher than the best member's, and
// otherwise those of that member alone.
func (p *pool) fit(active []int, m int) []float64 {
	var best []float64
	var member []float64 // its recall of each item
	for _, i := range active {
		one := make([]float64, m+1)
		one[i] = 1
		if r := p.recalls(one, everything); best == nil || mean(r) > mean(member) {
			best, member = one, r
		}
	}
	w := p.solve(active, m, nil, everything)
	held := p.held(w, active)
	gain, doubt, docs := p.gain(held, member)
	t := 2 + 1/(docs-1) + 10/((docs-1)*(docs-1)) // about the 97.5th percentile of Student's t
	if gain <= t*doubt || mean(p.recalls(w, everything)) < mean(member) {
		return best
	}
	return p.prune(w, held, member)
}

// everything selects all items.
func everything(*item) bool { return true }

// held returns the recall of each item by mixtures with weights fitted on the other
// documents, which begin at w.
func (p *pool) held(w []float64, active []int) []float64 {
	docs := map[int]bool{}
	for i := range p.items {
		docs[p.items[i].doc] = true
	}
	const folds = 5
	k := min(folds, len(docs))
	fold := map[int]int{}
	for i, d := range slices.Sorted(maps.Keys(docs)) {
		fold[d] = i % k
	}
	out := make([]float64, len(p.items))
	for f := range k {
		v := w // of a single document
		if k > 1 {
			v = p.solve(active, len(w)-1, w, func(it *item) bool { return fold[it.doc] != f })
		}
		for i, r := range p.recalls(v, func(it *item) bool { return fold[it.doc] == f }) {
			if fold[p.items[i].doc] == f {
				out[i] = r
			}
		}
	}
	return out
}

// gain returns by how much recalls a exceed b, summed over items, the standard error of
// that over documents, and their number. A single document, of which nothing is clear,
// has an infinite error.
func (p *pool) gain(a, b []float64) (sum, doubt, n float64) {
	docs := map[int]float64{}
	for i := range p.items {
		d := docs[p.items[i].doc]
		if a[i] >= 0 {
			d += a[i] - b[i]
		}
		docs[p.items[i].doc] = d
	}
	n = float64(len(docs))
	if n < 2 {
		return 0, math.Inf(1), n
	}
	keys := slices.Sorted(maps.Keys(docs)) // in order, or rounding would vary
	for _, d := range keys {
		sum += docs[d]
	}
	squares := 0.0
	for _, d := range keys {
		squares += (docs[d] - sum/n) * (docs[d] - sum/n)
	}
	return sum, math.Sqrt(squares * n / (n - 1)), n
}

// solve maximises the likelihood of the chosen sets by Newton's method from w, or
// from equal weights if it is nil, dropping members whose weight turns negative.
func (p *pool) solve(active []int, m int, from []float64, use func(*item) bool) []float64 {
	act := slices.Clone(active)
	w := make([]float64, len(act)+1)
	for i, a := range act {
		if w[i] = 1 / float64(len(act)); from != nil {
			w[i], w[len(act)] = from[a], from[m]
		}
	}
	for {
		n := len(act) + 1
		for range 12 {
			if !p.newton(w, act, use) {
				break
			}
		}
		worst := -1
		for i := range act {
			if w[i] < 0 && (worst < 0 || w[i] < w[worst]) {
				worst = i
			}
		}
		if worst < 0 || len(act) == 1 {
			out := make([]float64, m+1)
			for i, a := range act {
				out[a] = max(w[i], 0)
			}
			if len(act) == 1 && w[0] <= 0 {
				out[act[0]] = 1
			}
			out[m] = w[n-1]
			return out
		}
		act, w = slices.Delete(act, worst, worst+1), slices.Delete(w, worst, worst+1)
	}
}

// newton takes one step on w and reports whether it moved.
func (p *pool) newton(w []float64, act []int, use func(*item) bool) bool {
	n := len(w)
	g, hs := make([]float64, n), rows[float64](n, n)
	for i := range n { // a weak pull to where it is keeps equal members apart
		hs[i][i] = 1
	}
	x := make([]float64, n)
	for i := range p.items {
		it := &p.items[i]
		if !use(it) {
			continue
		}
		for e := range p.e {
			z := w[n-1]
			for j, a := range act {
				x[j] = float64(it.odds[a*p.e+e])
				z += w[j] * x[j]
			}
			x[n-1] = 1
			q := prob.Sigmoid(z)
			d, v := q, q*(1-q)
			if place(it.actual, int32(e)) < len(it.actual) {
				d--
			}
			for j, xj := range x {
				g[j] += d * xj
				for k := 0; k <= j; k++ {
					hs[j][k] += v * xj * x[k]
				}
			}
		}
	}
	step := cholesky(hs, g)
	move := 0.0
	for i, s := range step {
		s = max(min(s, 1), -1)
		w[i] -= s
		move += math.Abs(s)
	}
	return move > 1e-4
}

// cholesky solves a x = b for a symmetric positive definite a, given by its
// lower triangle, which is overwritten.
func cholesky(a [][]float64, b []float64) []float64 {
	n := len(b)
	for j := range n {
		for k := range j {
			a[j][j] -= a[j][k] * a[j][k]
		}
		a[j][j] = math.Sqrt(max(a[j][j], 1e-12))
		for i := j + 1; i < n; i++ {
			for k := range j {
				a[i][j] -= a[i][k] * a[j][k]
			}
			a[i][j] /= a[j][j]
		}
	}
	x := slices.Clone(b)
	for i := range n {
		for k := range i {
			x[i] -= a[i][k] * x[k]
		}
		x[i] /= a[i][i]
	}
	for i := n - 1; i >= 0; i-- {
		for k := i + 1; k < n; k++ {
			x[i] -= a[k][i] * x[k]
		}
		x[i] /= a[i][i]
	}
	return x
}

// curve calibrates the mixture w.
func (p *pool) curve(w []float64, s Shape) *calibrationCurve {
	var g histogram
	scores := make([]float32, p.e)
	for i := range p.items {
		it := &p.items[i]
		p.mix(w, it, scores)
		for e, z := range scores {
			scores[e] = prob.Of(float64(z) + w[len(w)-1])
		}
		margins(scores, s)
		for e, x := range scores {
			g.observe(x, place(it.actual, int32(e)) < len(it.actual))
		}
	}
	return g.curve()
}

// mix writes the mixture's log odds of an item, less b, to out [E].
func (p *pool) mix(w []float64, it *item, out []float32) {
	for e := range out {
		z := 0.0
		for j := range len(w) - 1 {
			z += w[j] * float64(it.odds[j*p.e+e])
		}
		out[e] = float32(z)
	}
}

// recalls returns the recall@K of the mixture w for each item, -1 for those that are
// not in use or have no experts.
func (p *pool) recalls(w []float64, use func(*item) bool) []float64 {
	scores, order := make([]float32, p.e), make([]int32, p.e)
	out := make([]float64, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		k := 0
		for _, e := range it.actual {
			if e >= 0 {
				k++
			}
		}
		if out[i] = -1; k == 0 || !use(it) {
			continue
		}
		p.mix(w, it, scores)
		prob.Rank(scores, order)
		hits := 0
		for _, e := range order[:min(k, len(order))] {
			if place(it.actual, e) < len(it.actual) {
				hits++
			}
		}
		out[i] = float64(hits) / float64(k)
	}
	return out
}

// mean returns the mean of recalls.
func mean(recalls []float64) float64 {
	n, sum := 0.0, 0.0
	for _, r := range recalls {
		if r >= 0 {
			n++
			sum += r
		}
	}
	return sum / max(n, 1)
}
