package prefetch

import (
	"context"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// document makes one of L=2 layers, E=6 experts, K=2.
func document(id string, experts ...int32) *trace.Document {
	return &trace.Document{ID: id, Tokens: make([]int32, len(experts)/4), Experts: experts}
}

func documents(docs ...*trace.Document) speculate.Data {
	return speculate.Slice(trace.Header{Model: trace.Model{Layers: 2, Experts: 6, TopK: 2}, NoWeights: true}, docs)
}

// By hand, in seconds: each part of the model of costs.
func TestCostsByHand(t *testing.T) {
	one := documents(document("a", 0, 1, 2, 3))
	base := Config{Capacity: 4, Hold: true, Load: 5 * time.Second, Compute: 10 * time.Second}
	seconds := func(data speculate.Data, change func(*Config)) float64 {
		c := base
		change(&c)
		return simulateAny(t, data, c).Seconds
	}
	assert.Equal(t, 2.*(5+5+10), seconds(one, func(*Config) {}))
	// One stream: latency and load of each copy; two: the second's latency passes while
	// the first is copied.
	assert.Equal(t, 2.*(3+5+3+5+10), seconds(one, func(c *Config) { c.Latency = 3 * time.Second }))
	assert.Equal(t, 2.*(3+5+5+10), seconds(one, func(c *Config) { c.Latency, c.Streams = 3*time.Second, 2 }))
	// A latency that is longer than the load hides it: the second copy has had its own.
	assert.Equal(t, 2.*(8+5+5+10), seconds(one, func(c *Config) { c.Latency, c.Streams = 8*time.Second, 2 }))
	assert.Equal(t, 40.+7, seconds(one, func(c *Config) { c.Rest = 7 * time.Second }))
	// One prediction follows layer 0, which copies both experts of layer 1 while layer 0 computes.
	ahead := func(c *Config) {
		c.Predictor, c.Horizon, c.Prefetch, c.Decision = speculate.Oracle{}, speculate.Horizon{Layers: 1}, 2, 2*time.Second
	}
	assert.Equal(t, 2.+5+5+10+10, seconds(one, ahead))
	// Where computing takes long, a decision may cost more than it saves.
	assert.Greater(t, seconds(one, func(c *Config) { ahead(c); c.Decision = 11 * time.Second }), 40.)
	// The host computes one expert in 6 s, while the other is copied in 5 s and computed
	// with what is left of the layer: 10-3 s, beside the host.
	assert.Equal(t, 2.*(5+7), seconds(one, func(c *Config) { c.Host, c.Expert = 6*time.Second, 3*time.Second }))
	// In 3 s, both: the second ends after 6 s, a copy after 5 s. With 2 s, both on the host, beside 4 s of the device.
	assert.Equal(t, 2.*(5+7), seconds(one, func(c *Config) { c.Host, c.Expert = 3*time.Second, 3*time.Second }))
	assert.Equal(t, 2.*4, seconds(one, func(c *Config) { c.Host, c.Expert = 2*time.Second, 3*time.Second }))
	// The layer ends when both have ended.
	assert.Equal(t, 2.*38, seconds(one, func(c *Config) { c.Host, c.Load, c.Compute = 19*time.Second, 40*time.Second, 4*time.Second }))
	// With the token's id known, all layers are predicted as it begins; at distances 2 and
	// 1, the third layer twice.
	assert.Equal(t, 2*2+5+5+10+10., seconds(one, func(c *Config) { ahead(c); c.Horizon = speculate.Horizon{KnownID: true}; c.Load = 5 * time.Second }))
	three := planted(1)
	assert.Equal(t, 2., simulateAny(t, three, Config{Capacity: 9, Load: 1, Compute: 1, Predictor: constant(.1), Prefetch: 1, Horizon: speculate.Horizon{Layers: 1}, Decision: time.Second}).DecisionSeconds)
	assert.Equal(t, 3., simulateAny(t, three, Config{Capacity: 9, Load: 1, Compute: 1, Predictor: constant(.1), Prefetch: 1, Horizon: speculate.Horizon{Layers: 2}, Nearer: true, Decision: time.Second}).DecisionSeconds)
}

// What the host computed is copied for the next token.
func TestHostThenCopied(t *testing.T) {
	r := simulateAny(t, documents(document("a", 0, 1, 2, 3, 0, 1, 2, 3)), Config{Capacity: 4, Hold: true, Load: 5 * time.Second, Compute: 20 * time.Second, Host: time.Second, Events: 99})
	assert.Equal(t, Counts{Requests: 8, Hits: 4, Host: 4, Cold: 4, Prefetched: 4, Used: 4, Transfers: 4}, r.Total)
	assert.Equal(t, 80., r.Seconds)
}

// Two documents decoded together request each expert of a step once; the longer one
// goes on alone.
func TestBatchByHand(t *testing.T) {
	a := document("a", 0, 1, 2, 3, 0, 1, 2, 3)
	b := document("b", 1, 4, 3, 2)
	base := Config{Capacity: 12, Hold: true, Batch: 2, Load: 5 * time.Second, Compute: 10 * time.Second, Expert: 4 * time.Second}
	r := simulateAny(t, documents(a, b), base)
	assert.EqualValues(t, 3+2+2+2, r.Total.Requests)
	assert.EqualValues(t, 5, r.Total.Misses)
	assert.EqualValues(t, 4, r.Total.Hits)
	assert.Equal(t, 3, r.Tokens)
	assert.Equal(t, 3*5.+10+4+2*5+10+10+10, r.Seconds)
	// Apart, each begins with an empty cache.
	base.Batch = 0
	assert.EqualValues(t, 8, simulateAny(t, documents(a, b), base).Total.Misses)
	// Predictions are made for each document, and their experts copied.
	base.Batch = 2
	base.Predictor, base.Horizon, base.Prefetch, base.Decision = speculate.Oracle{}, speculate.Horizon{Layers: 1}, 2, time.Second
	r = simulateAny(t, documents(a, document("b", 1, 4, 5, 2)), base)
	assert.EqualValues(t, 0, r.Layers[1].Misses)
	assert.EqualValues(t, 3, r.Layers[1].Prefetched)
	assert.Equal(t, 3., r.DecisionSeconds)
	// A prompt is one step, of which nothing is predicted but by its end.
	base.Batch, base.Prompt = 1, 2
	r = simulateAny(t, documents(a), base)
	assert.EqualValues(t, 4, r.Total.Requests)
	assert.Zero(t, r.DecisionSeconds)
	base.NextToken, base.Prompt = true, 1
	r = simulateAny(t, documents(a), base)
	assert.Equal(t, 3., r.DecisionSeconds, "layer 1 of two tokens, layer 0 of the second")
}

// Of a step of more than K experts, with room for two, each is copied once and computed
// while the next is copied.
func TestStreamByHand(t *testing.T) {
	data := documents(document("a", 0, 1, 0, 1, 5, 4, 0, 2))
	r := simulateAny(t, data, Config{Capacity: 2, Hold: true, Prompt: 2, Load: 5 * time.Second, Compute: 10 * time.Second, Expert: 4 * time.Second})
	// Layer 0 uses 0, 1, 4, 5, which are there at 5, 10, 15, 20 and computed until 9, 14,
	// 19, 24, and the rest of the layer until 26; layer 1 uses 0, 1, 2, likewise.
	assert.EqualValues(t, 7, r.Total.Misses)
	assert.Equal(t, 47., r.Seconds)
	assert.Equal(t, 8., r.Layers[0].StallSeconds)
	assert.Equal(t, 7., r.Layers[1].StallSeconds)
}

// By hand: a copy into the place of one that is under way begins when that has ended.
func TestPlaceUnderWay(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 2, Experts: 4, TopK: 1}, NoWeights: true}
	d := &trace.Document{Tokens: make([]int32, 3), Experts: []int32{0, 0, 1, 0, 2, 0}}
	r := simulateAny(t, speculate.Slice(h, []*trace.Document{d}), Config{Capacity: 3, Hold: true, Load: 10 * time.Second, Latency: 4 * time.Second, Streams: 2,
		Compute: 3 * time.Second, Predictor: wrong{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1})
	// Expert 3 of layer 1 is copied from 37 on, behind the demand for 1, until 61. At 57
	// expert 2 of layer 0 takes its place: 61+4+10.
	assert.Equal(t, 75.+3+3, r.Seconds)
	assert.EqualValues(t, 3, r.Total.Wasted)
}

