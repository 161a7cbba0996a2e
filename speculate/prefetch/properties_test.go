package prefetch

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shapes are asymmetric.
var shapes = []trace.Model{{Layers: 3, Experts: 7, TopK: 2}, {Layers: 2, Experts: 5, TopK: 3}, {Layers: 5, Experts: 4, TopK: 1}, {Layers: 1, Experts: 9, TopK: 2}}

// Without a prefetcher no policy hits more often than OPT: with Hold no other that
// holds, without it none at all; and OPT itself hits less often with Hold.
func TestBeladyNeverLoses(t *testing.T) {
	ctx := context.Background()
	for i, m := range shapes {
		data := skewed(m, 2, 60)
		static, err := MostFrequent(ctx, data)
		require.NoError(t, err)
		n := m.Layers * m.Experts
		var others []Config
		for _, p := range policies {
			others = append(others, Config{Policy: p, HalfLife: 1 + i})
		}
		others = append(others, Config{Policy: Static, Static: static},
			Config{Policy: Reuse, Predictor: speculate.Oracle{}, Load: 1, Compute: 1}, Config{Policy: Reuse, Predictor: constant(.5), Load: 1, Compute: 1})
		strict := 0
		for _, perLayer := range []bool{false, true} {
			for _, batch := range []int{1, 2} {
				sizes := []int{2 * m.TopK, n/2 + 1, n - 1}
				if perLayer {
					sizes = []int{min(batch*m.TopK, m.Experts), m.Experts - 1, m.Experts}
				}
				for _, size := range sizes {
					if size < m.TopK || size > n || perLayer && size < min(batch*m.TopK, m.Experts) {
						continue
					}
					opt := map[bool]int64{}
					for _, hold := range []bool{false, true} {
						c := Config{Policy: OPT, Capacity: size, PerLayer: perLayer, Hold: hold, Batch: batch}
						opt[hold] = simulateAny(t, data, c).Total.Hits
						for _, o := range others {
							o.Capacity, o.PerLayer, o.Hold, o.Batch = size, perLayer, hold, batch
							got := simulateAny(t, data, o).Total.Hits
							require.LessOrEqual(t, got, opt[hold], "%+v of %+v", o, m)
							if got < opt[hold] {
								strict++
							}
						}
					}
					require.LessOrEqual(t, opt[true], opt[false])
				}
			}
		}
		require.Greater(t, strict, 50)
	}
}

func simulateAny(t *testing.T, data speculate.Data, c Config) *Result {
	t.Helper()
	r, err := Simulate(context.Background(), data, c)
	require.NoError(t, err, "%+v", c)
	for _, x := range append([]Counts{r.Total}, r.Layers...) {
		require.Equal(t, x.Requests, x.Hits+x.Late+x.Misses+x.Host, "%+v", c)
		require.Equal(t, x.Prefetched, x.Used+x.Wasted, "%+v", c)
		require.Equal(t, x.Transfers, x.Misses+x.Prefetched, "%+v", c)
		require.LessOrEqual(t, x.Cold, x.Requests)
	}
	return r
}

// With Hold, OPT is what no choice of victims betters that keeps what a layer uses.
func TestOptimalHold(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 1))
	h := trace.Header{Model: trace.Model{Layers: 1, Experts: 6, TopK: 2}, NoWeights: true}
	lost := 0
	for range 60 {
		d := &trace.Document{Tokens: make([]int32, 7)}
		for range 7 {
			p := rng.Perm(6)
			d.Experts = append(d.Experts, int32(p[0]), int32(p[1]))
		}
		data := speculate.Slice(h, []*trace.Document{d})
		best := map[bool]int64{}
		for _, hold := range []bool{false, true} {
			best[hold] = int64(exhaustiveHold(d.Experts, 0, 0, 3, hold))
			require.Equal(t, best[hold], simulateAny(t, data, Config{Policy: OPT, Capacity: 3, Hold: hold}).Total.Hits, "%v, hold %v", d.Experts, hold)
		}
		if best[true] < best[false] {
			lost++
		}
	}
	require.Positive(t, lost, "holding makes a difference")
}

// exhaustiveHold is exhaustive, from request i on, with K=2.
func exhaustiveHold(requests []int32, i int, resident uint, capacity int, hold bool) int {
	if i == len(requests) {
		return 0
	}
	if resident>>requests[i]&1 == 1 {
		return 1 + exhaustiveHold(requests, i+1, resident, capacity, hold)
	}
	n := 0
	for x := range 8 {
		n += int(resident >> x & 1)
	}
	if n < capacity {
		return exhaustiveHold(requests, i+1, resident|1<<requests[i], capacity, hold)
	}
	best := 0
	for x := range int32(8) {
		if resident>>x&1 == 1 && !(hold && i%2 == 1 && x == requests[i-1]) {
			best = max(best, exhaustiveHold(requests, i+1, resident&^(1<<x)|1<<requests[i], capacity, hold))
		}
	}
	return best
}

