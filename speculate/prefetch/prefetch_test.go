package prefetch

import (
	"context"
	"encoding/json"
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

// random makes documents of L=3 layers, E=7 experts, K=2 whose choices repeat;
// now and then a choice is missing.
func random(documents, tokens int, seed uint64) speculate.Data {
	const l, e = 3, 7
	rng := rand.New(rand.NewPCG(seed, 5))
	h := trace.Header{Model: trace.Model{Name: "random", Layers: l, Experts: e, TopK: 2}, NoWeights: true}
	var docs []*trace.Document
	for i := range documents {
		d := &trace.Document{Dataset: "a", ID: fmt.Sprint(i), Tokens: make([]int32, tokens+i)}
		for range (tokens + i) * l {
			a := int32(math.Sqrt(float64(rng.IntN(e * e))))
			b := (a + 1 + int32(rng.IntN(e-1))) % e
			if rng.IntN(11) == 0 {
				b = trace.NoExpert
			}
			d.Experts = append(d.Experts, a, b)
		}
		docs = append(docs, d)
	}
	return speculate.Slice(h, docs)
}

// naive counts the hits of a policy in the plainest way: a set of residents,
// and for each miss a look at the whole past or future.
func naive(t *testing.T, data speculate.Data, p Policy, capacity int, perLayer bool) (hits int64) {
	t.Helper()
	m := data.Header.Model
	for d, err := range data.Documents() {
		require.NoError(t, err)
		var requests []int
		for i, e := range d.Experts {
			if e >= 0 {
				requests = append(requests, i/m.TopK%m.Layers*m.Experts+int(e))
			}
		}
		resident := map[int]bool{}
		for i, id := range requests {
			if resident[id] {
				hits++
				continue
			}
			var rivals []int
			for x := range m.Layers * m.Experts {
				if resident[x] && (!perLayer || x/m.Experts == id/m.Experts) {
					rivals = append(rivals, x)
				}
			}
			if len(rivals) == capacity {
				worst, cost := -1, math.Inf(-1)
				for _, x := range rivals {
					last, count, next := 0, 0, len(requests)+x
					for j, y := range requests[:i] {
						if y == x {
							last, count = j, count+1
						}
					}
					for j := len(requests) - 1; j > i; j-- {
						if requests[j] == x {
							next = j
						}
					}
					c := map[Policy]float64{LRU: float64(-last), LFU: -float64(count)*1e6 - float64(last), OPT: float64(next)}[p]
					if c > cost {
						worst, cost = x, c
					}
				}
				delete(resident, worst)
			}
			resident[id] = true
		}
	}
	return hits
}

// largest number of hits of any choice of victims, by trying all.
func exhaustive(requests []int, resident uint, capacity int) int {
	for i, id := range requests {
		if resident>>id&1 == 1 {
			continue
		}
		n, best := 0, 0
		for x := range 8 {
			n += int(resident >> x & 1)
		}
		if n < capacity {
			return i + exhaustive(requests[i+1:], resident|1<<id, capacity)
		}
		for x := range 8 {
			if resident>>x&1 == 1 {
				best = max(best, exhaustive(requests[i+1:], resident&^(1<<x)|1<<id, capacity))
			}
		}
		return i + best
	}
	return len(requests)
}

func TestPolicies(t *testing.T) {
	ctx := context.Background()
	data := random(4, 30, 1)
	for _, perLayer := range []bool{false, true} {
		var sizes []int
		for c := range (Config{PerLayer: perLayer}).most(speculate.ShapeOf(data.Header.Model)) {
			sizes = append(sizes, c+1)
		}
		rates := map[Policy][]Point{}
		for _, p := range []Policy{LRU, LFU, OPT} {
			points, err := HitRates(ctx, data, Config{Policy: p, PerLayer: perLayer}, sizes)
			require.NoError(t, err)
			rates[p] = points
			for i, c := range sizes {
				r, err := Simulate(ctx, data, Config{Policy: p, PerLayer: perLayer, Capacity: c, Load: time.Second, Compute: 2 * time.Second})
				require.NoError(t, err)
				want := naive(t, data, p, c, perLayer)
				assert.Equal(t, want, r.Total.Hits, "%s of %d, per layer %v: simulated %d hits, by stack %d, expected %d", p, c, perLayer, r.Total.Hits, points[i].Total.Hits, want)
				assert.Equal(t, want, points[i].Total.Hits, "%s of %d, per layer %v: simulated %d hits, by stack %d, expected %d", p, c, perLayer, r.Total.Hits, points[i].Total.Hits, want)
				assert.Equal(t, points[i].HitRate, r.HitRate, "%s of %d: simulated %v and %v, by stack %+v", p, c, r.HitRate, r.TransfersPerToken, points[i])
				assert.Equal(t, points[i].TransfersPerToken, r.TransfersPerToken, "%s of %d: simulated %v and %v, by stack %+v", p, c, r.HitRate, r.TransfersPerToken, points[i])
				checkSums(t, r, 1, 2)
				assert.False(t, i > 0 && p != LFU && points[i].HitRate < points[i-1].HitRate, "%s of %d has fewer hits than of %d", p, c, c-1)
			}
			last := points[len(points)-1].Total
			assert.Equal(t, last.Cold, last.Misses, "%s of all experts: %d misses, %d cold", p, last.Misses, last.Cold)
			assert.NotEqual(t, int64(0), last.Cold, "%s of all experts: %d misses, %d cold", p, last.Misses, last.Cold)
		}
		for i := range sizes {
			assert.GreaterOrEqual(t, rates[OPT][i].HitRate, max(rates[LRU][i].HitRate, rates[LFU][i].HitRate), "OPT of %d is not the best", sizes[i])
		}
	}
}

// OPT is what no choice of victims betters.
func TestOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 1))
	h := trace.Header{Model: trace.Model{Layers: 1, Experts: 5, TopK: 1}, NoWeights: true}
	for range 40 {
		d := &trace.Document{Tokens: make([]int32, 13)}
		var requests []int
		for range 13 {
			e := rng.IntN(5)
			requests, d.Experts = append(requests, e), append(d.Experts, int32(e))
		}
		points, err := HitRates(context.Background(), speculate.Slice(h, []*trace.Document{d}), Config{Policy: OPT}, []int{2, 3})
		require.NoError(t, err)
		for _, p := range points {
			require.Equal(t, int64(exhaustive(requests, 0, p.Capacity)), p.Total.Hits, "%v with %d", requests, p.Capacity)
		}
	}
}

