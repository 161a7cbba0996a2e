package offload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate/prefetch"
)

// Store holds the experts of one model. It implements [mixtral.ExpertStore].
type Store struct {
	o    Options
	src  mixtral.ExpertSource // Read is that of the checkpoint, as changed by options
	host *hostTier            // nil: none
	turn chan struct{}        // held by the step that uses experts
	stop context.CancelFunc   // ends reading ahead
	ctx  context.Context      // of reading ahead

	mu        sync.Mutex
	changed   sync.Cond // signals readers
	engine    *prefetch.Engine
	places    []*place
	free      []*place
	at        []*place // [L*E]; nil: not in a slot
	demands   []*transfer
	wants     []want            // predictions since the last step
	following []context.Context // [L] of the step of many tokens that reads a layer ahead; nil: none
	open      int               // transfers that have not ended
	readers   sync.WaitGroup
	closed    bool
	stats     counters
}

// place is a slot and what is in it.
type place struct {
	slot *mixtral.ExpertSlot
	id   int32     // layer*E+expert; -1: none
	last *transfer // into it; nil: none so far
}

// transfer is the reading of an expert into a place.
type transfer struct {
	ctx   context.Context
	id    int32
	to    *place
	ahead bool      // a prefetch
	after *transfer // which must have ended: it writes to the same place
	done  chan struct{}
	err   error // once done
}

func (t *transfer) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// want is a prediction for a step as many steps ahead.
type want struct {
	ids    []int32
	ahead  int64
	layer  int
	scores []float32 // [E] for policy Reuse; nil: none
}

// New returns a store that a model is to be loaded with.
func New(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Store{o: o}, nil
}

// Plan implements [mixtral.ExpertStore]. The error is about limits that are too low for
// the model.
func (s *Store) Plan(src mixtral.ExpertSource) (slots, copies int, err error) {
	if slots, err = s.o.slots(src); err != nil {
		return 0, 0, err
	}
	if s.o.PerLayer {
		slots *= src.Layers
	}
	return slots, int(min(s.o.HostMemory/int64(src.Bytes), int64(src.Layers*src.Experts))), nil
}

// Open allocates the slots. The error is about limits that are too low for the model.
func (s *Store) Open(src mixtral.ExpertSource) error {
	if s.turn != nil {
		return errors.New("offload: the store is that of another model")
	}
	n, err := s.o.slots(src)
	if err != nil {
		return err
	}
	if s.engine, err = prefetch.NewEngine(shapeOf(src), s.o.config(n)); err != nil {
		return err
	}
	if s.o.wrap != nil {
		src.Read = s.o.wrap(src.Read)
	}
	if s.o.Bandwidth > 0 {
		src.Read = throttled(src.Read, s.o.Bandwidth)
	}
	s.src, s.at = src, make([]*place, src.Layers*src.Experts)
	if s.o.PerLayer {
		n *= src.Layers
	}
	for range n {
		slot, err := src.NewSlot()
		if err != nil {
			return fmt.Errorf("offload: slot %d of %d: %w", len(s.places), n, err)
		}
		s.places = append(s.places, &place{slot: slot, id: -1})
	}
	s.free = slices.Clone(s.places)
	if s.o.HostMemory > 0 {
		s.host = newHostTier(int(s.o.HostMemory/int64(src.Bytes)), src)
	}
	s.stats.open(src.Layers)
	s.following = make([]context.Context, src.Layers)
	s.turn = make(chan struct{}, 1)
	s.changed.L = &s.mu
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range s.o.readers() {
		s.readers.Go(s.reader)
	}
	return nil
}

func (o *Options) readers() int {
	if o.Readers == 0 {
		return 2
	}
	return o.Readers
}

// Close ends reading and waits for it.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	s.readers.Wait()
	return nil
}

// Use implements [mixtral.ExpertStore]. Steps that run concurrently use experts one
// after the other.
func (s *Store) Use(ctx context.Context, rt *mixtral.Routing, experts []int, few bool, compute func([]int, []*mixtral.ExpertSlot) error) (err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	own, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.mu.Lock()
		s.following[rt.Layer] = nil
		s.engine.Unfollow(rt.Layer)
		s.mu.Unlock()
	}()
	u := &use{s: s, caller: ctx, ctx: own, layer: rt.Layer, compute: compute}
	s.step(rt)
	if few || len(experts) <= s.src.TopK {
		err = u.atOnce(experts, few && s.o.Host)
	} else {
		err = u.stream(experts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.wants = s.wants[:0]
	} else {
		s.stats.leave(rt)
	}
	return err
}

// step begins a step of the engine.
func (s *Store) step(rt *mixtral.Routing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, leave := s.engine.Step()
	for _, id := range leave {
		s.empty(s.at[id])
	}
	s.stats.enter(rt)
}

// empty makes a place free.
func (s *Store) empty(p *place) {
	s.at[p.id] = nil
	p.id = -1
	s.free = append(s.free, p)
}

// occupy assigns a place to an expert, that of victim or, for -1, a free one.
func (s *Store) occupy(ctx context.Context, id, victim int32) *transfer {
	if victim >= 0 {
		s.empty(s.at[victim])
	}
	p := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	p.id, s.at[id] = id, p
	s.open++
	p.last = &transfer{ctx: ctx, id: id, to: p, after: p.last, done: make(chan struct{})}
	return p.last
}

// request serves the choice of an expert: it returns the transfer after which it is in
// its place, and whether that is one on demand.
func (s *Store) request(ctx context.Context, id int32) (t *transfer, demand bool, err error) {
	arriving := s.at[id] != nil && !s.at[id].last.ended()
	resident, victim, ok := s.engine.Request(id, arriving)
	switch {
	case !ok:
		return nil, false, fmt.Errorf("offload: no slot is free for expert %d of layer %d", int(id)%s.src.Experts, int(id)/s.src.Experts)
	case resident:
		return s.at[id].last, false, nil
	}
	t = s.occupy(ctx, id, victim)
	s.demands = append(s.demands, t)
	s.changed.Signal()
	return t, true, nil
}

// expect queues what was predicted since the last step.
func (s *Store) expect(step int64) {
	s.engine.Expire()
	for _, w := range s.wants {
		s.engine.Want(w.ids, step+w.ahead, 0)
		if w.scores != nil {
			s.engine.Score(w.layer, w.scores)
		}
	}
	if len(s.wants) > 0 {
		s.changed.Broadcast()
	}
	s.wants = s.wants[:0]
}

// follow reads ahead experts of the next layer, until ctx ends.
func (s *Store) follow(ctx context.Context, layer, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.Follow(layer, n, 0)
	if layer+1 < s.src.Layers {
		s.following[layer+1] = ctx
	}
	s.changed.Broadcast()
}