// With a place for each expert, each misses once a batch, whatever the policy.
func TestAllPlaces(t *testing.T) {
	for _, m := range shapes {
		data := skewed(m, 3, 40)
		for _, p := range policies {
			for _, perLayer := range []bool{false, true} {
				c := Config{Policy: p, PerLayer: perLayer, Hold: true, Load: 3, Compute: 2, Prompt: 5}
				c.Capacity = c.most(speculate.ShapeOf(m))
				r := simulateAny(t, data, c)
				if p == OnDemand {
					c.Prompt = 0
					require.Zero(t, simulateAny(t, data, c).Total.Hits)
					continue
				}
				require.LessOrEqual(t, r.Total.Transfers, int64(3*m.Layers*m.Experts), "%+v", c)
				require.Positive(t, r.Total.Hits)
				c.Prompt = 0 // prompts are copied ahead
				r = simulateAny(t, data, c)
				require.Equal(t, r.Total.Cold, r.Total.Misses, "%+v", c)
				require.Zero(t, r.Total.Prefetched)
			}
		}
	}
}

// An oracle with enough bandwidth and room never stalls, but for what nothing could
// announce: the first layers of a document, and without NextToken of a token.
func TestOracleNeverStalls(t *testing.T) {
	for _, m := range shapes {
		data := skewed(m, 3, 40)
		for h := 1; h < min(m.Layers, 4); h++ {
			for _, perLayer := range []bool{false, true} {
				for _, next := range []bool{false, true} {
					c := Config{Capacity: (h + 1) * m.TopK, PerLayer: perLayer, Hold: true, Load: 5, Latency: 2, Streams: 3, InFlight: 3, Compute: time.Duration(5*m.TopK + 2),
						Rest: 7, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: h}, Prefetch: m.TopK, NextToken: next}
					c.Capacity = min(c.Capacity, c.most(speculate.ShapeOf(m)))
					r := simulateAny(t, data, c)
					for l := h; l < m.Layers; l++ {
						require.Zero(t, r.Layers[l].StallSeconds, "%+v, layer %d", c, l)
						require.Zero(t, r.Layers[l].Misses+r.Layers[l].Late, "%+v, layer %d", c, l)
					}
					require.Positive(t, r.Total.StallSeconds)
					if next {
						require.LessOrEqual(t, r.Total.Misses, int64(3*h*m.TopK), "%+v", c)
						require.Zero(t, r.Total.Late)
					}
					c.Load, c.Compute = c.Load*3, c.Compute/3+time.Duration(m.TopK)
					require.Greater(t, simulateAny(t, data, c).Total.StallSeconds, r.Total.StallSeconds, "with too little bandwidth")
				}
			}
		}
		// One token ahead, the whole path.
		c := Config{Capacity: m.Layers * m.Experts, Hold: true, Load: 1, Compute: time.Duration(m.TopK), Predictor: speculate.Oracle{}, Prefetch: m.TopK}
		r := simulateAny(t, data, c)
		require.LessOrEqual(t, r.Total.Misses, int64(3*m.Layers*m.TopK))
		require.Zero(t, r.Total.Late)
	}
}