func checkSums(t *testing.T, r *Result, load, compute float64) {
	t.Helper()
	for _, c := range append([]Counts{r.Total}, r.Layers...) {
		assert.Equal(t, c.Hits+c.Late+c.Misses, c.Requests)
		assert.Equal(t, c.Used+c.Wasted, c.Prefetched)
		assert.Equal(t, c.Misses+c.Prefetched, c.Transfers)
		assert.GreaterOrEqual(t, c.StallSeconds, float64(c.Misses)*load-1e-9)
	}
	assert.InDelta(t, float64(r.Tokens*len(r.Layers))*compute+r.Total.StallSeconds, r.Seconds, 1e-6)
}

// constant is a predictor whose answers are all the same.
type constant float32

func (constant) Name() string                     { return "constant" }
func (constant) Requires() speculate.Requirements { return speculate.Requirements{} }
func (constant) Supports(speculate.Horizon) bool  { return true }
func (c constant) Predict(_ []speculate.View, out []float32) error {
	for i := range out {
		out[i] = float32(c)
	}
	return nil
}

// wrong names an expert that is never chosen.
type wrong struct{ speculate.Oracle }

func (wrong) Name() string { return "wrong" }
func (wrong) Predict(v []speculate.View, out []float32) error {
	clear(out)
	for i := range v {
		out[(i+1)*v[0].Shape().Experts-1] = 1
	}
	return nil
}

// planted goes round: L=3, E=5, K=1, layer l of token t at expert (t+l)%4.
func planted(tokens int) speculate.Data {
	h := trace.Header{Model: trace.Model{Name: "planted", Layers: 3, Experts: 5, TopK: 1}, NoWeights: true}
	d := &trace.Document{ID: "round", Tokens: make([]int32, tokens)}
	for t := range tokens {
		for l := range 3 {
			d.Experts = append(d.Experts, int32((t+l)%4))
		}
	}
	return speculate.Slice(h, []*trace.Document{d})
}

func simulate(t *testing.T, data speculate.Data, c Config) *Result {
	t.Helper()
	r, err := Simulate(context.Background(), data, c)
	require.NoError(t, err)
	checkSums(t, r, c.Load.Seconds(), c.Compute.Seconds())
	return r
}

