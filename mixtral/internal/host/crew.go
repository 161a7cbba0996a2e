// Package host is what executors on the processor's cores share: goroutines that
// compute parts of products, and panels of activations (see package kernel).
package host

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/expertspec/expertspec/mixtral/internal/kernel"
)

// crew is goroutines that compute parts of a step's products. Decoding one token
// takes hundreds of products of microseconds: while it lasts, goroutines wait for the
// next by reading memory, since to wake a sleeping one takes longer than a product.
type crew struct {
	job     atomic.Pointer[crewJob]
	parked  atomic.Int32
	mu      sync.Mutex
	changed sync.Cond
	workers sync.WaitGroup
}

// crewJob is f(worker, i) for i in [0,n).
type crewJob struct {
	f          func(worker, i int)
	n          int64
	next, done atomic.Int64
}

// crewSpins is how often a worker looks for a job before it sleeps: some 50 us.
const crewSpins = 2000

// newCrew starts n workers, which stop ends; they are numbered from 1.
func newCrew(n int) *crew {
	c := new(crew)
	c.changed.L = &c.mu
	for i := range n {
		c.workers.Go(func() { c.work(i + 1) })
	}
	return c
}

// run calls f(worker, i) for all i in [0,n), and as worker 0 itself.
func (c *crew) run(n int, f func(worker, i int)) {
	j := &crewJob{f: f, n: int64(n)}
	c.post(j)
	j.work(0)
	for spins := 0; j.done.Load() < j.n; spins++ {
		if spins < crewSpins {
			kernel.Pause()
		} else { // a worker may be waiting for a processor
			runtime.Gosched()
		}
	}
}

// stop ends the workers.
func (c *crew) stop() {
	c.post(&crewJob{n: -1})
	c.workers.Wait()
}

func (c *crew) post(j *crewJob) {
	c.job.Store(j)
	if c.parked.Load() > 0 {
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	}
}

func (c *crew) work(worker int) {
	var last *crewJob
	for spins := 0; ; spins++ {
		j := c.job.Load()
		switch {
		case j != last && j.n < 0:
			return
		case j != last:
			j.work(worker)
			last, spins = j, 0
		case spins < crewSpins:
			kernel.Pause()
		default:
			c.park(last)
		}
	}
}

// park waits for a job after last.
func (c *crew) park(last *crewJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parked.Add(1)
	for c.job.Load() == last {
		c.changed.Wait()
	}
	c.parked.Add(-1)
}

func (j *crewJob) work(worker int) {
	for {
		i := j.next.Add(1) - 1
		if i >= j.n {
			return
		}
		j.f(worker, int(i))
		j.done.Add(1)
	}
}
