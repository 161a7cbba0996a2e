package offload

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/expertspec/expertspec/mixtral"
)

// reader reads experts into slots until the store is closed.
func (s *Store) reader() {
	var staging []byte // for slots that can only be written
	for t := s.next(); t != nil; t = s.next() {
		if t.after != nil {
			<-t.after.done
			t.after = nil
		}
		err := t.ctx.Err()
		if err == nil {
			err = s.read(t, &staging)
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
			ctx := s.following[int(id)/s.src.Experts]
			if ctx == nil {
				ctx = s.ctx
			}
			t := s.occupy(ctx, id, victim)
			t.ahead = true
			return t
		}
	}
}

// read fills a transfer's slot: from host memory, or from the checkpoint, by way of
// host memory where there is room.
func (s *Store) read(t *transfer, staging *[]byte) (err error) {
	slot := t.to.slot
	if c := s.host.acquire(t.id); c != nil {
		defer s.host.release(c)
		s.count(&s.stats.fromHost, len(c.bytes))
		return s.write(t, c.bytes)
	}
	c, err := s.host.room(t.id)
	if err != nil {
		return err
	}
	dst := slot.Memory()
	if c != nil {
		dst = c.bytes
	} else if dst == nil {
		if *staging == nil {
			if *staging, err = s.src.NewMemory(); err != nil {
				return err
			}
		}
		dst = *staging
	}
	start := time.Now()
	err = s.src.Read(t.ctx, int(t.id)/s.src.Experts, int(t.id)%s.src.Experts, dst)
	s.mu.Lock()
	s.stats.reading += time.Since(start)
	s.mu.Unlock()
	s.host.add(c, err == nil)
	if err != nil {
		return err
	}
	s.count(&s.stats.fromDisk, len(dst))
	if c == nil && slot.Memory() != nil {
		return nil
	}
	err = s.write(t, dst)
	s.host.release(c)
	return err
}

func (s *Store) write(t *transfer, expert []byte) error {
	start := time.Now()
	err := t.to.slot.Write(expert, !t.ahead)
	s.mu.Lock()
	s.stats.writing += time.Since(start)
	s.mu.Unlock()
	return err
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
	s.open--
	if t.err = err; err != nil {
		s.stats.failed++
		if t.to.last == t && t.to.id == t.id {
			s.engine.Remove(t.id)
			s.empty(t.to)
		}
	}
	close(t.done)
	if t.ahead {
		s.engine.Arrived()
		s.changed.Signal()
	}
}

// throttled returns read that takes turns at a rate in bytes a second.
func throttled(read readFunc, rate int64) readFunc {
	var mu sync.Mutex
	var idle time.Time
	first := make(chan struct{}, 1) // held by the one that is next to end
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
		select {
		case first <- struct{}{}:
			defer func() { <-first }()
		case <-ctx.Done():
			return ctx.Err()
		}
		return waitUntil(ctx, until)
	}
}

// hostTier is copies of experts in memory, the most recently used ones. nil has none.
type hostTier struct {
	mu        sync.Mutex
	src       mixtral.ExpertSource
	left      int                     // copies that may be allocated
	allocated int64                   // bytes
	at        map[int32]*list.Element // of *hostCopy
	order     *list.List              // most recent first; those that are being read are not in it
	spare     []*hostCopy
}

type hostCopy struct {
	id    int32
	bytes []byte
	slot  *mixtral.ExpertSlot // of bytes
	users int                 // that read bytes
}

func newHostTier(n int, src mixtral.ExpertSource) *hostTier {
	return &hostTier{src: src, left: n, at: map[int32]*list.Element{}, order: list.New()}
}

// acquire returns the copy of an expert, which release must follow; nil if there is
// none.
func (h *hostTier) acquire(id int32) *hostCopy {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.at[id]
	if e == nil {
		return nil
	}
	h.order.MoveToFront(e)
	c := e.Value.(*hostCopy)
	c.users++
	return c
}

func (h *hostTier) release(c *hostCopy) {
	if c == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c.users--
	if e := h.at[c.id]; c.users == 0 && (e == nil || e.Value != c) { // another reader was sooner
		h.spare = append(h.spare, c)
	}
}

// size is the bytes that are allocated.
func (h *hostTier) size() (n int64) {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.allocated
}

// room returns memory for a copy of an expert, to be given to add; nil if all of it is
// being read.
func (h *hostTier) room(id int32) (*hostCopy, error) {
	if h == nil {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.spare); n > 0 {
		c := h.spare[n-1]
		h.spare = h.spare[:n-1]
		c.id = id
		return c, nil
	}
	if h.left > 0 {
		b, err := h.src.NewMemory()
		if err != nil {
			return nil, fmt.Errorf("offload: host memory: %w", err)
		}
		h.left--
		h.allocated += int64(len(b))
		return &hostCopy{id: id, bytes: b, slot: h.src.HostSlot(b)}, nil
	}
	for e := h.order.Back(); e != nil; e = e.Prev() {
		if c := e.Value.(*hostCopy); c.users == 0 {
			h.order.Remove(e)
			delete(h.at, c.id)
			c.id = id
			return c, nil
		}
	}
	return nil, nil
}

// add keeps a copy that is complete, acquired for the caller, or takes back its memory.
func (h *hostTier) add(c *hostCopy, complete bool) {
	if c == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !complete {
		h.spare = append(h.spare, c)
		return
	}
	c.users = 1
	if h.at[c.id] == nil {
		h.at[c.id] = h.order.PushFront(c)
	}
}
