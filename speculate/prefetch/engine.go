package prefetch

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
)

// Engine decides which experts a cache holds: which is evicted for another, what is
// copied ahead and when it is no longer worth it. It copies nothing and has no
// clock. The simulator drives it by simulated time, package mixtral/offload by
// copies that take their time, so that both decide alike.
//
// A driver calls, for each layer of each token (or of a step of several tokens), Step
// and then Request for each chosen expert; Expire, when all of them are resident;
// Want with what a predictor says; and, whenever something can be copied, Next and
// Start, after each of which Arrived follows. For policy Reuse it also calls Score, and
// for Config.Adaptive Waited. Experts are ids, layer*E+expert. An Engine is not safe for
// concurrent use.
type Engine struct {
	shape  speculate.Shape
	policy Policy
	size   int // capacity, of all layers or of each
	// For Static: the maximum number of pinned experts in a cache, and which are.
	pins   int
	pinned []bool  // [L*E]; nil otherwise
	static []int32 // Config.Static
	hold   bool    // see Config.Hold
	use    *usage
	caches []*cache // [1], or [L] with PerLayer
	layers []Counts // [L], without times and transfers
	n      int      // requests since the last restart, at most most
	most   int

	flying, limit int // prefetches in flight

	step     int64
	queue    []wish
	due      []int64  // [L*E] last step for which it is protected from eviction; -1: none
	usedAt   []int64  // [L*E] step of the last request, or the one before it once released; or never
	queued   []bool   // [L*E]
	again    []bool   // [L*E] queued since it was used
	wanted   []wanted // [L] by the last Want
	width    width
	scoredAt []int64 // [L] step of the last Score
	fresh    []bool  // [L*E] prefetched, resident, not yet requested
	current  []int32 // requested in this step
	missed   []int64 // [L*E] step of the last copy on demand; or never
	released int64   // when the last one was spent
	spent    []int32 // released after such a copy: evicted before others, the last first
	dropped  []int32 // scratch of Step
}

// never is before all steps, also where the first is released.
const never = -2

// NewEngine returns an engine for a model's shape. Of cfg it uses Capacity, PerLayer,
// Policy, HalfLife, Static, InFlight and Adaptive; experts of the current step are
// held (see [Config.Hold]). OPT is an error: it knows the future.
func NewEngine(s speculate.Shape, cfg Config) (*Engine, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.validateCache(s); err != nil {
		return nil, err
	}
	if cfg.Policy == OPT {
		return nil, fmt.Errorf("prefetch: policy %s knows the future: it can only be simulated", OPT)
	}
	cfg.Hold = true
	e := newEngine(s, cfg)
	e.begin(nil)
	return e, nil
}

func newEngine(s speculate.Shape, cfg Config) *Engine {
	n := s.Layers * s.Experts
	e := &Engine{most: maxRequests, shape: s, policy: cfg.policy(), size: cfg.Capacity, hold: cfg.Hold, use: newUsage(cfg, s),
		limit:  cmp.Or(cfg.InFlight, max(1, cfg.Streams-1)),
		layers: make([]Counts, s.Layers), scoredAt: make([]int64, s.Layers), due: make([]int64, n), usedAt: make([]int64, n), missed: make([]int64, n), queued: make([]bool, n), again: make([]bool, n), fresh: make([]bool, n)}
	e.wanted, e.width = make([]wanted, s.Layers), width{n: math.MaxInt}
	if cfg.Adaptive {
		e.width = width{n: math.MaxInt, by: 1, before: math.Inf(1), window: windowTokens * int64(s.Layers)}
	}
	at := make([]int32, n)
	for i := range at {
		at[i] = -1
	}
	for range s.Layers {
		e.caches = append(e.caches, &cache{use: e.use, at: at})
		if !cfg.PerLayer {
			break
		}
	}
	if e.policy == Static {
		e.pins = max(0, cfg.Capacity-max(s.TopK, 2))
		e.pinned, e.static = make([]bool, n), cfg.Static
	}
	return e
}

// begin forgets what was used. The future requests are for OPT.
func (e *Engine) begin(requests []int32) {
	e.use.begin(requests)
	e.n, e.step, e.current = 0, -1, e.current[:0]
	e.spent = e.spent[:0]
	e.width.until, e.width.waited, e.width.needed = e.width.window, 0, e.needed()
	for l := range e.wanted {
		e.wanted[l] = wanted{never, never}
	}
	for i := range e.due {
		e.due[i], e.usedAt[i], e.missed[i] = -1, never, never
	}
	e.beginPins()
}

