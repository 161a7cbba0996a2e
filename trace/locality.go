package trace

// locality measures local routing consistency at one layer, as defined by Liang
// et al., "Not All Models Suit Expert Offloading" (arXiv 2505.16056).
//
// In every window of m consecutive tokens of a document (a segment; windows
// overlap), let c_e be the number of tokens that chose expert e.
//
// Segment routing best performance, SRP(m): a segment router activates, for all
// m tokens, the experts with c_e >= n. Over all windows its matches are
// M(n) = sum of those c_e, its activations P(n) = m times their number, and the
// model's own A = sum of all c_e. SRP is the best F1 score over the thresholds n:
// max 2 M(n) / (P(n) + A).
//
// Segment cache best hit rate, SCH(m, C) (first version of the paper): a cache of
// C experts that holds the most chosen ones of each window serves the sum of the
// C largest c_e of A.
type locality struct {
	Windows int64   `json:"windows"`
	Above   []int64 `json:"above"`   // [m]: how many (window, expert) have c_e > i
	Hits    []int64 `json:"hits"`    // by cache: the sum of the C largest c_e
	Choices int64   `json:"choices"` // A
}

// merge adds the sums of o.
func (l *locality) merge(o *locality) {
	l.Windows += o.Windows
	l.Choices += o.Choices
	add(l.Above, o.Above)
	add(l.Hits, o.Hits)
}

// window moves over the tokens of a document at a layer. As a token enters or leaves,
// one c_e changes by one, and so does one value of above, by which the sum of the C
// largest c_e changes too: it is the sum over c of min(C, above[c]).
type window struct {
	now   []int32 // [E]: c_e
	above []int64 // [m+1]: how many experts have c_e >= i, from 1
	since []int64 // [m+1]: how many windows are in locality.Above[i-1]
	best  []int64 // by cache: the sum of the C largest c_e
	total int64   // of c_e
}

// reset empties the window.
func (w *window) reset(m, caches, experts int) {
	if len(w.now) < experts {
		w.now = make([]int32, experts)
	}
	if len(w.above) <= m {
		w.above, w.since = make([]int64, m+1), make([]int64, m+1)
	}
	if len(w.best) < caches {
		w.best = make([]int64, caches)
	}
	clear(w.now)
	clear(w.above)
	clear(w.since)
	clear(w.best)
	w.total = 0
}

// add adds windows of m of the tokens, which are at least m. Token t has the choices [K] at t*stride of experts.
func (w *window) add(l *locality, m int, caches []int, n, topK int, experts []int32, stride, tokens int) {
	w.reset(m, len(caches), n)
	windows := int64(0)
	for t := range tokens {
		if t >= m {
			at := (t - m) * stride
			w.leave(l, windows, caches, experts[at:at+topK])
		}
		at := t * stride
		w.enter(l, windows, caches, experts[at:at+topK])
		if t < m-1 {
			continue
		}
		windows++
		l.Choices += w.total
		for i := range l.Hits {
			l.Hits[i] += w.best[i]
		}
	}
	l.Windows += windows
	for c := 1; c <= m; c++ {
		w.count(l, windows, c)
	}
}

// count adds above[c] of the windows since it changed.
func (w *window) count(l *locality, windows int64, c int) {
	l.Above[c-1] += w.above[c] * (windows - w.since[c])
	w.since[c] = windows
}

func (w *window) enter(l *locality, windows int64, caches []int, choices []int32) {
	for _, e := range choices {
		if e == NoExpert {
			continue
		}
		w.now[e]++
		c := int(w.now[e])
		w.count(l, windows, c)
		for i, size := range caches {
			w.best[i] += below(w.above[c], int64(size))
		}
		w.above[c]++
		w.total++
	}
}

func (w *window) leave(l *locality, windows int64, caches []int, choices []int32) {
	for _, e := range choices {
		if e == NoExpert {
			continue
		}
		c := int(w.now[e])
		w.now[e]--
		w.count(l, windows, c)
		for i, size := range caches {
			w.best[i] -= below(w.above[c]-1, int64(size))
		}
		w.above[c]--
		w.total--
	}
}

// below returns 1 where a < b, and else 0, without a branch, which would often be
// predicted wrongly.
func below(a, b int64) int64 { return int64(uint64(a-b) >> 63) }

// srp returns SRP(m) of E experts, and the ratio of the segment router's activations
// to the model's own at the best threshold.
func (l *locality) srp(experts int) (f1, activated float64) {
	if l.Choices == 0 {
		return 0, 0
	}
	m, a := len(l.Above), float64(l.Choices)
	var higher int64 // sum of (c_e - n) over c_e > n
	for n := m; n >= 0; n-- {
		active := l.Windows * int64(experts) // all experts
		if n > 0 {
			active = l.Above[n-1]
		}
		p := float64(active) * float64(m)
		if f := 2 * float64(higher+int64(n)*active) / (p + a); f > f1 {
			f1, activated = f, p/a
		}
		if n > 0 {
			higher += active
		}
	}
	return f1, activated
}
