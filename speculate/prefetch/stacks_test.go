package prefetch

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model of an encoder and a decoder; every axis has a length of its own.
const sEnc, sL, sE = 2, 5, 7

var stacksModel = trace.Model{Name: "stacks", Layers: sL, Experts: sE, TopK: 1, Vocabulary: 11,
	Stacks: []trace.Stack{{Name: trace.Encoder, Layers: sEnc}, {Name: trace.Decoder, Layers: sL - sEnc}}}

// stacked makes documents of the first encoded tokens and others whose choices repeat.
func stacked(documents, encoded, tokens int) speculate.Data {
	h := trace.Header{Model: stacksModel, Dropped: true}
	rng := rand.New(rand.NewPCG(7, 1))
	var last [sL]int32
	r := tracetest.Router{Header: h, Prompt: encoded, Capacity: 2, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		if rng.IntN(3) > 0 {
			last[s.Layer] = int32(rng.IntN(1 + rng.IntN(sE)))
		}
		return []int32{last[s.Layer]}
	})}
	docs := r.Documents(documents, tokens, 3)
	return speculate.Slice(h, docs)
}

// requestsOf lists what a document asks for: of an encoder layer each expert once.
func requestsOf(d *trace.Document) (ids []int32) {
	enc := d.Encoded()
	for l := range sEnc {
		seen := map[int32]bool{}
		for t := range enc {
			if e := d.ExpertsAt(&stacksModel, t, l)[0]; !seen[e] {
				seen[e] = true
				ids = append(ids, int32(l*sE)+e)
			}
		}
	}
	for t := enc; t < d.Len(); t++ {
		for l := sEnc; l < sL; l++ {
			ids = append(ids, int32(l*sE)+d.ExpertsAt(&stacksModel, t, l)[0])
		}
	}
	return ids
}

// Hits and requests are those of a plain cache on the list of requests, OPT bounds
// every policy, and a cache of all places misses each expert once.
func TestStacksRequests(t *testing.T) {
	data := stacked(3, 9, 40)
	var want [sL]int64
	distinct := int64(0)
	lru := map[int]int64{}
	for d, err := range data.Documents() {
		require.NoError(t, err)
		seen := map[int32]bool{}
		for _, id := range requestsOf(d) {
			want[id/sE]++
			seen[id] = true
		}
		distinct += int64(len(seen))
		for _, size := range []int{1, 4, 11} {
			var order []int32 // least recent first
			for _, id := range requestsOf(d) {
				hit := false
				for i, x := range order {
					if x == id {
						order, hit = append(order[:i], order[i+1:]...), true
						break
					}
				}
				if hit {
					lru[size]++
				}
				if order = append(order, id); len(order) > size {
					order = order[1:]
				}
			}
		}
	}
	for _, hold := range []bool{false, true} {
		for _, size := range []int{1, 4, 11, sL*sE - 1, sL * sE} {
			opt := simulateAny(t, data, Config{Policy: OPT, Capacity: size, Hold: hold}).Total.Hits
			for _, p := range policies {
				r := simulateAny(t, data, Config{Policy: p, Capacity: size, Hold: hold})
				for l, c := range r.Layers {
					require.Equal(t, want[l], c.Requests, "%s, layer %d", p, l)
				}
				if hold || p != LRU || size > 11 {
					require.LessOrEqual(t, r.Total.Hits, opt, "%s of %d, hold %v", p, size, hold)
				} else {
					require.Equal(t, lru[size], r.Total.Hits, "%d", size)
				}
				if size == sL*sE && p != OnDemand && !hold {
					require.Equal(t, distinct, r.Total.Misses, p)
				}
			}
		}
	}
	points, err := HitRates(t.Context(), data, Config{}, []int{1, 4, 11})
	require.NoError(t, err)
	for _, x := range points {
		assert.Equal(t, lru[x.Capacity], x.Total.Hits)
	}
	ids, err := MostFrequent(t.Context(), data)
	require.NoError(t, err)
	assert.Len(t, ids, sL*sE)
	assert.GreaterOrEqual(t, int(ids[0]), sEnc*sE, "a step of all tokens asks once")
}