func (e *Engine) layer(id int32) int { return int(id) / e.shape.Experts }

func (e *Engine) cache(id int32) *cache {
	if len(e.caches) == 1 {
		return e.caches[0]
	}
	return e.caches[e.layer(id)]
}

// Resident reports whether an expert has a place in the cache. It may still be on
// its way there.
func (e *Engine) Resident(id int32) bool { return e.caches[0].at[id] >= 0 }

// Step begins the next step and returns its number, from 0, and the experts that
// leave the cache with the step before, whose slice is valid until the next call.
func (e *Engine) Step() (step int64, leave []int32) {
	e.dropped = e.dropped[:0]
	e.adapt()
	if e.policy == OnDemand {
		for _, id := range e.current {
			if e.Resident(id) {
				e.cache(id).remove(id)
				e.dropped = append(e.dropped, id)
			}
		}
	}
	e.step++
	e.current = e.current[:0]
	return e.step, e.dropped
}

// Now returns the number of the current step.
func (e *Engine) Now() int64 { return e.step }

// Request serves the choice of an expert in the current step. arriving says that it
// is resident but on its way. If it was not resident, it is now, must be copied, and
// takes the place of victim; -1 is a free place. ok is false if there is no place,
// which can be if fewer experts fit than are held.
func (e *Engine) Request(id int32, arriving bool) (resident bool, victim int32, ok bool) {
	c, h := &e.layers[e.layer(id)], e.cache(id)
	e.choose(id)
	resident, victim = e.Resident(id), -1
	if full := e.full(h); !resident && (full || e.kept(h, id) || e.hasShare(id)) {
		if victim = e.demandVictim(h, full); full && victim < 0 {
			return false, -1, false
		}
	}
	c.Requests++
	if e.usedAt[id] == never {
		c.Cold++
	}
	if e.policy == OnDemand && e.usedAt[id] != e.step {
		e.current = append(e.current, id)
	}
	e.usedAt[id] = e.step
	switch {
	case !resident:
		c.Misses++
		e.unqueue(id)
		e.missed[id] = e.step
	case arriving:
		c.Late++
	default:
		c.Hits++
	}
	if victim >= 0 {
		e.unused(victim)
	}
	if resident && e.fresh[id] {
		e.fresh[id] = false
		c.Used++
	}
	e.used(id)
	if !resident {
		e.place(h, id)
	}
	return resident, victim, true
}

// choose prepares for a request: that step's scores say nothing any more.
func (e *Engine) choose(id int32) {
	if e.pinned != nil {
		e.pin(id)
	}
	if e.use.scored != nil {
		e.use.scored[e.layer(id)] = false
	}
}

// used records a request.
func (e *Engine) used(id int32) {
	if e.n == e.most {
		e.restart()
	}
	changed := e.use.request(e.n, id)
	e.n++
	if changed {
		e.sort()
	} else if h := e.cache(id); h.at[id] >= 0 && h.at[id] != isPinned {
		h.fix(id)
	}
}

// OnHost serves the choice of an expert that is neither resident nor on its way and
// that the host computes from memory of its own, instead of Request. It queues a copy
// for the next token, which is likely to choose the expert again; it is dropped if the
// policy would evict the expert before those that are in the cache.
func (e *Engine) OnHost(id int32, at int64) {
	c := &e.layers[e.layer(id)]
	e.choose(id)
	c.Requests++
	c.Host++
	if e.usedAt[id] == never {
		c.Cold++
	}
	e.usedAt[id] = e.step
	e.used(id)
	e.unqueue(id)
	e.add(wish{id: id, step: e.step + int64(e.shape.Layers), at: at})
	e.again[id] = true
}

// restart forgets how experts were used.
func (e *Engine) restart() {
	e.n = 0
	e.use.begin(nil)
	e.sort()
}

func (e *Engine) sort() {
	if e.policy == Reuse {
		return
	}
	for _, c := range e.caches {
		c.sort()
	}
}

// Score records, for policy Reuse, the probabilities, [E], that a token chooses the
// experts of a layer in its next step. Those of several tokens of a step may be given
// one after the other; with a later step they replace those before.
func (e *Engine) Score(layer int, p []float32) {
	if e.use.scored == nil {
		return
	}
	e.use.score(layer, p, e.scoredAt[layer] == e.step)
	e.scoredAt[layer] = e.step
}

