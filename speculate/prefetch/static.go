package prefetch

// beginPins pins the first of Config.Static, or none yet.
func (e *Engine) beginPins() {
	if e.pinned == nil {
		return
	}
	clear(e.pinned)
	for _, c := range e.caches {
		c.pins, c.reserved = 0, e.pins
	}
	if len(e.static) == 0 {
		return
	}
	for _, id := range e.static {
		if c := e.cache(id); c.pins < e.pins {
			e.pinned[id] = true
			c.pins++
		}
	}
	for _, c := range e.caches {
		c.reserved = c.pins
	}
}

// pin pins an expert that is requested, if it is one of the first.
func (e *Engine) pin(id int32) {
	if c := e.cache(id); len(e.static) == 0 && c.pins < e.pins && !e.pinned[id] {
		e.pinned[id] = true
		c.pins++
		if c.at[id] >= 0 {
			c.remove(id)
			c.at[id] = isPinned
			c.pinsIn++
		}
	}
}

// full reports whether a cache has no free place.
func (e *Engine) full(h *cache) bool { return len(h.heap)+h.pinsIn >= e.size }

// kept reports whether the free places of a cache are kept for experts that are pinned,
// and id is not.
func (e *Engine) kept(h *cache, id int32) bool {
	return e.pinned != nil && !e.pinned[id] && len(h.heap) >= e.size-h.reserved
}

// place makes an expert resident.
func (e *Engine) place(h *cache, id int32) {
	if e.pinned != nil && e.pinned[id] {
		h.at[id] = isPinned
		h.pinsIn++
		return
	}
	h.insert(id)
}

// pinnedVictim removes and returns the pinned expert that was used the least recently
// and that may be evicted; -1: none. A step that needs more places than the others have
// takes those of pinned ones, until they are requested again.
func (e *Engine) pinnedVictim(h *cache, may func(int32) bool) int32 {
	victim := int32(-1)
	if h.pinsIn == 0 {
		return victim
	}
	for id := range int32(len(e.pinned)) {
		if h.at[id] == isPinned && e.cache(id) == h && may(id) && (victim < 0 || e.use.before(id, victim)) {
			victim = id
		}
	}
	if victim >= 0 {
		h.drop(victim)
	}
	return victim
}