// Whatever is configured, the times add up, copies share the channel and the streams,
// prefetches keep their limit, and computing waits while nothing else happens.
func TestTimes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 9))
	seen := map[Kind]bool{}
	for n := range 400 {
		m := shapes[rng.IntN(len(shapes))]
		data := skewed(m, 1+rng.IntN(4), 1+rng.IntN(40))
		k := time.Duration(m.TopK)
		c := Config{
			Policy: policies[rng.IntN(len(policies))], PerLayer: rng.IntN(2) == 0, Hold: true, Load: time.Duration(1 + rng.IntN(40)), Latency: time.Duration(rng.IntN(20)),
			Streams: rng.IntN(4), Compute: 9 * k, Rest: time.Duration(rng.IntN(30)), Batch: rng.IntN(3), Prompt: rng.IntN(9), Events: 1 << 20,
		}
		c.Capacity = min(m.TopK+1+rng.IntN(9), c.most(speculate.ShapeOf(m)))
		if rng.IntN(3) == 0 {
			c.Host = time.Duration(1 + rng.IntN(60))
		}
		if rng.IntN(3) > 0 && m.Layers > 1 {
			c.Predictor, c.Prefetch, c.Decision = constant(.3), 1+rng.IntN(m.Experts), time.Duration(rng.IntN(4))
			if rng.IntN(2) == 0 {
				c.Predictor = speculate.Oracle{}
			}
			switch rng.IntN(4) {
			case 0:
			case 1:
				c.Horizon.KnownID = true
			default:
				c.Horizon.Layers = 1 + rng.IntN(m.Layers-1)
				c.Nearer, c.NextToken = rng.IntN(2) == 0, rng.IntN(2) == 0
			}
			c.InFlight, c.Adaptive = rng.IntN(3), rng.IntN(2) == 0
		}
		r := simulateAny(t, data, c)
		name := fmt.Sprintf("%d: %+v of %+v", n, c, m)
		passes := 0
		for i := 0; i < r.Documents; i += max(1, c.Batch) {
			passes += 1 + max(0, r.Tokens/r.Documents-max(1, c.Prompt))
		}
		whole := time.Duration(passes) * (time.Duration(m.Layers)*c.Compute + c.Rest)
		require.InDelta(t, whole.Seconds()+r.Total.StallSeconds+r.DecisionSeconds, r.Seconds, 1e-12, name)
		kinds := []Kind{Compute, Stall, Predict, Demand, Prefetch}
		var demands, prefetches int
		for d, events := range byDocument(r.Events) {
			var lanes [5][]Event
			for _, e := range events {
				seen[e.Kind] = true
				if i := slices.Index(kinds, e.Kind); i >= 0 {
					lanes[i] = append(lanes[i], e)
				}
			}
			demands, prefetches = demands+len(lanes[3]), prefetches+len(lanes[4])
			copies := slices.Concat(lanes[3], lanes[4])
			require.LessOrEqual(t, most(slices.Concat(lanes[0], lanes[1], lanes[2])), 1, name, d)
			require.LessOrEqual(t, most(copies), max(1, c.Streams), name, d)
			limit := c.InFlight
			if limit == 0 {
				limit = max(1, c.Streams-1)
			}
			require.LessOrEqual(t, most(lanes[4]), limit, name, d)
			slices.SortFunc(copies, func(a, b Event) int { return int(ns(a.End) - ns(b.End)) })
			for i := range copies[:max(0, len(copies)-1)] { // they take turns on the channel
				require.GreaterOrEqual(t, ns(copies[i+1].End)-ns(copies[i].End), int64(c.Load), name, d)
			}
		}
		require.EqualValues(t, r.Total.Misses, demands, name)
		require.EqualValues(t, r.Total.Prefetched, prefetches, name)
		require.True(t, c.Host > 0 || r.Total.Host == 0, name)
	}
	for _, k := range []Kind{Compute, Stall, Predict, Demand, Prefetch, Host} {
		assert.True(t, seen[k], k)
	}
}

// most is the maximum number of events at a time.
func most(events []Event) (n int) {
	type edge struct {
		at int64
		by int
	}
	var edges []edge
	for _, e := range events {
		edges = append(edges, edge{ns(e.Start), 1}, edge{ns(e.End), -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.by - b.by
	})
	now := 0
	for _, e := range edges {
		now += e.by
		n = max(n, now)
	}
	return n
}

func ns(seconds float64) int64 { return int64(math.Round(seconds * 1e9)) }

func byDocument(events []Event) map[string][]Event {
	by := map[string][]Event{}
	for _, e := range events {
		by[e.Document] = append(by[e.Document], e)
	}
	return by
}

// Several simulations at once are those one by one, and must predict the same.
func TestSimulateAll(t *testing.T) {
	ctx := context.Background()
	data := skewed(shapes[0], 3, 50)
	for _, c := range []Config{
		{}, {Policy: OPT, Batch: 2}, {Policy: Reuse, Predictor: speculate.Oracle{}, Prefetch: 1, Horizon: speculate.Horizon{Layers: 1}},
		{Policy: DecayedLFU, Predictor: constant(.5), Prefetch: 3, Horizon: speculate.Horizon{Layers: 2}, Nearer: true, NextToken: true, Adaptive: true, Decision: 1},
	} {
		var cfgs []Config
		for _, size := range []int{4, 9, 17} {
			for _, load := range []time.Duration{3, 70} {
				c.Capacity, c.Load, c.Compute, c.Hold = size, load, 10, true
				cfgs = append(cfgs, c)
			}
		}
		all, err := SimulateAll(ctx, data, cfgs)
		require.NoError(t, err)
		require.Len(t, all, len(cfgs))
		for i, r := range all {
			require.Equal(t, simulateAny(t, data, cfgs[i]), r)
		}
		other := cfgs[1]
		other.Prefetch++
		if c.Predictor == nil {
			other.Policy = Reuse
			other.Predictor = constant(.5)
		}
		_, err = SimulateAll(ctx, data, []Config{cfgs[0], other})
		require.ErrorContains(t, err, "configuration 1 predicts otherwise than the first")
	}
	all, err := SimulateAll(ctx, data, nil)
	require.NoError(t, err)
	require.Empty(t, all)
}