// By hand: each layer goes round 4 experts, so 11 of LRU always miss and 12
// miss 12 times.
func TestByHand(t *testing.T) {
	data := planted(10)
	r := simulate(t, data, Config{Capacity: 11, Load: 3 * time.Second, Compute: 2 * time.Second})
	assert.Equal(t, int64(30), r.Total.Misses)
	assert.Equal(t, int64(12), r.Total.Cold)
	assert.Equal(t, float64(30*5), r.Seconds)
	assert.Equal(t, 10./150, r.TokensPerSecond)
	assert.Equal(t, float64(9), r.StallPerToken)
	assert.Equal(t, float64(3), r.TransfersPerToken)
	r = simulate(t, data, Config{Capacity: 12, Load: 3 * time.Second, Compute: 2 * time.Second})
	assert.Equal(t, int64(12), r.Total.Misses)
	assert.Equal(t, 0.6, r.HitRate)
	assert.Equal(t, float64(36), r.Total.StallSeconds)
	assert.Equal(t, int64(4), r.Layers[1].Misses)
	assert.Equal(t, 0.8, r.Resident)

	// A load of 3 s under a layer of 2 s: asked for at the layer before, it is
	// late by 1 s. Layer 0 misses each time.
	c := Config{Capacity: 4, Load: 3 * time.Second, Compute: 2 * time.Second, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 2, Events: 6}
	r = simulate(t, data, c)
	assert.Equal(t, int64(20), r.Total.Late)
	assert.Equal(t, int64(10), r.Total.Misses)
	assert.Equal(t, float64(10*3+20*1), r.Total.StallSeconds)
	assert.Equal(t, int64(20), r.Total.Used)
	assert.Equal(t, int64(0), r.Total.Wasted)
	assert.Equal(t, int64(10), r.Layers[0].Misses)
	want := []Event{
		{"round", 0, 0, 0, Demand, 0, 3}, {"round", 0, 0, 0, Stall, 0, 3}, {"round", 0, 0, -1, Compute, 3, 5},
		{"round", 0, 1, 1, Prefetch, 3, 6}, {"round", 0, 1, 1, Stall, 5, 6}, {"round", 0, 1, -1, Compute, 6, 8},
	}
	assert.Equal(t, fmt.Sprint(want), fmt.Sprint(r.Events))

	// Two layers ahead, layer 2 is there in time; layer 1 misses as well, and its
	// demand waits for the prefetch that has begun: until 3+3, then 3 more.
	c.Horizon.Layers = 2
	r = simulate(t, planted(1), c)
	assert.Equal(t, int64(1), r.Total.Hits)
	assert.Equal(t, int64(2), r.Total.Misses)
	assert.Equal(t, float64(3+4), r.Total.StallSeconds)
	assert.Equal(t, float64(3+2+4+2+2), r.Seconds)
}

func TestOracle(t *testing.T) {
	data := random(3, 40, 2)
	for _, h := range []int{1, 2} {
		c := Config{Capacity: 12, Load: time.Second, Compute: 2 * time.Second, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: h}, Prefetch: 2}
		r := simulate(t, data, c)
		if h == 1 {
			for l := h; l < 3; l++ {
				assert.Equal(t, float64(0), r.Layers[l].StallSeconds, "h=%d: layer %d: %+v", h, l, r.Layers[l])
				assert.Equal(t, int64(0), r.Layers[l].Misses, "h=%d: layer %d: %+v", h, l, r.Layers[l])
			}
		}
		assert.Equal(t, int64(0), r.Total.Wasted)
		assert.NotEqual(t, int64(0), r.Total.Prefetched)
		c.NextToken, c.Compute = true, 10*time.Second
		r = simulate(t, data, c)
		assert.LessOrEqual(t, r.Total.Misses, int64(3*h*2), "h=%d with the next token", h)
		assert.Equal(t, int64(0), r.Total.Late, "h=%d with the next token", h)
	}
}

