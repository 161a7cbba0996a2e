package trace_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

var (
	largeDir    = flag.String("large", "", "folder into which TestWriteLarge writes a trace")
	largeTokens = flag.Int("large-tokens", 1<<20, "tokens of it")
)

// TestWriteLarge writes a trace of any size, of random numbers in Mixtral 8x7B's
// shape with router logits, for measurements of memory and time:
//
//	go test ./trace -run TestWriteLarge -large DIR -large-tokens 3000000
func TestWriteLarge(t *testing.T) {
	if *largeDir == "" {
		t.Skip("no -large")
	}
	h := trace.Header{Model: trace.Model{Name: "large", Layers: 32, Experts: 8, TopK: 2, Hidden: 4096, Vocabulary: 32000}}
	h.LogitLayers = h.Model.AllLayers()
	r := tracetest.Router{Header: h, Rule: tracetest.Random(1)}
	var kinds []*trace.Document // documents repeat their routing, with other token ids
	for i := range 97 {
		kinds = append(kinds, r.Document("", "", make([]int32, 16+i)))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := make([]float32, 1<<22)
	for i := range numbers {
		numbers[i] = float32(rng.NormFloat64())
	}
	weights := make([]float32, 1<<20)
	for i := 0; i < len(weights); i += 2 {
		weights[i] = .5 + rng.Float32()/2
		weights[i+1] = 1 - weights[i]
	}
	at := func(from []float32, n int) []float32 { i := rng.IntN(len(from)-n) &^ 1; return from[i : i+n] }
	w, err := trace.Create(*largeDir, h, trace.WriterOptions{})
	require.NoError(t, err)
	for i, tokens := 0, 0; tokens < *largeTokens; i++ {
		d := *kinds[i*29%len(kinds)]
		d.Dataset, d.ID = fmt.Sprint("set-", i/1000%7), fmt.Sprintf("document-%09d", i)
		d.Weights, d.RouterLogits = at(weights, len(d.Weights)), at(numbers, len(d.RouterLogits))
		d.Tokens = slices.Clone(d.Tokens)
		for j := range d.Tokens {
			d.Tokens[j] = int32((i*131 + j*j*17) % h.Model.Vocabulary)
		}
		require.NoError(t, w.Write(&d))
		tokens += d.Len()
	}
	require.NoError(t, w.Close())
}

// BenchmarkLarge reads the trace of -large, takes its statistics, and merges those of
// 100 parts from their JSON:
//
//	go test ./trace -run '^$' -bench Large -benchtime 1x -cpu 1,2 -large DIR
func BenchmarkLarge(b *testing.B) {
	if *largeDir == "" {
		b.Skip("no -large")
	}
	r, err := trace.Open(*largeDir)
	require.NoError(b, err)
	s, err := trace.NewStatistics(r.Header(), trace.StatisticsOptions{})
	require.NoError(b, err)
	rate := func(b *testing.B) {
		b.ReportMetric(float64(r.Tokens())*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		b.ReportMetric(float64(r.Bytes())/1e6*float64(b.N)/b.Elapsed().Seconds(), "MB/s")
	}
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			for _, err := range r.Documents() {
				require.NoError(b, err)
			}
		}
		rate(b)
	})
	for name, f := range map[string]trace.Filter{"statistics": {}, "statistics-without-logits": {NoLogits: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, s.AddAll(r.Select(f).Documents()))
			}
			rate(b)
		})
	}
	part, err := json.Marshal(s)
	require.NoError(b, err)
	b.Run("merge", func(b *testing.B) {
		for b.Loop() {
			for range 100 {
				read := new(trace.Statistics)
				require.NoError(b, json.Unmarshal(part, read))
				require.NoError(b, s.Merge(read))
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N)/100, "ms/part")
		b.ReportMetric(float64(len(part))/1e3, "kB/part")
	})
}