// A prompt that uses all experts of a layer has the first of the next copied ahead.
func TestFollow(t *testing.T) {
	d := document("a", 0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5)
	r := simulateAny(t, documents(d), Config{Capacity: 6, Hold: true, Prompt: 3, Load: 5 * time.Second, Compute: 10 * time.Second})
	assert.EqualValues(t, 12, r.Total.Transfers)
	assert.EqualValues(t, 2, r.Layers[1].Used)
}

// A wrong predictor costs time where copies are slow, and an adaptive prefetcher finds
// out; it keeps what a right one saves.
func TestAdaptive(t *testing.T) {
	m := trace.Model{Layers: 6, Experts: 9, TopK: 2}
	data := skewed(m, 4, 400)
	base := Config{Capacity: 27, Policy: DecayedLFU, Hold: true, Load: 30 * time.Second, Compute: 10 * time.Second, Streams: 2}
	without := simulateAny(t, data, base)
	base.Predictor, base.Horizon, base.Prefetch = wrong{}, speculate.Horizon{Layers: 1}, 2
	fixed := simulateAny(t, data, base)
	base.Adaptive = true
	adaptive := simulateAny(t, data, base)
	cost := func(r *Result) float64 { return r.StallPerToken - without.StallPerToken }
	require.Greater(t, cost(fixed), 10.)
	assert.Less(t, cost(adaptive), cost(fixed)/2)

	base.Predictor, base.Adaptive, base.Load = speculate.Oracle{}, false, 8*time.Second
	fixed = simulateAny(t, data, base)
	base.Adaptive = true
	adaptive = simulateAny(t, data, base)
	without = simulateAny(t, data, Config{Capacity: 27, Policy: DecayedLFU, Hold: true, Load: 8 * time.Second, Compute: 10 * time.Second, Streams: 2})
	require.Less(t, cost(fixed), -10.)
	assert.Less(t, cost(adaptive), .75*cost(fixed))
}