// hasShare reports whether as much of the cache as is a layer's share holds its
// experts. Steps that use all experts then leave free places to later layers, so that
// in all layers copies and computing overlap.
func (e *Engine) hasShare(id int32) bool {
	if len(e.spent) == 0 || e.pinned != nil {
		return false
	}
	l, n := e.layer(id), 0
	for x := range e.shape.Experts {
		if e.Resident(int32(l*e.shape.Experts + x)) {
			n++
		}
	}
	if len(e.caches) > 1 {
		return n >= e.size
	}
	return n*e.shape.Layers >= e.size
}

// spentIn returns an expert that is spent; -1: none.
func (e *Engine) spentIn(h *cache) int32 {
	for n := len(e.spent); n > 0; n = len(e.spent) {
		id := e.spent[n-1]
		// Others need it, or it was requested again.
		if !e.Resident(id) || h.at[id] == isPinned || e.usedAt[id] != e.missed[id]-1 || e.due[id] > e.step {
			e.spent = e.spent[:n-1]
			continue
		}
		if e.cache(id) != h {
			return -1
		}
		return id
	}
	return -1
}

// spentVictim removes and returns an expert that is spent; -1: none.
func (e *Engine) spentVictim(h *cache) int32 {
	id := e.spentIn(h)
	if id >= 0 {
		e.spent = e.spent[:len(e.spent)-1]
		h.remove(id)
	}
	return id
}

// demandVictim removes and returns the expert that is evicted for one that is needed
// now: one that is spent, or if the cache is full or its free places are kept for
// others, by policy, those that are predicted last; -1: none.
func (e *Engine) demandVictim(h *cache, full bool) int32 {
	if v := e.spentVictim(h); v >= 0 || !full && e.pinned == nil {
		return v
	}
	free := func(x int32) bool { return !e.hold || e.usedAt[x] != e.step }
	if v := h.evict(func(x int32) bool { return e.due[x] < e.step && free(x) }); v >= 0 {
		return v
	}
	if v := h.evict(free); v >= 0 || !full {
		return v
	}
	return e.pinnedVictim(h, free)
}

// Release ends, at a time of the driver's clock, the hold on an expert that the current
// step, of many tokens, has used and does not need again. If it was copied for this
// step, it makes room for the next, which may let a prefetch start:
// such steps use all experts of all layers in turn, where a cache that evicts by
// recency would never hit. Those that were resident remain so.
func (e *Engine) Release(id int32, at int64) {
	if e.usedAt[id] != e.step {
		return
	}
	e.usedAt[id]--
	if e.missed[id] == e.step && e.cache(id).at[id] != isPinned {
		e.spent, e.released = append(e.spent, id), at
	}
}

// Protect evicts an expert after others in the current step, which will request it.
func (e *Engine) Protect(id int32) { e.due[id] = max(e.due[id], e.step) }

// Remove takes an expert out of the cache whose copy failed.
func (e *Engine) Remove(id int32) {
	if e.Resident(id) {
		e.cache(id).drop(id)
		e.unused(id)
	}
}

// unused counts a prefetched expert that leaves the cache before it was requested.
func (e *Engine) unused(id int32) {
	if e.fresh[id] {
		e.fresh[id] = false
		e.layers[e.layer(id)].Wasted++
	}
}

// clear empties queue and cache.
func (e *Engine) clear() {
	for _, w := range e.queue {
		e.layers[e.layer(w.id)].Dropped++
		e.queued[w.id] = false
	}
	e.queue = e.queue[:0]
	for _, c := range e.caches {
		for _, id := range c.heap {
			e.unused(id)
		}
		c.clear()
	}
	if e.pinned == nil {
		return
	}
	for id := range int32(len(e.pinned)) {
		if e.Resident(id) {
			e.unused(id)
			e.cache(id).drop(id)
		}
	}
}

// Counts returns what was counted by layer, [L], and in all. Stalls are the driver's
// to measure.
func (e *Engine) Counts() (layers []Counts, total Counts) {
	layers = slices.Clone(e.layers)
	for l := range layers {
		layers[l].Transfers = layers[l].Misses + layers[l].Prefetched
		total.add(layers[l])
	}
	return layers, total
}
