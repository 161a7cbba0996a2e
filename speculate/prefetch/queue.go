package prefetch

import "slices"

// wish is a prefetch in the queue.
type wish struct {
	id   int32
	step int64 // that it is for
	at   int64 // when it was asked for, by the driver's clock
	// follow says that it is of Follow: it takes the place of one that is spent, and
	// will be spent once its step has used it.
	follow bool
}

// wanted is for which step a layer's experts were wanted, and in which.
type wanted struct{ step, in int64 }

// Want queues the prefetch of experts of one layer that are predicted for a later
// step, likeliest first, up to the first negative one, at a time of the driver's clock.
// Until that step has passed, those that are resident are evicted after all others.
// What was wanted for that step before the current one, from farther away, and is not
// wanted now is dropped; what is wanted in one step is added up.
func (e *Engine) Want(ids []int32, step, at int64) {
	if len(ids) == 0 || ids[0] < 0 {
		return
	}
	layer := e.layer(ids[0])
	if x := &e.wanted[layer]; *x != (wanted{step, e.step}) {
		if x.step == step {
			e.supersede(layer, ids, step)
		}
		*x = wanted{step, e.step}
	}
	e.width.most = max(e.width.most, len(ids))
	for i, id := range ids {
		if id < 0 || i == e.width.n {
			break
		}
		e.add(wish{id: id, step: step, at: at})
	}
}

// supersede takes out of the queue what was wanted of a layer for a step.
func (e *Engine) supersede(layer int, ids []int32, step int64) {
	e.queue = slices.DeleteFunc(e.queue, func(w wish) bool {
		if w.step != step || e.again[w.id] {
			return false
		}
		e.queued[w.id] = false
		if !slices.Contains(ids, w.id) {
			e.layers[layer].Dropped++
		}
		return true
	})
}

// add queues a prefetch, unless its expert is resident or queued.
func (e *Engine) add(w wish) {
	id, step := w.id, w.step
	e.due[id] = max(e.due[id], step)
	switch {
	case e.Resident(id) || e.queued[id] && !e.again[id]:
		return
	case e.queued[id]:
		e.queue = slices.DeleteFunc(e.queue, func(w wish) bool { return w.id == id })
	}
	e.queued[id], e.again[id] = true, false
	i := len(e.queue) // those for earlier steps precede it
	for i > 0 && e.queue[i-1].step > step {
		i--
	}
	e.queue = slices.Insert(e.queue, i, w)
}

// Follow queues prefetches, as Want does, of the first n experts that are not resident
// of the layer that follows one of which the step uses all experts.
func (e *Engine) Follow(layer, n int, at int64) {
	if layer++; layer == e.shape.Layers || layer == e.shape.Encoder {
		return
	}
	for x := range e.shape.Experts {
		id := int32(layer*e.shape.Experts + x)
		if !e.Resident(id) {
			if n--; n < 0 {
				return
			}
		}
		e.add(wish{id, e.step + 1, at, true})
	}
}

// Unfollow drops what Follow queued of a layer, whose step has ended.
func (e *Engine) Unfollow(layer int) {
	e.drop(func(w wish) bool { return w.follow && e.layer(w.id) == layer })
}

// drop takes what is of no use any more out of the queue.
func (e *Engine) drop(useless func(wish) bool) {
	e.queue = slices.DeleteFunc(e.queue, func(w wish) bool {
		if !useless(w) {
			return false
		}
		e.queued[w.id] = false
		e.layers[e.layer(w.id)].Dropped++
		return true
	})
}

// unqueue drops the wish for an expert that is copied on demand.
func (e *Engine) unqueue(id int32) {
	if e.queued[id] {
		e.drop(func(w wish) bool { return w.id == id })
	}
}

// Expire drops the prefetches for the current step and those before.
func (e *Engine) Expire() {
	e.drop(func(w wish) bool { return w.step <= e.step })
}

// Next returns when the next prefetch was asked for, if there is one and no limit on
// those in flight is reached.
func (e *Engine) Next() (at int64, ok bool) {
	if len(e.queue) == 0 || e.flying == e.limit {
		return 0, false
	}
	w := e.queue[0]
	if h := e.cache(w.id); w.follow && (e.full(h) || e.kept(h, w.id) || e.hasShare(w.id)) {
		return max(w.at, e.released), e.spentIn(h) >= 0
	}
	return w.at, true
}

// Start takes the next prefetch out of the queue and makes its expert resident, in
// the place of victim; -1 is a free place. ok is false if it was dropped, because
// everything in the cache is predicted as well or in use.
func (e *Engine) Start() (id, victim int32, step int64, ok bool) {
	w := e.queue[0]
	e.queue = append(e.queue[:0], e.queue[1:]...)
	e.queued[w.id] = false
	c, h := &e.layers[e.layer(w.id)], e.cache(w.id)
	victim = -1
	if full := e.full(h) || e.kept(h, w.id); full || e.hasShare(w.id) {
		if victim = e.spentVictim(h); full && victim < 0 && !w.follow {
			victim = h.evict(func(x int32) bool { return e.due[x] <= e.step && e.usedAt[x] != e.step })
		}
		if victim >= 0 && e.again[w.id] && !e.use.before(victim, w.id) {
			h.insert(victim)
			victim = -1
		}
		switch {
		case victim >= 0:
			e.unused(victim)
		case full:
			c.Dropped++
			return w.id, -1, w.step, false
		}
	}
	if w.follow {
		e.missed[w.id] = w.step
	}
	c.Prefetched++
	e.flying++
	e.fresh[w.id] = true
	e.place(h, w.id)
	return w.id, victim, w.step, true
}

// Arrived says that the copy of a prefetch has ended, or failed.
func (e *Engine) Arrived() { e.flying-- }

// Likeliest writes the ids of the experts of a layer with the highest scores above 0,
// likeliest first, ties to the lower number, to out, and -1 after the last. It takes
// them out of scores, [E].
func (e *Engine) Likeliest(scores []float32, layer int, out []int32) {
	for i := range out {
		out[i] = -1
	}
	top(scores, int32(layer*e.shape.Experts), out)
}