// Computing takes one step a layer of the encoder and one a token and layer of the
// decoder; nothing is predicted in the encoder, and no stall is left to an oracle in
// the decoder where something could announce it.
func TestStacksTimes(t *testing.T) {
	const encoded, tokens = 9, 40
	data := stacked(3, encoded, tokens)
	for _, hold := range []bool{false, true} {
		for _, batch := range []int{1, 3} {
			for _, prompt := range []int{1, 4} {
				c := Config{Capacity: sL * sE, Hold: hold, Load: 5, Latency: 2, Streams: 3, InFlight: 3, Compute: 7, Rest: 3, Batch: batch, Prompt: prompt, Events: 1 << 16,
					Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 1}, Prefetch: 1, Decision: 1}
				r := simulateAny(t, data, c)
				steps, passes := 0, 0
				for i := 0; i < 3; i += batch { // documents are longer by one each
					n := tokens + min(i+batch, 3) - 1 - encoded
					passes += 2 + n - prompt
					steps += sEnc + (1+n-prompt)*(sL-sEnc)
				}
				whole := time.Duration(steps)*c.Compute + time.Duration(passes)*c.Rest
				assert.InDelta(t, whole.Seconds()+r.Total.StallSeconds+r.DecisionSeconds, r.Seconds, 1e-12)
				decoded := 0 // tokens in steps of one
				for i := range 3 {
					decoded += tokens + i - encoded - prompt
					if prompt == 1 {
						decoded++
					}
				}
				assert.InDelta(t, float64(decoded*(sL-sEnc-1))*1e-9, r.DecisionSeconds, 1e-15)
				for l, x := range r.Layers {
					if l <= sEnc { // nothing announces the decoder's first layer
						assert.Zero(t, x.Prefetched, l)
					}
					if l > sEnc && prompt == 1 && batch == 1 {
						assert.Zero(t, x.StallSeconds, l)
						assert.Positive(t, x.Prefetched)
					}
				}
				for _, e := range r.Events {
					require.Equal(t, e.Token < encoded, e.Layer < sEnc, "%+v", e)
					require.True(t, e.Token == 0 || e.Token >= encoded, "%+v", e)
				}
			}
		}
	}
}

// Documents without an encoder's tokens are decoded as those of the decoder alone.
func TestStacksDecoderAlone(t *testing.T) {
	whole := stacked(3, 9, 40)
	part := whole.Decoder()
	h := whole.Header
	var docs []*trace.Document
	for d, err := range part.Documents() {
		require.NoError(t, err)
		back := &trace.Document{Dataset: d.Dataset, ID: d.ID, Tokens: d.Tokens}
		for tok := range d.Tokens {
			for range sEnc {
				back.Experts, back.Weights, back.Dropped = append(back.Experts, trace.NoExpert), append(back.Weights, 0), append(back.Dropped, false)
			}
			at := tok * (sL - sEnc)
			back.Experts = append(back.Experts, d.Experts[at:at+sL-sEnc]...)
			back.Weights = append(back.Weights, d.Weights[at:at+sL-sEnc]...)
			back.Dropped = append(back.Dropped, d.Dropped[at:at+sL-sEnc]...)
		}
		docs = append(docs, back)
	}
	for i, p := range policies {
		for _, hz := range []speculate.Horizon{{}, {KnownID: true}, {Layers: 1}, {Layers: 2}} {
			c := Config{Policy: p, Capacity: 4 + i, Hold: true, Load: 5, Compute: 7, Rest: 2, Predictor: speculate.Oracle{}, Horizon: hz, Prefetch: 2, Decision: 1,
				NextToken: hz.Layers > 0, Nearer: hz.Layers > 1, Batch: 1 + i%2}
			want, got := simulateAny(t, part, c), simulateAny(t, speculate.Slice(h, docs), c)
			name := fmt.Sprintf("%s at %v", p, hz)
			assert.Equal(t, want.Total, got.Total, name)
			assert.Equal(t, want.Layers, got.Layers[sEnc:], name)
			assert.Equal(t, want.Seconds, got.Seconds, name)
			// With the encoder's tokens before, the decoder's requests are the same.
			all := simulateAny(t, whole, c)
			for l := range sL - sEnc {
				assert.Equal(t, want.Layers[l].Requests, all.Layers[sEnc+l].Requests, name)
			}
		}
	}
	_, err := Simulate(t.Context(), whole, Config{Capacity: 3, Predictor: speculate.Oracle{}, Horizon: speculate.Horizon{Layers: 3}, Prefetch: 1, Load: 1, Compute: 1})
	assert.ErrorContains(t, err, "horizon of 3 layers in a model of 3")
}
