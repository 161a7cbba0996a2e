package prefetch

import (
	"math"

	"github.com/expertspec/expertspec/speculate"
)

// usage holds what a policy orders experts by, for all ids layer*E+expert,
// resident or not.
//
// The expert with the smallest key is evicted first. No two keys are equal and
// none depends on the cache's size, so each policy that orders by keys alone is a
// stack algorithm (Mattson et al. 1970, "Evaluation techniques for storage
// hierarchies").
type usage struct {
	policy  Policy
	experts int     // E
	tick    int64   // requests so far, below 1<<31
	key     []int64 // [L*E]
	count   []int64 // [L*E] requests, for LFU
	after   []int64 // for OPT, by request: the expert's key once it is served
	// For DecayedLFU and Reuse: the sum over an expert's requests of weight as it was
	// then, which grows by growth with each. So a sum changes only by a request. [L*E]
	sum            []float64
	weight, growth float64
	perToken       float64   // the limit of sum/weight for an expert that each token chooses
	likely         []float32 // for Reuse: [L*E] probabilities
	scored         []bool    // [L] likely is about the layer's next step
}

func newUsage(cfg Config, s speculate.Shape) *usage {
	n := s.Layers * s.Experts
	u := &usage{policy: cfg.policy(), experts: s.Experts, key: make([]int64, n), count: make([]int64, n), sum: make([]float64, n),
		growth: math.Exp2(1 / float64(cfg.halfLife()*max(1, s.Layers-s.Encoder)*s.TopK))}
	if u.policy == Reuse {
		u.likely, u.scored = make([]float32, n), make([]bool, s.Layers)
		u.perToken = 1 / (1 - math.Exp2(-1/float64(cfg.halfLife())))
	}
	return u
}

// maxRequests bounds the requests of a document, so that keys do not overflow. After
// as many, an Engine starts again.
const maxRequests = 1<<31 - 1

// begin starts a document with its requests.
func (u *usage) begin(requests []int32) {
	u.tick, u.weight = 0, 1
	clear(u.count)
	clear(u.sum)
	clear(u.scored)
	if u.policy != OPT {
		for i := range u.key {
			u.key[i] = int64(-1 - i) // never requested
		}
		return
	}
	for i := range u.key {
		u.key[i] = int64(-1 - maxRequests - i) // never again
	}
	if cap(u.after) < len(requests) {
		u.after = make([]int64, len(requests))
	}
	u.after = u.after[:len(requests)]
	for i := len(requests) - 1; i >= 0; i-- {
		id := requests[i]
		u.after[i], u.key[id] = u.key[id], int64(-i)
	}
}

// request records that the i-th request is for id. It reports whether other keys
// changed as well.
func (u *usage) request(i int, id int32) (changed bool) {
	u.tick++
	switch u.policy {
	case OPT:
		u.key[id] = u.after[i]
	case LFU:
		u.count[id]++
		u.key[id] = u.count[id]<<31 | u.tick
	case DecayedLFU, Reuse:
		if u.weight *= u.growth; u.weight > maxWeight {
			u.rescale()
			changed = true
		}
		u.sum[id] += u.weight
		u.key[id] = int64(math.Float64bits(u.sum[id]))
	default:
		u.key[id] = u.tick
	}
	return changed
}

// maxWeight is a power of 2, by which sums are divided exactly.
const maxWeight = 0x1p900

// rescale divides all sums. Those of which nothing remains are as if never requested.
func (u *usage) rescale() {
	u.weight /= maxWeight
	for id, x := range u.sum {
		if x /= maxWeight; x > 0 {
			u.key[id] = int64(math.Float64bits(x))
		} else {
			u.key[id] = int64(-1 - id)
		}
		u.sum[id] = x
	}
}

// shareOfScore is that of a prediction in an expert's worth, where there is one; the
// rest is that of how often tokens chose it. On the mini's routing .2 to .5 hit about
// as often, with a predictor by counts and with an oracle.
const shareOfScore = .3

// worth is what Reuse orders by: about the probability that the next token at the
// expert's layer chooses it.
func (u *usage) worth(id int32) float64 {
	often := u.sum[id] / (u.weight * u.perToken)
	if !u.scored[int(id)/u.experts] {
		return often
	}
	return (1-shareOfScore)*often + shareOfScore*float64(u.likely[id])
}

// score records the probabilities, [E], that the next step at a layer chooses its
// experts; with again, that another of its tokens does.
func (u *usage) score(layer int, p []float32, again bool) {
	if u.scored == nil {
		return
	}
	row := u.likely[layer*u.experts:][:u.experts]
	again = again && u.scored[layer]
	for e, x := range p {
		if again {
			x = 1 - (1-x)*(1-row[e])
		}
		row[e] = x
	}
	u.scored[layer] = true
}

// before reports whether a is evicted before b.
func (u *usage) before(a, b int32) bool { return u.key[a] < u.key[b] }