func TestWrong(t *testing.T) {
	data := planted(10)
	c := Config{Capacity: 12, Load: time.Second, Compute: 2 * time.Second, Predictor: wrong{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1}
	r := simulate(t, data, c)
	assert.Equal(t, int64(0), r.Total.Used)
	assert.NotEqual(t, int64(0), r.Total.Wasted)
	assert.Equal(t, r.Total.Prefetched, r.Total.Wasted)
	assert.Equal(t, int64(0), r.Layers[0].Prefetched)
	c.Predictor, c.Horizon, c.Prefetch = nil, speculate.Horizon{}, 0
	n := simulate(t, data, c)
	assert.GreaterOrEqual(t, n.Total.Hits, r.Total.Hits)
	assert.Less(t, n.Total.Transfers, r.Total.Transfers)
}

// By hand: 2 layers, K=1, room for 3. Layer 0 uses expert 0, layer 1 expert 1;
// the wrong expert 4 is copied for layer 1 each token. Once its layer has passed
// it is the first to go, so 0 and 1 stay and only the cold misses remain. It is
// resident at the next prediction: one copy, wasted.
func TestPrefetchIsNoUse(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 2, Experts: 5, TopK: 1}, NoWeights: true}
	d := &trace.Document{Tokens: make([]int32, 6)}
	for range 6 {
		d.Experts = append(d.Experts, 0, 1)
	}
	d.Experts[4*2] = 3 // token 4 needs room: the prefetched expert's
	r := simulate(t, speculate.Slice(h, []*trace.Document{d}), Config{Capacity: 3, Load: time.Second, Compute: 2 * time.Second, Predictor: wrong{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1})
	// Tokens 0..3: two cold misses, one prefetch. Token 4: expert 3 evicts the
	// prefetched one; layer 1's prefetch of it evicts expert 0, as 3 is in use.
	// Token 5: expert 0 is a miss again, and again evicts the unused prefetch;
	// the last prefetch evicts expert 3, the least recently used.
	c := r.Total
	assert.Equal(t, int64(4), c.Misses)
	assert.Equal(t, int64(8), c.Hits)
	assert.Equal(t, int64(3), c.Prefetched)
	assert.Equal(t, int64(3), c.Wasted)
	assert.Equal(t, float64(4), c.StallSeconds)
	// With room for one there is no room for a prefetch while a layer runs.
	r = simulate(t, speculate.Slice(h, []*trace.Document{d}), Config{Capacity: 1, Load: time.Second, Compute: 2 * time.Second, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1})
	c = r.Total
	assert.Equal(t, int64(0), c.Prefetched)
	assert.Equal(t, int64(6), c.Dropped)
	assert.Equal(t, int64(0), c.Hits)
}

// A prefetcher's hit rates by one pass are those of a simulation each, for
// predictors that are between right and wrong, and every policy and scope.
func TestHitRatesWithPredictor(t *testing.T) {
	ctx := context.Background()
	data := random(5, 25, 3)
	p := &speculate.Transition{}
	hs := []speculate.Horizon{{Layers: 1}, {Layers: 2}, {}}
	require.NoError(t, speculate.Fit(ctx, data, hs, p))
	for _, policy := range []Policy{LRU, LFU, OPT} {
		for _, perLayer := range []bool{false, true} {
			c := Config{Policy: policy, PerLayer: perLayer, Load: 300 * time.Millisecond, Compute: 500 * time.Millisecond, Predictor: p, Horizon: hs[1], Prefetch: 3, NextToken: true}
			sizes := []int{6, 1, 4}
			points, err := HitRates(ctx, data, c, sizes)
			require.NoError(t, err)
			for i, n := range sizes {
				c.Capacity = n
				r := simulate(t, data, c)
				assert.Equal(t, r.Total, points[i].Total, "%s of %d: %+v in one pass, %+v alone", policy, n, points[i].Total, r.Total)
				assert.Equal(t, n, points[i].Capacity, "%s of %d: %+v in one pass, %+v alone", policy, n, points[i].Total, r.Total)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	r := simulate(t, planted(2), Config{Capacity: 4, Load: time.Second, Compute: 2 * time.Second, Events: 3, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 2}, Prefetch: 1})
	raw, err := json.Marshal(r)
	require.NoError(t, err)
	var back Result
	require.NoError(t, json.Unmarshal(raw, &back))
	assert.Equal(t, fmt.Sprint(*r), fmt.Sprint(back))
	empty := speculate.Slice(planted(1).Header, nil)
	r = simulate(t, empty, Config{Capacity: 1})
	raw, err = json.Marshal(r)
	require.NoError(t, err, "no documents: %s, %v", raw, err)
	assert.Equal(t, 0, r.Tokens, "no documents: %s, %v", raw, err)
}

func TestRefusals(t *testing.T) {
	data := planted(3)
	oracle := Config{Capacity: 4, Load: time.Second, Compute: time.Second, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1}
	with := func(f func(*Config)) Config {
		c := oracle
		f(&c)
		return c
	}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "capacity is 0"},
		{Config{Capacity: 16}, "1 to 15"},
		{Config{Capacity: 6, PerLayer: true}, "1 to 5"},
		{Config{Capacity: 1, Policy: "FIFO"}, "FIFO"},
		{Config{Capacity: 1, Load: 3 * time.Hour}, "3h0m0s"},
		{Config{Capacity: 1, Compute: -time.Second}, "-1s"},
		{Config{Capacity: 1, Events: -1}, "events"},
		{Config{Capacity: 1, Prefetch: 1}, "without a predictor"},
		{with(func(c *Config) { c.Horizon.Layers = 3 }), "3 layers"},
		{with(func(c *Config) { c.Nearer, c.Prefetch = true, 0 }), "to prefetch"},
		{with(func(c *Config) { c.Prefetch = 6 }), "1 to 5"},
		{with(func(c *Config) { c.Load = 0 }), "must be positive"},
		{with(func(c *Config) { c.Predictor = &speculate.Transition{} }), "transition"},
	} {
		_, err := Simulate(context.Background(), data, c.cfg)
		assert.ErrorContains(t, err, c.want, "%+v", c.cfg)
	}
	_, err := HitRates(context.Background(), data, Config{}, []int{3, 99})
	assert.ErrorContains(t, err, "99")
	bad := &trace.Document{Dataset: "a", ID: "b", Tokens: []int32{1}, Experts: []int32{0, 9, 0}}
	_, err = Simulate(context.Background(), speculate.Slice(data.Header, []*trace.Document{bad}), oracle)
	assert.ErrorContains(t, err, `document "b" of data set "a"`)
	_, err = Simulate(context.Background(), data, with(func(c *Config) { c.Predictor = constant(math.NaN()) }))
	assert.ErrorContains(t, err, "predictor constant: layer 1 at h=1: token 0, expert 0: got probability NaN")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Simulate(ctx, data, oracle)
	assert.ErrorIs(t, err, context.Canceled)
}

