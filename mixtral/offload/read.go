package offload

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// reader reads experts into slots until the store is closed.
func (s *Store) reader() {
	for t := s.next(); t != nil; t = s.next() {
		if t.after != nil {
			<-t.after.done
			t.after = nil
		}
		err := t.ctx.Err()
		if err == nil {
			err = s.read(t)
		}
		s.finish(t, err)
	}
}

// next returns the next transfer: the first on demand, or else the next prefetch; nil
// when the store is closed.
func (s *Store) next() *transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			for _, t := range s.demands { // of steps that were cancelled
				t.err = context.Canceled
				close(t.done)
			}
			s.demands = nil
			return nil
		case len(s.demands) > 0:
			t := s.demands[0]
			s.demands = s.demands[1:]
			return t
		}
		if _, ok := s.engine.Next(); !ok {
			s.changed.Wait()
			continue
		}
		if id, victim, _, ok := s.engine.Start(); ok {
			return s.occupy(s.ctx, id, victim)
		}
	}
}

func (s *Store) read(t *transfer) error {
	dst := t.to.slot.Memory()
	if s.host != nil && s.host.get(t.id, dst) {
		s.count(&s.stats.fromHost, len(dst))
		return nil
	}
	start := time.Now()
	if err := s.src.Read(t.ctx, int(t.id)/s.src.Experts, int(t.id)%s.src.Experts, dst); err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.reading += time.Since(start)
	s.mu.Unlock()
	s.count(&s.stats.fromDisk, len(dst))
	if s.host != nil {
		s.host.put(t.id, dst)
	}
	return nil
}

func (s *Store) count(n *int64, bytes int) {
	s.mu.Lock()
	*n += int64(bytes)
	s.mu.Unlock()
}

// finish ends a transfer. If it failed, its expert leaves the cache.
func (s *Store) finish(t *transfer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.err = err; err != nil {
		s.stats.failed++
		if t.to.last == t && t.to.id == t.id {
			s.engine.Remove(t.id)
			s.empty(t.to)
		}
	}
	close(t.done)
}

// throttled returns read that takes turns at a rate in bytes a second.
func throttled(read readFunc, rate int64) readFunc {
	var mu sync.Mutex
	var idle time.Time
	return func(ctx context.Context, layer, expert int, dst []byte) error {
		mu.Lock()
		if now := time.Now(); idle.Before(now) {
			idle = now
		}
		idle = idle.Add(time.Duration(float64(len(dst)) / float64(rate) * float64(time.Second)))
		until := idle
		mu.Unlock()
		if err := read(ctx, layer, expert, dst); err != nil {
			return err
		}
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hostTier is copies of experts in memory, the most recently read ones.
type hostTier struct {
	mu    sync.Mutex
	at    map[int32]*list.Element // of *hostCopy
	order *list.List              // most recent first; those that are being written are not in it
	spare [][]byte
	size  int64
}

type hostCopy struct {
	id    int32
	bytes []byte
	users int // that read bytes
}

func newHostTier(n, bytes int) *hostTier {
	h := &hostTier{at: map[int32]*list.Element{}, order: list.New(), size: int64(n) * int64(bytes)}
	for range n {
		h.spare = append(h.spare, make([]byte, bytes))
	}
	return h
}

// get copies an expert to dst, if it is there.
func (h *hostTier) get(id int32, dst []byte) bool {
	h.mu.Lock()
	e := h.at[id]
	if e == nil {
		h.mu.Unlock()
		return false
	}
	h.order.MoveToFront(e)
	c := e.Value.(*hostCopy)
	c.users++
	h.mu.Unlock()
	copy(dst, c.bytes)
	h.mu.Lock()
	c.users--
	h.mu.Unlock()
	return true
}

// put keeps a copy of an expert, if there is memory that nobody reads.
func (h *hostTier) put(id int32, src []byte) {
	b := h.room(id)
	if b == nil {
		return
	}
	copy(b, src)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at[id] != nil { // two read it at once
		h.spare = append(h.spare, b)
		return
	}
	h.at[id] = h.order.PushFront(&hostCopy{id: id, bytes: b})
}

func (h *hostTier) room(id int32) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at[id] != nil {
		return nil
	}
	if n := len(h.spare); n > 0 {
		b := h.spare[n-1]
		h.spare = h.spare[:n-1]
		return b
	}
	for e := h.order.Back(); e != nil; e = e.Prev() {
		if c := e.Value.(*hostCopy); c.users == 0 {
			h.order.Remove(e)
			delete(h.at, c.id)
			return c.bytes
		}
	}
	return nil
}
