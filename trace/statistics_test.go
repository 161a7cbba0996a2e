package trace_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRandomRouter expects the analytic values: 12.5 % and about 46 % repeated
// assignments, full entropy, no information between layers.
func TestRandomRouter(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 3, Experts: 8, TopK: 2}, LogitLayers: []int{1}}
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{Segments: []int{1, 8}, CacheSizes: []int{2, 4}})
	require.NoError(t, err)
	const docs, tokens = 60, 500
	rng := rand.New(rand.NewPCG(4, 9))
	router := tracetest.Router{Header: h, Rule: func(s *tracetest.Step) {
		for _, e := range rng.Perm(8)[:2] {
			s.Experts = append(s.Experts, int32(e))
		}
	}}
	for i := range docs {
		require.NoError(t, s.Add(router.Document(fmt.Sprint("set-", i%3), fmt.Sprint(i), make([]int32, tokens))))
	}
	r := s.Summary()
	near := func(name string, got, want, within float64) {
		t.Helper()
		assert.InDelta(t, want, got, within, name)
	}
	assert.Equal(t, int64(docs), r.Documents)
	assert.Equal(t, int64(docs*tokens), r.Tokens)
	require.Len(t, r.Datasets, 3)
	assert.Equal(t, int64(20*tokens), r.Datasets[2].Tokens)
	for _, l := range r.Overall.Layers {
		near("first choice repeated", l.RepeatedFirst, .125, .008)
		near("first or second repeated", l.RepeatedAny, 1-30./56, .012)
		near("random first", l.RandomRepeatedFirst, .125, 0)
		near("random any", l.RandomRepeatedAny, 1-30./56, 1e-12)
		near("entropy", l.Usage.Normalized, 1, 1e-3)
		near("Gini", l.Usage.Gini, 0, .02)
		near("share", l.Share[5], .125, .005)
		near("weight", l.MeanWeights[1], .5, 1e-6)
		near("SRP of one token", l.Local[0].SRP, 1, 0)
		near("cache of K over one token", l.Local[0].Cache[0].HitRate, 1, 0)
		// Of 8 experts with c ~ Binomial(8, 1/4), the threshold 1 activates most.
		near("SRP of 8", l.Local[1].SRP, binomialSRP(8, .25), .01)
		if l.Layer == 1 {
			near("router entropy", *l.RouterEntropy, 3, 1e-9)
		} else {
			assert.Nil(t, l.RouterEntropy)
		}
	}
	for _, x := range r.Transitions {
		near("mutual information", x.FirstMutualInformation, 0, 5e-3)
		near("mutual information of all", x.MutualInformation, 0, 5e-3)
	}
	near("pairs", float64(r.Coactivation[2][3][6]), docs*tokens/28., 200)
	got := r.Positions[0]
	assert.Equal(t, int32(0), got.From)
	assert.Equal(t, int32(0), got.To)
	assert.Equal(t, int64(docs), got.Tokens)
	assert.Equal(t, int32(4), r.Positions[3].From)
	assert.Equal(t, int32(7), r.Positions[3].To)
}

// binomialSRP is SRP where each expert's count is Binomial(m, p), p = K/E.
func binomialSRP(m int, p float64) float64 {
	var matches, active, best float64
	for n := m; n >= 1; n-- {
		c := 1.0
		for i := range n {
			c *= float64(m-i) / float64(n-i)
		}
		q := c * math.Pow(p, float64(n)) * math.Pow(1-p, float64(m-n))
		matches += q * float64(n)
		active += q
		best = max(best, 2*matches/(active*float64(m)+p*float64(m)))
	}
	return max(best, 2*p/(1+p))
}