// skewed makes documents of a model's shape whose routing is like a trained one's: the
// experts of a layer are chosen unequally, and often those of the token before.
func skewed(m trace.Model, documents, tokens int) speculate.Data {
	rng := rand.New(rand.NewPCG(4, 5))
	lk := m.Layers * m.TopK
	var docs []*trace.Document
	for i := range documents {
		d := &trace.Document{ID: fmt.Sprint(i), Tokens: make([]int32, tokens)}
		for row := range tokens * m.Layers {
			at := row * m.TopK
			for k := range m.TopK {
				e := int32(float64(m.Experts) * math.Pow(rng.Float64(), 1.5))
				if row >= m.Layers && rng.IntN(3) == 0 {
					e = d.Experts[at-lk+k]
				}
				for slices.Contains(d.Experts[at:], e) {
					e = (e + 1) % int32(m.Experts)
				}
				d.Experts = append(d.Experts, e)
			}
		}
		docs = append(docs, d)
	}
	return speculate.Slice(trace.Header{Model: m, NoWeights: true}, docs)
}

// Requests a second of documents in memory, validated, with half of the experts
// resident; of the shapes of Mixtral 8x7B and DeepSeek-V2-Lite.
func BenchmarkRequests(b *testing.B) {
	const documents, tokens = 4, 512
	for _, m := range []trace.Model{{Layers: 32, Experts: 8, TopK: 2}, {Layers: 26, Experts: 64, TopK: 6}} {
		data := skewed(m, documents, tokens)
		for _, policy := range policies {
			for _, perLayer := range []bool{false, true} {
				b.Run(fmt.Sprintf("%dx%d/%s/per layer=%v", m.Layers, m.Experts, policy, perLayer), func(b *testing.B) {
					c := Config{Policy: policy, PerLayer: perLayer, Hold: true, Load: time.Millisecond, Compute: time.Millisecond}
					c.Capacity = c.most(speculate.ShapeOf(m)) / 2
					for b.Loop() {
						_, err := Simulate(context.Background(), data, c)
						require.NoError(b, err)
					}
					b.ReportMetric(float64(b.N)*documents*tokens*float64(m.Layers*m.TopK)/b.Elapsed().Seconds(), "requests/s")
				})
			}
		}
	}
}

func BenchmarkHitRates(b *testing.B) {
	data := random(4, 1000, 4)
	for b.Loop() {
		_, err := HitRates(context.Background(), data, Config{Policy: OPT}, []int{1, 5, 9, 13, 17, 21})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4006, "ns/token")
}
