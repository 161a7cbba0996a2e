package prefetch

import (
	"math"

	"github.com/expertspec/expertspec/speculate"
)

// usage holds what a policy orders experts by, for all ids layer*E+expert,
// resident or not.
//
// The expert with the smallest key is evicted first. No two keys are equal and
// none depends on the cache's size, so each policy is a stack algorithm (Mattson
// et al. 1970, "Evaluation techniques for storage hierarchies").
type usage struct {
	policy Policy
	tick   int64   // requests so far, below 1<<31
	key    []int64 // [L*E]
	count  []int64 // [L*E] requests, for LFU
	after  []int64 // for OPT, by request: the expert's key once it is served
	// For DecayedLFU: half-lives in a request, and of each expert the logarithm to
	// base 2 of its requests, each of which counts twice that of a half-life before.
	// So a score changes only by a request. [L*E]
	rate  float64
	score []float64
}

func newUsage(cfg Config, s speculate.Shape) *usage {
	n := s.Layers * s.Experts
	return &usage{policy: cfg.policy(), key: make([]int64, n), count: make([]int64, n), score: make([]float64, n),
		rate: 1 / float64(cfg.halfLife()*s.Layers*s.TopK)}
}

// maxRequests bounds the requests of a document, so that keys do not overflow. After
// as many, an Engine starts again.
const maxRequests = 1<<31 - 1

// begin starts a document with its requests.
func (u *usage) begin(requests []int32) {
	u.tick = 0
	clear(u.count)
	for i := range u.score {
		u.score[i] = math.Inf(-1)
	}
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

// request records that the i-th request is for id.
func (u *usage) request(i int, id int32) {
	u.tick++
	switch u.policy {
	case OPT:
		u.key[id] = u.after[i]
	case LFU:
		u.count[id]++
		u.key[id] = u.count[id]<<31 | u.tick
	case DecayedLFU:
		now := float64(u.tick) * u.rate
		more := math.Exp2(u.score[id] - now) // of earlier requests, in this one's size
		u.score[id] = now + math.Log2(1+more)
		u.key[id] = int64(u.score[id] * scoreUnit)
	default:
		u.key[id] = u.tick
	}
}

// scoreUnit makes scores integers, below 1<<62: a score is at most the number of
// half-lives plus the logarithm of that of requests.
const scoreUnit = 1 << 30

// before reports whether a is evicted before b.
func (u *usage) before(a, b int32) bool { return u.key[a] < u.key[b] }

// cache is a heap of resident experts, with the first to be evicted on top.
type cache struct {
	use  *usage
	heap []int32
	at   []int32 // by id: index in heap, -1: not resident; shared between the layers' caches
	held []int32 // scratch of evict
}

func (c *cache) swap(i, j int) {
	h := c.heap
	h[i], h[j] = h[j], h[i]
	c.at[h[i]], c.at[h[j]] = int32(i), int32(j)
}

func (c *cache) up(i int) {
	for i > 0 && c.use.before(c.heap[i], c.heap[(i-1)/2]) {
		c.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (c *cache) down(i int) {
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
