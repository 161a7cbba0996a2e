package offload

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/mixtral"
)

// use is one call of Use.
type use struct {
	s       *Store
	caller  context.Context
	ctx     context.Context // ends with the use, or caller's
	layer   int
	compute func([]int, []*mixtral.ExpertSlot) error
	stall   time.Duration
	idle    bool // when experts were requested last, nothing was being read
}

// begun is an expert that was requested.
type begun struct {
	id       int32
	transfer *transfer // nil: the host computes it
	demand   bool
	here     bool      // it was there when it was requested
	copy     *hostCopy // from which the host computes
}

// begin requests experts; with host, those that are in host memory only will be
// computed there. With the last ones of a step, the predictions follow.
func (u *use) begin(experts []int, last, host bool) (list []begun, err error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	u.idle = s.open == 0
	for _, e := range experts {
		b := begun{id: int32(u.layer*s.src.Experts + e)}
		if host && s.at[b.id] == nil {
			if b.copy = s.host.acquire(b.id); b.copy != nil {
				s.engine.OnHost(b.id, 0)
				s.changed.Signal()
				list = append(list, b)
				continue
			}
		}
		if b.transfer, b.demand, err = s.request(u.ctx, b.id); err != nil {
			return list, err
		}
		b.here = b.transfer.ended()
		list = append(list, b)
	}
	if last {
		s.expect(s.engine.Now())
	}
	return list, nil
}

// wait returns the slot of an expert when it is there.
func (u *use) wait(b begun) (*mixtral.ExpertSlot, error) {
	if b.copy != nil {
		return b.copy.slot, nil
	}
	for {
		if !b.transfer.ended() {
			start := time.Now()
			select {
			case <-b.transfer.done:
			case <-u.ctx.Done():
			}
			d := time.Since(start)
			u.stall += d
			u.s.stalled(u.layer, d)
		}
		switch err := u.ctx.Err(); {
		case err != nil:
			return nil, err
		case b.transfer.err == nil:
			return b.transfer.to.slot, nil
		case b.demand:
			return nil, fmt.Errorf("offload: %w", b.transfer.err)
		}
		// It was read ahead, or for a step that was cancelled, which failed.
		again, err := u.begin([]int{int(b.id) % u.s.src.Experts}, false, false)
		if err != nil {
			return nil, err
		}
		b = again[0]
	}
}

// atOnce computes with all experts together.
func (u *use) atOnce(experts []int, host bool) error {
	if pool := u.s.pool(); len(experts) > pool {
		return fmt.Errorf("offload: layer %d: the step needs %d experts at once, there are %d slots: use more, or decode fewer documents together", u.layer, len(experts), pool)
	}
	list, err := u.begin(experts, true, host)
	defer func() {
		for _, b := range list {
			u.s.host.release(b.copy)
		}
	}()
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b begun) int { return int(a.id - b.id) })
	slots := make([]*mixtral.ExpertSlot, len(list))
	sorted := make([]int, len(list))
	demands := 0
	for i, b := range list {
		if slots[i], err = u.wait(b); err != nil {
			return err
		}
		sorted[i] = int(b.id) % u.s.src.Experts
		if b.demand {
			demands++
		}
	}
	start := time.Now()
	err = u.compute(sorted, slots)
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.s.stats.costs.computed(len(list), time.Since(start))
	if u.idle && demands > 0 {
		u.s.stats.costs.demanded(demands, u.stall)
	}
	return err
}

// stream computes with one expert after the other, while the next are read.
func (u *use) stream(experts []int) error {
	s := u.s
	sorted := slices.Sorted(slices.Values(experts))
	s.mu.Lock()
	for _, e := range sorted {
		s.engine.Protect(int32(u.layer*s.src.Experts + e))
	}
	s.mu.Unlock()
	window := 1 + s.o.readers()
	copying := 0 // of those that are not computed
	var list []begun
	for i, e := range sorted {
		for n := len(list); n < len(sorted) && n-i < s.pool() && copying < window; n++ {
			last := n == len(sorted)-1
			more, err := u.begin(sorted[n:n+1], last, false)
			if err != nil {
				return err
			}
			if list = append(list, more...); !more[0].here {
				copying++
			}
			if last && len(sorted) == s.src.Experts {
				s.follow(u.caller, u.layer, window)
			}
		}
		slot, err := u.wait(list[i])
		if err == nil {
			err = u.compute([]int{e}, []*mixtral.ExpertSlot{slot})
		}
		if err != nil {
			return err
		}
		if !list[i].here {
			copying--
		}
		s.mu.Lock()
		s.engine.Release(list[i].id, 0)
		s.mu.Unlock()
		s.changed.Signal()
	}
	return nil
}

// pool is the number of places that a layer's experts can have.
func (s *Store) pool() int {
	if s.o.PerLayer {
		return len(s.places) / s.src.Layers
	}
	return len(s.places)
}