// cache is a heap of resident experts, with the first to be evicted on top; in any
// order with Reuse, whose order changes from step to step.
type cache struct {
	use  *usage
	heap []int32
	at   []int32 // by id: index in heap, isPinned, -1: not resident; shared between the layers' caches
	held []int32 // scratch of evict
	// For Static: experts that are pinned, which are not in heap, those of them that are
	// resident, and places that are kept for such.
	pins, pinsIn, reserved int
}

// isPinned is in place of an index.
const isPinned = 1 << 30

func (c *cache) swap(i, j int) {
	h := c.heap
	h[i], h[j] = h[j], h[i]
	c.at[h[i]], c.at[h[j]] = int32(i), int32(j)
}

func (c *cache) up(i int) {
	if c.use.policy == Reuse {
		return
	}
	for i > 0 && c.use.before(c.heap[i], c.heap[(i-1)/2]) {
		c.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (c *cache) down(i int) {
	if c.use.policy == Reuse {
		return
	}
	for {
		j := 2*i + 1
		if j >= len(c.heap) {
			return
		}
		if j+1 < len(c.heap) && c.use.before(c.heap[j+1], c.heap[j]) {
			j++
		}
		if !c.use.before(c.heap[j], c.heap[i]) {
			return
		}
		c.swap(i, j)
		i = j
	}
}

// fix restores the order after id's usage changed.
func (c *cache) fix(id int32) {
	c.up(int(c.at[id]))
	c.down(int(c.at[id]))
}

func (c *cache) insert(id int32) {
	c.at[id] = int32(len(c.heap))
	c.heap = append(c.heap, id)
	c.up(len(c.heap) - 1)
}

// pop removes the first to be evicted.
func (c *cache) pop() int32 {
	id := c.heap[0]
	c.swap(0, len(c.heap)-1)
	c.heap = c.heap[:len(c.heap)-1]
	c.at[id] = -1
	c.down(0)
	return id
}

// drop removes id, which may be pinned.
func (c *cache) drop(id int32) {
	if c.at[id] == isPinned {
		c.at[id] = -1
		c.pinsIn--
		return
	}
	c.remove(id)
}

// remove removes id.
func (c *cache) remove(id int32) {
	i, last := int(c.at[id]), len(c.heap)-1
	c.swap(i, last)
	c.heap = c.heap[:last]
	c.at[id] = -1
	if i < last {
		c.fix(c.heap[i])
	}
}

// evict removes and returns the first to be evicted for which may returns true,
// or -1.
func (c *cache) evict(may func(int32) bool) int32 {
	victim := int32(-1)
	if c.use.policy == Reuse {
		if victim = c.least(may); victim >= 0 {
			c.remove(victim)
		}
		return victim
	}
	c.held = c.held[:0]
	for victim < 0 && len(c.heap) > 0 {
		if id := c.pop(); may(id) {
			victim = id
		} else {
			c.held = append(c.held, id)
		}
	}
	for _, id := range c.held {
		c.insert(id)
	}
	return victim
}

// least returns the expert of the least worth, ties by the key, that may be evicted.
func (c *cache) least(may func(int32) bool) int32 {
	best, worth := int32(-1), 0.0
	for _, id := range c.heap {
		if w := c.use.worth(id); (best < 0 || w < worth || w == worth && c.use.before(id, best)) && may(id) {
			best, worth = id, w
		}
	}
	return best
}

// sort restores the order after all usage changed.
func (c *cache) sort() {
	for i := len(c.heap)/2 - 1; i >= 0; i-- {
		c.down(i)
	}
}

func (c *cache) clear() {
	for _, id := range c.heap {
		c.at[id] = -1
	}
	c.heap = c.heap[:0]
}

// stack is that of Mattson et al.: for every C, its first C experts are those that
// a cache of C experts holds.
type stack struct {
	use *usage
	ids []int32
}

// request moves id to the top and returns its former 0-based depth, -1 if it was
// not in the stack. It is called before the usage changes.
func (s *stack) request(id int32) int {
	depth := -1
	for i, x := range s.ids {
		if x == id {
			depth = i
			break
		}
	}
	if depth == 0 {
		return 0
	}
	n := depth
	if n < 0 {
		s.ids = append(s.ids, id)
		n = len(s.ids) - 1
	}
	if n == 0 {
		return depth
	}
	if s.use.policy == LRU { // by decreasing recency: all above id move down
		copy(s.ids[1:n+1], s.ids[:n])
		s.ids[0] = id
		return depth
	}
	carry := s.ids[0] // evicted from the caches of all sizes up to its new depth
	key, least := s.use.key, s.use.key[carry]
	for i, x := range s.ids[1:n] {
		if k := key[x]; k < least {
			s.ids[1+i], carry, least = carry, x, k
		}
	}
	s.ids[0], s.ids[n] = id, carry
	return depth
}
