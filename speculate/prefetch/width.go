package prefetch

// width is the number of experts of a prediction that are copied ahead. If it adapts,
// it goes up or down by one after each window, and turns round when what an expert that
// was not there in time cost, in waiting, has grown. Without waiting it goes up.
type width struct {
	n, most, by int   // most: of the predictions so far
	window      int64 // steps; 0: it does not adapt
	until       int64
	waited      int64 // ns, in this window
	needed      int64 // experts up to this window
	before      float64
}

// windowTokens are so few that it adapts within a document, and enough for a mean.
const windowTokens = 16

// end ends a window. needed is the number of experts that were copied and used so far.
func (w *width) end(step, needed int64) {
	cost := float64(w.waited) / float64(max(1, needed-w.needed))
	switch {
	case cost == 0:
		w.by = 1
	case cost > w.before:
		w.by = -w.by
	}
	w.n = min(max(min(w.n, w.most)+w.by, 0), w.most)
	w.until, w.waited, w.needed, w.before = step+w.window, 0, needed, cost
}

// adapt changes how many experts are copied ahead, if Config.Adaptive.
func (e *Engine) adapt() {
	if e.width.window == 0 || e.step+1 < e.width.until {
		return
	}
	e.width.end(e.step+1, e.needed())
}

// needed is the number of experts that were copied and used so far.
func (e *Engine) needed() (n int64) {
	for _, c := range e.layers {
		n += c.Misses + c.Used
	}
	return n
}

// Waited records for how long, in ns, a step waited for experts.
func (e *Engine) Waited(ns int64) { e.width.waited += ns }
