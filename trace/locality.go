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
	m      int
	caches []int // C, ascending

	windows int64
	counts  []int64 // [m+1]: how many (window, expert) have c_e = i
	hits    []int64 // [len(caches)]
	choices int64   // A

	// The window that ends at the current token.
	now  []int32 // [E]: c_e
	hist []int32 // [m+1]: how many experts have c_e = i
	top  int     // an upper bound of c_e
}

func newLocality(m, experts int, caches []int) *locality {
	return &locality{m: m, caches: caches, counts: make([]int64, m+1), hits: make([]int64, len(caches)),
		now: make([]int32, experts), hist: make([]int32, m+1)}
}

// add adds one document's choices at a layer, where at(t) returns those of token t.
func (l *locality) add(tokens int, at func(t int) []int32) {
	if tokens < l.m {
		return
	}
	clear(l.now)
	clear(l.hist)
	l.hist[0], l.top = int32(len(l.now)), 0
	total := int64(0)
	move := func(choices []int32, by int32) {
		for _, e := range choices {
			if e == NoExpert {
				continue
			}
			l.hist[l.now[e]]--
			l.now[e] += by
			l.hist[l.now[e]]++
			l.top = max(l.top, int(l.now[e]))
			total += int64(by)
		}
	}
	for t := range tokens {
		if t >= l.m {
			move(at(t-l.m), -1)
		}
		move(at(t), 1)
		if t < l.m-1 {
			continue
		}
		l.windows++
		l.choices += total
		l.window()
	}
}

// window adds the window that ends here to the sums.
func (l *locality) window() {
	for l.top > 0 && l.hist[l.top] == 0 {
		l.top--
	}
	cache, held, served := 0, 0, int64(0)
	for c := l.top; c >= 1; c-- {
		n := int(l.hist[c])
		if n == 0 {
			continue
		}
		l.counts[c] += int64(n)
		for cache < len(l.caches) && held+n >= l.caches[cache] {
			l.hits[cache] += served + int64(l.caches[cache]-held)*int64(c)
			cache++
		}
		held += n
		served += int64(n) * int64(c)
	}
	for ; cache < len(l.caches); cache++ {
		l.hits[cache] += served
	}
}

// merge adds the sums of o.
func (l *locality) merge(o *locality) {
	l.windows += o.windows
	l.choices += o.choices
	for i, v := range o.counts {
		l.counts[i] += v
	}
	for i, v := range o.hits {
		l.hits[i] += v
	}
}

// srp returns SRP(m), and the ratio of the segment router's activations to the
// model's own at the best threshold.
func (l *locality) srp() (f1, activated float64) {
	if l.choices == 0 {
		return 0, 0
	}
	a := float64(l.choices)
	var matches, experts int64
	for n := l.m; n >= 0; n-- {
		if n > 0 {
			matches += int64(n) * l.counts[n]
			experts += l.counts[n]
		} else {
			experts = l.windows * int64(len(l.now)) // all experts
		}
		p := float64(experts) * float64(l.m)
		if f := 2 * float64(matches) / (p + a); f > f1 {
			f1, activated = f, p/a
		}
	}
	return f1, activated
}
