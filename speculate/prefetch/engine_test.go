package prefetch

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever a driver asks, an Engine holds no more than its capacity, evicts nothing
// that the current step uses, says what it evicts, and counts everything.
func TestEngineInvariants(t *testing.T) {
	s := speculate.Shape{Layers: 3, Experts: 7, TopK: 2}
	for _, cfg := range []Config{
		{Capacity: 2}, {Capacity: 5, Policy: LFU}, {Capacity: 9, Policy: DecayedLFU, HalfLife: 1}, {Capacity: 4, Policy: OnDemand},
		{Capacity: 3, PerLayer: true}, {Capacity: 2, PerLayer: true, Policy: DecayedLFU}, {Capacity: 21},
		{Capacity: 9, Policy: Reuse, HalfLife: 1}, {Capacity: 3, PerLayer: true, Policy: Reuse}, {Capacity: 8, Policy: Static},
		{Capacity: 4, PerLayer: true, Policy: Static, Static: []int32{6, 20, 13, 3, 17, 12}}, {Capacity: 8, Policy: Static, Static: []int32{6, 20}},
	} {
		e, err := NewEngine(s, cfg)
		require.NoError(t, err)
		e.most = 400 // restarts now and then
		rng := rand.New(rand.NewPCG(1, 2))
		resident, current := map[int32]bool{}, map[int32]bool{}
		place := func(id, victim int32) {
			if victim >= 0 {
				require.True(t, resident[victim], "%+v: %d evicted", cfg, victim)
				require.False(t, current[victim], "%+v: %d evicted while used", cfg, victim)
				require.NotContains(t, cfg.Static, victim, "%+v: a pinned one is evicted", cfg)
				require.True(t, !cfg.PerLayer || victim/7 == id/7)
				delete(resident, victim)
			}
			require.False(t, resident[id])
			resident[id] = true
		}
		var requests, misses, prefetched int64
		for step := range int64(900) {
			at, leave := e.Step()
			require.Equal(t, step, at)
			for _, id := range leave {
				require.True(t, cfg.Policy == OnDemand && current[id] && resident[id])
				delete(resident, id)
			}
			clear(current)
			l := int32(step % 3)
			for _, x := range rng.Perm(7)[:2] {
				id := l*7 + int32(x)
				was, victim, ok := e.Request(id, false)
				require.True(t, ok)
				require.Equal(t, resident[id], was)
				requests++
				if current[id] = true; !was {
					misses++
					place(id, victim)
				}
			}
			e.Expire()
			if l == 2 {
				for to := range 3 {
					p := make([]float32, 7)
					for i := range p {
						p[i] = rng.Float32()
					}
					e.Score(to, p)
				}
			}
			e.Want([]int32{(l+1)%3*7 + rng.Int32N(7), (l+1)%3*7 + rng.Int32N(7), -1, 3}, step+1, step)
			if rng.IntN(4) > 0 {
				for at, ok := e.Next(); ok; at, ok = e.Next() {
					require.Equal(t, step, at)
					id, victim, for_, ok := e.Start()
					if ok {
						require.Equal(t, step+1, for_)
						place(id, victim)
						prefetched++
						e.Arrived()
					}
				}
			}
			if rng.IntN(9) == 0 { // a copy failed
				for id := range resident {
					if !current[id] {
						e.Remove(id)
						delete(resident, id)
						break
					}
				}
			}
			n := 0
			for id := range int32(21) {
				require.Equal(t, resident[id], e.Resident(id))
				if resident[id] && (!cfg.PerLayer || id/7 == l) {
					n++
				}
			}
			require.LessOrEqual(t, n, cfg.Capacity)
		}
		e.clear()
		_, c := e.Counts()
		assert.Equal(t, []int64{requests, misses, prefetched, misses + prefetched}, []int64{c.Requests, c.Misses, c.Prefetched, c.Transfers}, "%+v", cfg)
		assert.Equal(t, c.Requests, c.Hits+c.Late+c.Misses)
		assert.Equal(t, c.Prefetched, c.Used+c.Wasted)
		if cfg.Capacity == 9 {
			assert.Positive(t, c.Used)
			assert.Positive(t, c.Wasted)
		}
	}
}

// A step of more experts than there are places must release some; what is released
// may be evicted, and what is held may not.
func TestEngineRelease(t *testing.T) {
	e, err := NewEngine(speculate.Shape{Layers: 1, Experts: 5, TopK: 2}, Config{Capacity: 2})
	require.NoError(t, err)
	e.Step()
	for id := range int32(2) {
		_, victim, ok := e.Request(id, false)
		require.True(t, ok)
		require.EqualValues(t, -1, victim)
	}
	_, _, ok := e.Request(2, false)
	require.False(t, ok)
	_, total := e.Counts()
	assert.EqualValues(t, 2, total.Requests, "what cannot be served is not counted")
	e.Release(1, 0)
	_, victim, ok := e.Request(2, false)
	require.True(t, ok)
	assert.EqualValues(t, 1, victim)
	e.Release(2, 0)
	_, _, ok = e.Request(1, false)
	require.True(t, ok)
	_, total = e.Counts()
	assert.Equal(t, []int64{4, 3}, []int64{total.Requests, total.Cold})
}