// TestPlantedStatistics compares everything with a direct computation from the
// definitions.
func TestPlantedStatistics(t *testing.T) {
	h := plantedHeader()
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{Segments: []int{3, 7}, CacheSizes: []int{5, 3}})
	require.NoError(t, err)
	var docs []*trace.Document
	for i := range 17 {
		d := plantedDocument(i, plantedLen(i), h)
		docs = append(docs, d)
		require.NoError(t, s.Add(d))
	}
	r := s.Summary()
	m := &h.Model
	for l := range plantedL {
		got := r.Overall.Layers[l]
		var counts, first [plantedE]int64
		var pairs, same, some, weight, n float64
		var together [plantedE][plantedE]int64
		for _, d := range docs {
			for tok := range d.Len() {
				now := d.ExpertsAt(m, tok, l)
				first[now[0]]++
				weight += float64(d.WeightsAt(m, tok, l)[2])
				n++
				for _, e := range now {
					counts[e]++
					for _, f := range now {
						if e != f {
							together[e][f]++
						}
					}
				}
				if tok == 0 || d.Position(tok) != d.Position(tok-1)+1 {
					continue
				}
				last := d.ExpertsAt(m, tok-1, l)
				pairs++
				if last[0] == now[0] {
					same++
				}
				if slices.ContainsFunc(now, func(e int32) bool { return slices.Contains(last, e) }) {
					some++
				}
			}
		}
		assert.Equal(t, counts[:], got.Counts)
		assert.Equal(t, first[:], got.FirstCounts)
		assert.Equal(t, same/pairs, got.RepeatedFirst, "layer %d", l)
		assert.Equal(t, some/pairs, got.RepeatedAny, "layer %d", l)
		assert.InDelta(t, weight/n, got.MeanWeights[2], 1e-9, "layer %d", l)
		for e := range together {
			assert.Equal(t, together[e][:], r.Coactivation[l][e])
		}
		for i, size := range []int{3, 7} {
			want := bruteLocality(docs, m, l, size, []int{3, 5})
			x := got.Local[i]
			assert.Equal(t, size, x.Segment, "layer %d, segments of %d", l, size)
			assert.InDelta(t, want[0], x.SRP, 1e-12, "layer %d, segments of %d", l, size)
			assert.InDelta(t, want[1], x.Cache[0].HitRate, 1e-12, "layer %d, segments of %d", l, size)
			assert.InDelta(t, want[2], x.Cache[1].HitRate, 1e-12, "layer %d, segments of %d", l, size)
		}
	}
	for l, x := range r.Transitions {
		all, first := make([]int64, plantedE*plantedE), make([]int64, plantedE*plantedE)
		for _, d := range docs {
			for tok := range d.Len() {
				a, b := d.ExpertsAt(m, tok, l), d.ExpertsAt(m, tok, l+1)
				first[a[0]*plantedE+b[0]]++
				for _, e := range a {
					for _, f := range b {
						all[e*plantedE+f]++
					}
				}
			}
		}
		assert.Equal(t, all, slices.Concat(x.Counts...))
		assert.Equal(t, first, slices.Concat(x.FirstCounts...))
		assert.Equal(t, l, x.From)
	}
	entropy := 0.0
	for _, d := range docs {
		for tok := range d.Len() {
			entropy += bruteEntropy(d.RouterLogits[(tok*4+1)*plantedE : (tok*4+2)*plantedE])
		}
	}
	assert.InDelta(t, entropy/float64(r.Tokens), *r.Overall.Layers[2].RouterEntropy, 1e-9)
}

func bruteEntropy(logits []float32) (h float64) {
	var z float64
	for _, x := range logits {
		z += math.Exp(float64(x))
	}
	for _, x := range logits {
		p := math.Exp(float64(x)) / z
		h -= p * math.Log2(p)
	}
	return h
}

// bruteLocality returns SRP and the hit rates of two caches.
func bruteLocality(docs []*trace.Document, m *trace.Model, layer, size int, caches []int) [3]float64 {
	var windows [][]int
	total := 0
	for _, d := range docs {
		for start := 0; start+size <= d.Len(); start++ {
			c := make([]int, m.Experts)
			for t := start; t < start+size; t++ {
				for _, e := range d.ExpertsAt(m, t, layer) {
					c[e]++
					total++
				}
			}
			windows = append(windows, c)
		}
	}
	var out [3]float64
	for threshold := 0; threshold <= size; threshold++ {
		matches, active := 0, 0
		for _, w := range windows {
			for _, c := range w {
				if c >= threshold {
					matches += c
					active += size
				}
			}
		}
		out[0] = max(out[0], 2*float64(matches)/float64(active+total))
	}
	for i, cache := range caches {
		hits := 0
		for _, w := range windows {
			c := slices.Sorted(slices.Values(w))
			for _, v := range c[len(c)-cache:] {
				hits += v
			}
		}
		out[1+i] = float64(hits) / float64(total)
	}
	return out
}

func TestStatisticsJSON(t *testing.T) {
	h := plantedHeader()
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{MaxPairBytes: 100})
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, s.Add(plantedDocument(i, 9, h)))
	}
	bad := plantedDocument(1, 9, h)
	bad.Experts[5] = bad.Experts[4]
	assert.ErrorContains(t, s.Add(bad), "token 0, layer 1")
	r := s.Summary()
	assert.Equal(t, []string{"transitions", "coactivation"}, r.Skipped)
	require.Nil(t, r.Transitions)
	assert.Equal(t, int64(3), r.Documents)
	b, err := json.Marshal(r)
	require.NoError(t, err)
	var again trace.Summary
	require.NoError(t, json.Unmarshal(b, &again))
	assert.Equal(t, r, &again)
	for _, name := range []string{`"entropy_normalized"`, `"repeated_first"`, `"datasets"`, `"srp"`, `"router_entropy_bits"`} {
		assert.Contains(t, string(b), name)
	}
}

func BenchmarkStatistics(b *testing.B) {
	h := benchHeader(false, false)
	docs := benchDocuments(20, 512, &h)
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
	require.NoError(b, err)
	for b.Loop() {
		for _, d := range docs {
			require.NoError(b, s.Add(d))
		}
	}
	b.ReportMetric(float64(20*512*b.N)/b.Elapsed().Seconds(), "tokens/s")
}