// A predictor that knows the next token makes predicted reuse hit more often.
func TestReuseHits(t *testing.T) {
	ctx := context.Background()
	m := trace.Model{Layers: 5, Experts: 9, TopK: 2}
	data := skewed(m, 3, 200)
	base := Config{Capacity: 20, Hold: true, Policy: DecayedLFU, HalfLife: 32, Load: 1, Compute: 1, Decision: 1}
	lfu := simulateAny(t, data, base)
	base.Policy = Reuse
	alone := simulateAny(t, data, base)
	assert.InDelta(t, lfu.HitRate, alone.HitRate, .01, "without a predictor it is decayed LFU")
	base.Predictor = speculate.Oracle{}
	known := simulateAny(t, data, base)
	assert.Greater(t, known.HitRate, lfu.HitRate+.01)
	assert.Zero(t, known.Total.Prefetched)
	assert.InDelta(t, float64(3*199*5)*1e-9, known.DecisionSeconds, 1e-15, "each layer of the next token, but for the last")
	points, err := HitRates(ctx, data, base, []int{20})
	require.NoError(t, err)
	assert.Equal(t, known.HitRate, points[0].HitRate)
}

func TestMostFrequent(t *testing.T) {
	ids, err := MostFrequent(context.Background(), documents(document("a", 5, 1, 2, 3, 5, 4, 3, 0), document("b", 5, 4, 1, 3)))
	require.NoError(t, err)
	assert.Equal(t, []int32{5, 9, 4, 1, 6, 7, 8, 0, 2, 3, 10, 11}, ids)
}

// What is pinned stays, once it is there; the others share two places.
func TestStaticByHand(t *testing.T) {
	data := documents(document("a", 0, 1, 2, 3, 4, 5, 2, 3, 0, 1, 2, 3, 4, 5, 2, 3))
	c := Config{Capacity: 4, Hold: true, Policy: Static, Static: []int32{1, 8}}
	// 0, 3 of layer 1, 4 and 5 share two places: of these 3 alone is there once again.
	r := simulateAny(t, data, c)
	assert.EqualValues(t, 11, r.Total.Misses)
	assert.EqualValues(t, []int64{1, 4}, []int64{r.Layers[0].Hits, r.Layers[1].Hits})
	c.Static = nil // the first two: 0 and 1 of layer 0
	r = simulateAny(t, data, c)
	assert.EqualValues(t, []int64{2, 2}, []int64{r.Layers[0].Hits, r.Layers[1].Hits})
	// Their places are kept until they are requested, and those that a step uses stay.
	c = Config{Capacity: 4, Hold: true, Policy: Static, Batch: 2, Static: []int32{4, 11}}
	r = simulateAny(t, documents(document("a", 0, 1, 0, 1, 0, 1, 4, 5), document("b", 4, 2, 0, 1, 0, 1, 4, 5)), c)
	assert.EqualValues(t, []int64{4 + 2, 2 + 2}, []int64{r.Layers[0].Misses, r.Layers[1].Misses}, "%+v", r)
	// A step of more experts than the others have places for takes some of pinned ones.
	c = Config{Capacity: 4, Hold: true, Policy: Static, Batch: 2, Static: []int32{4, 5}}
	r = simulateAny(t, documents(document("a", 4, 5, 0, 1, 0, 1, 0, 1, 4, 5, 0, 1), document("b", 4, 5, 0, 1, 2, 3, 0, 1, 4, 5, 0, 1)), c)
	assert.EqualValues(t, []int64{8, 4}, []int64{r.Layers[0].Misses, r.Layers[1].Misses})
}
