package trace_test

import (
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// partsTraces are documents of two models, each of other sizes on every axis:
// with holes in positions, with weights and entropies that float64 sums would round
// differently in each order, and of an encoder and a decoder with dropped tokens.
func partsTraces() map[string]func() (trace.Header, []*trace.Document) {
	return map[string]func() (trace.Header, []*trace.Document){
		"holes": func() (trace.Header, []*trace.Document) {
			h := plantedHeader()
			rng := rand.New(rand.NewPCG(5, 6))
			var docs []*trace.Document
			for i := range 41 {
				d := plantedDocument(i, plantedLen(i), h)
				for j := range d.Weights {
					d.Weights[j] = rng.Float32() * 1e-3
				}
				for j := range d.RouterLogits {
					d.RouterLogits[j] = float32(rng.NormFloat64())
				}
				docs = append(docs, d)
			}
			return h, docs
		},
		"stacks": func() (trace.Header, []*trace.Document) {
			var docs []*trace.Document
			for i := range 23 {
				d := stacksDocument(i, 1+i%7, i%5)
				d.Dataset = fmt.Sprint("set ", i%3)
				docs = append(docs, d)
			}
			return stacksHeader(), docs
		},
	}
}

// stored returns the JSON of statistics, which holds all of them.
func stored(t *testing.T, s *trace.Statistics) string {
	t.Helper()
	b, err := json.Marshal(s)
	require.NoError(t, err)
	return string(b)
}

// TestMerge reads documents in parts at random, in random order, through JSON or
// not, and merges the parts in random order: the result is that of the whole, bit
// for bit.
func TestMerge(t *testing.T) {
	for name, make := range partsTraces() {
		t.Run(name, func(t *testing.T) {
			h, docs := make()
			o := trace.StatisticsOptions{Segments: []int{3, 1, 8}, CacheSizes: []int{6, 2}}
			begin := func() *trace.Statistics {
				s, err := trace.NewStatistics(h, o)
				require.NoError(t, err)
				return s
			}
			whole := begin()
			for _, d := range docs {
				require.NoError(t, whole.Add(d))
			}
			want := stored(t, whole)
			for seed := range uint64(20) {
				rng := rand.New(rand.NewPCG(seed, 1))
				parts := []*trace.Statistics{begin()} // one may be empty
				for range rng.IntN(7) {
					parts = append(parts, begin())
				}
				for _, i := range rng.Perm(len(docs)) {
					require.NoError(t, parts[rng.IntN(len(parts))].Add(docs[i]))
				}
				for len(parts) > 1 {
					i := rng.IntN(len(parts))
					from := parts[i]
					parts = slices.Delete(parts, i, i+1)
					if rng.IntN(2) == 0 {
						read := new(trace.Statistics)
						require.NoError(t, json.Unmarshal([]byte(stored(t, from)), read))
						from = read
					}
					before := stored(t, from)
					to := parts[rng.IntN(len(parts))]
					require.NoError(t, to.Merge(from))
					require.NoError(t, from.Merge(begin()))
					require.Equal(t, before, stored(t, from), "merging changed what was merged")
				}
				require.Equal(t, want, stored(t, parts[0]), "seed %d", seed)
				assert.Equal(t, whole.Summary(), parts[0].Summary())
			}
			for _, n := range []int{1, 2, 5} {
				processors(t, n)
				s := begin()
				require.NoError(t, s.AddAll(sequence(docs)))
				assert.Equal(t, want, stored(t, s), "%d processors", n)
			}
			require.NoError(t, whole.Merge(whole))
			assert.EqualValues(t, 2*len(docs), whole.Summary().Documents)
		})
	}
}

func sequence(docs []*trace.Document) iter.Seq2[*trace.Document, error] {
	return func(yield func(*trace.Document, error) bool) {
		for _, d := range docs {
			if !yield(d, nil) {
				return
			}
		}
	}
}

// TestAddAllErrors stops at an invalid document and at an error of the reading.
func TestAddAllErrors(t *testing.T) {
	h, docs := partsTraces()["holes"]()
	for _, n := range []int{1, 3} {
		processors(t, n)
		s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
		require.NoError(t, err)
		bad := plantedDocument(40, 9, h)
		bad.Weights[plantedL*plantedK*2] = -1
		assert.ErrorContains(t, s.AddAll(sequence(append(docs[:5:5], bad))), `"doc-040" of data set "set-10": token 2, layer 0: weight -1`)
		assert.ErrorIs(t, s.AddAll(func(yield func(*trace.Document, error) bool) {
			if yield(docs[0], nil) {
				yield(nil, assert.AnError)
			}
		}), assert.AnError)
	}
}

// TestMergeRefused merges statistics that do not belong together.
func TestMergeRefused(t *testing.T) {
	h := plantedHeader()
	begin := func(h trace.Header, o trace.StatisticsOptions) *trace.Statistics {
		s, err := trace.NewStatistics(h, o)
		require.NoError(t, err)
		require.NoError(t, s.Add(plantedDocument(3, 9, h)))
		return s
	}
	s := begin(h, trace.StatisticsOptions{})
	before := stored(t, s)
	for want, change := range map[string]func(h *trace.Header, o *trace.StatisticsOptions){
		"expertspec.model is":  func(h *trace.Header, _ *trace.StatisticsOptions) { h.Model.Name = "other" },
		`"experts":12`:         func(h *trace.Header, _ *trace.StatisticsOptions) { h.Model.Experts++ },
		"expertspec.source is": func(h *trace.Header, _ *trace.StatisticsOptions) { h.Source.Seed++ },
		"different options":    func(_ *trace.Header, o *trace.StatisticsOptions) { o.Segments = []int{4, 16} },
		"CacheSizes:[4]":       func(_ *trace.Header, o *trace.StatisticsOptions) { o.CacheSizes = []int{4} },
		"MaxPairBytes:100":     func(_ *trace.Header, o *trace.StatisticsOptions) { o.MaxPairBytes = 100 },
	} {
		other, o := h, trace.StatisticsOptions{}
		change(&other, &o)
		x, err := trace.NewStatistics(other, o)
		require.NoError(t, err)
		assert.ErrorContains(t, s.Merge(x), want)
		assert.Equal(t, before, stored(t, s))
	}
	// What is stored has been changed.
	read := func(text string) error { return json.Unmarshal([]byte(text), new(trace.Statistics)) }
	require.NoError(t, read(before))
	for _, c := range []struct{ old, to, want string }{
		{`{"version":1`, `{"version":2`, "version 2"},
		{`"experts":11`, `"experts":12`, "has "},
		{`"layers":5`, `"layers":4294967296`, "layers"},
		{`"experts":11`, `"experts":1048576`, "has "},
		{`"top_k":3`, `"top_k":2`, "sums"},
		{`"coactivation":[`, `"coactivation":[0,`, `"coactivation" has 606 values, expected 605`},
		{`"counts":[`, `"counts":[-1,`, `"counts" has 12 values`},
		{`"documents":1`, `"documents":-1`, `data set "set-0": "sums": value 0 is -1`},
		{`"above":[`, `"above":[1,`, `layer 0: "above" has 5 values, expected 4`},
		{`"segments":[4,16,64]`, `"segments":[4,16]`, "3 of 2 segments"},
		{`"set-0":{`, `"none":null,"set-0":{`, `data set "none": not of 5 layers`},
		{`"max_pair_bytes":1073741824`, `"max_pair_bytes":100`, `"transitions" has 484 values, expected 0`},
		{`"cache_sizes":[3,6]`, `"cache_sizes":null`, "incomplete"},
	} {
		text := strings.Replace(before, c.old, c.to, 1)
		require.NotEqual(t, before, text, c.old)
		assert.ErrorContains(t, read(text), c.want, c.to)
	}
	assert.Error(t, read(before[:len(before)/2]))
}

// TestPart reads each shard in exactly one part.
func TestPart(t *testing.T) {
	h := plantedHeader()
	var docs []*trace.Document
	for i := range 17 {
		docs = append(docs, plantedDocument(i, plantedLen(i), h))
	}
	r, err := trace.Open(tracetest.Write(t, h, docs, trace.WriterOptions{ShardBytes: 1, GroupTokens: 50}))
	require.NoError(t, err)
	shards := len(r.Paths())
	require.Greater(t, shards, 5)
	for _, n := range []int{1, 2, 5, shards + 2} {
		var keys []trace.Key
		var tokens, bytes int64
		for i := range n {
			p := r.Part(i, n)
			tokens, bytes = tokens+p.Tokens(), bytes+p.Bytes()
			all, err := p.ReadAll()
			require.NoError(t, err)
			for _, d := range all {
				keys = append(keys, d.Key())
			}
			require.Equal(t, n > shards && i >= shards, len(all) == 0)
		}
		assert.Equal(t, []int64{r.Tokens(), r.Bytes()}, []int64{tokens, bytes})
		assert.Len(t, keys, len(docs))
		slices.SortFunc(keys, trace.Key.Compare)
		assert.Len(t, slices.Compact(keys), len(docs))
	}
	assert.Panics(t, func() { r.Part(2, 2) })
}