// Decayed LFU is what its definition says: the sum over an expert's requests of
// 2^-(age/half-life), however many half-lives pass.
func TestDecayedLFU(t *testing.T) {
	s := speculate.Shape{Layers: 2, Experts: 5, TopK: 2}
	e, err := NewEngine(s, Config{Capacity: 3, Policy: DecayedLFU, HalfLife: 2})
	require.NoError(t, err)
	e.use.weight = 0x1p870
	e.use.sum[9], e.use.key[9] = 0x1p-1030, int64(math.Float64bits(0x1p-1030)) // of long ago
	rng := rand.New(rand.NewPCG(3, 4))
	var past []int32
	for range 600 {
		e.Step()
		id := int32(math.Sqrt(float64(rng.IntN(81)))) // never 9
		score := func(x int32) (sum float64) {
			for i, y := range past {
				if x == y {
					sum += math.Exp2(-float64(len(past)-i) / (2 * 2 * 2))
				}
			}
			return sum
		}
		resident, victim, _ := e.Request(id, false)
		if !resident && victim >= 0 {
			for x := range int32(10) {
				if x != id && e.Resident(x) {
					require.Greater(t, score(x), score(victim), "%d evicted after %v", victim, past)
				}
			}
		}
		past = append(past, id)
	}
	require.Less(t, e.use.weight, 0x1p100, "it was rescaled")
	require.Less(t, e.use.key[9], int64(0))
}

// Predicted reuse evicts the expert of the least mean of how often tokens chose it and
// how likely the next one is to, where that is known.
func TestReuse(t *testing.T) {
	s := speculate.Shape{Layers: 3, Experts: 5, TopK: 1}
	e, err := NewEngine(s, Config{Capacity: 5, Policy: Reuse, HalfLife: 3})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	var past []int32
	known := map[int32]float64{}
	differ := 0
	for step := range 900 {
		e.Step()
		l := int32(step % 3)
		id := 5*l + int32(math.Sqrt(float64(rng.IntN(25))))
		often := func(x int32) (sum float64) {
			for i, y := range past {
				if x == y {
					sum += math.Exp2(-float64(len(past)-1-i)/(3*3)) * (1 - math.Exp2(-1./3))
				}
			}
			return sum
		}
		worth := func(x int32) float64 {
			if p, ok := known[x]; ok && x/5 != l {
				return .7*often(x) + .3*p
			}
			return often(x)
		}
		resident, victim, _ := e.Request(id, false)
		if !resident && victim >= 0 {
			for x := range int32(15) {
				if x == id || !e.Resident(x) {
					continue
				}
				require.GreaterOrEqual(t, worth(x), worth(victim)-1e-6, "step %d: %d evicted, not %d", step, victim, x)
				if often(x) < often(victim) {
					differ++
				}
			}
		}
		past = append(past, id)
		for x := range int32(5) {
			delete(known, 5*l+x)
		}
		if l < 2 || step%2 == 0 {
			continue
		}
		for to := range int32(3) {
			p, q := make([]float32, 5), make([]float32, 5) // two documents
			for i := range p {
				p[i], q[i] = rng.Float32(), rng.Float32()/2
				known[5*to+int32(i)] = 1 - float64((1-p[i])*(1-q[i]))
			}
			e.Score(int(to), p)
			e.Score(int(to), q)
		}
	}
	require.Greater(t, differ, 20)
}

// A nearer prediction of a step replaces what a farther one asked for; several in one
// step add up; what a step needs now, or needed, leaves the queue; those for earlier
// steps precede.
func TestQueue(t *testing.T) {
	e, err := NewEngine(speculate.Shape{Layers: 4, Experts: 5, TopK: 2}, Config{Capacity: 15, InFlight: 9})
	require.NoError(t, err)
	ids := func() (out []int32) {
		for _, w := range e.queue {
			out = append(out, w.id)
		}
		for id := range int32(20) {
			require.Equal(t, slices.Contains(out, id), e.queued[id])
		}
		return out
	}
	e.Step()
	e.Want([]int32{10, 11, -1}, 2, 0)
	e.Want([]int32{12, -1}, 2, 0) // of another document
	e.Want([]int32{5, 6}, 1, 0)
	require.Equal(t, []int32{5, 6, 10, 11, 12}, ids())
	id, _, step, ok := e.Start()
	require.True(t, ok)
	require.Equal(t, []int64{5, 1}, []int64{int64(id), step})
	e.Step() // 1
	e.Request(6, false)
	e.Expire()
	require.Equal(t, []int32{10, 11, 12}, ids())
	e.Want([]int32{13, 11}, 2, 1)
	e.Want([]int32{10, -1}, 2, 1)
	require.Equal(t, []int32{13, 11, 10}, ids())
	_, c := e.Counts()
	require.EqualValues(t, 3, c.Dropped, "6 was needed, 10 and 12 were no longer predicted")
	e.Step() // 2
	e.Expire()
	require.Empty(t, ids())
	_, c = e.Counts()
	require.EqualValues(t, 6, c.Dropped)
}

// Places are kept for experts that are pinned; a step that needs more than the others
// takes them, but not from experts that it uses.
func TestStatic(t *testing.T) {
	e, err := NewEngine(speculate.Shape{Layers: 2, Experts: 6, TopK: 2}, Config{Capacity: 4, Policy: Static, Static: []int32{4, 11, 5}})
	require.NoError(t, err)
	request := func(id, victim int32, fits bool) {
		t.Helper()
		_, v, ok := e.Request(id, false)
		require.Equal(t, fits, ok)
		require.Equal(t, victim, v)
	}
	e.Step()
	request(0, -1, true)
	request(1, -1, true)
	e.Step()
	request(6, 0, true) // with two free places, for 4 and 11
	request(4, -1, true)
	e.Step()
	request(0, 1, true)
	request(1, 6, true)
	request(2, -1, true) // the place of 11
	e.Step()
	for _, id := range []int32{0, 1, 2} {
		request(id, -1, true)
	}
	request(3, 4, true)
	e.Step()
	request(4, 0, true)
	for _, x := range [][2]int32{{5, 1}, {6, 2}, {7, 3}} {
		request(x[0], x[1], true)
	}
	request(8, -1, false)
}

// On demand, everything misses, whatever the capacity; with enough room and Hold, a
// policy does not.
func TestOnDemand(t *testing.T) {
	ctx, data := context.Background(), random(2, 40, 3)
	for _, capacity := range []int{2, 21} {
		r, err := Simulate(ctx, data, Config{Capacity: capacity, Policy: OnDemand, Hold: true})
		require.NoError(t, err)
		assert.Equal(t, r.Total.Requests, r.Total.Misses)
		points, err := HitRates(ctx, data, Config{Policy: OnDemand}, []int{capacity})
		require.NoError(t, err)
		assert.Zero(t, points[0].HitRate)
	}
	r, err := Simulate(ctx, data, Config{Capacity: 21, Hold: true})
	require.NoError(t, err)
	assert.Equal(t, r.Total.Cold, r.Total.Misses)
}

// HitRates with Hold are those of simulations; without, of the stack, also for
// DecayedLFU.
func TestHitRatesHold(t *testing.T) {
	ctx, data := context.Background(), random(3, 60, 4)
	for _, cfg := range []Config{{Policy: DecayedLFU}, {Policy: DecayedLFU, PerLayer: true}, {Policy: LFU, Hold: true}} {
		points, err := HitRates(ctx, data, cfg, []int{2, 5, 7})
		require.NoError(t, err)
		for _, p := range points {
			cfg.Capacity = p.Capacity
			r, err := Simulate(ctx, data, cfg)
			require.NoError(t, err)
			assert.Equal(t, r.Total.Hits, p.Total.Hits, "%+v", cfg)
		}
	}
	_, err := HitRates(ctx, data, Config{Hold: true}, []int{1})
	require.ErrorContains(t, err, "capacity is 1 experts, of which a layer needs 2 at once")
}

func TestEngineRefusals(t *testing.T) {
	s := speculate.Shape{Layers: 2, Experts: 5, TopK: 2}
	for want, cfg := range map[string]Config{
		"knows the future": {Capacity: 2, Policy: OPT},
		"capacity is 11":   {Capacity: 11},
		"capacity is 6":    {Capacity: 6, PerLayer: true},
		`policy is "x"`:    {Capacity: 3, Policy: "x"},
		"half-life is -1":  {Capacity: 3, HalfLife: -1},
	} {
		_, err := NewEngine(s, cfg)
		require.ErrorContains(t, err, want)
	}
	_, err := NewEngine(speculate.Shape{}, Config{Capacity: 1})
	require.Error(t, err)
}

// What the host computed is copied for the next token, unless the policy would evict it
// before what is in the cache; a prediction for an earlier step precedes.
func TestOnHost(t *testing.T) {
	s := speculate.Shape{Layers: 3, Experts: 4, TopK: 1}
	for policy, copied := range map[Policy]bool{LRU: true, DecayedLFU: false} {
		e, err := NewEngine(s, Config{Capacity: 2, Policy: policy})
		require.NoError(t, err)
		for range 3 { // tokens
			for _, id := range []int32{0, 4} {
				e.Step()
				_, _, ok := e.Request(id, false)
				require.True(t, ok)
			}
			e.Step()
		}
		e.OnHost(9, 0)
		e.Step()
		id, victim, step, ok := e.Start()
		assert.EqualValues(t, 9, id)
		assert.Equal(t, copied, ok, policy)
		if ok {
			assert.EqualValues(t, 0, victim)
		}
		assert.EqualValues(t, 8+3, step)

		e.OnHost(10, 0)
		e.Want([]int32{10}, 10, 0)
		_, _, step, ok = e.Start()
		assert.True(t, ok, "it is predicted")
		assert.EqualValues(t, 10, step)
	}
}
