package trace_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/require"
)

// benchHeader has the shape of the mini Mixtral.
func benchHeader(logits, input bool) trace.Header {
	h := trace.Header{Model: trace.Model{Name: "bench", Layers: 16, Experts: 8, TopK: 2, Hidden: 96, Vocabulary: 4096}}
	if logits {
		h.LogitLayers = h.Model.AllLayers()
	}
	if input {
		h.InputLayers = h.Model.AllLayers()
	}
	return h
}

// benchDocuments makes documents of random routing in ten data sets.
func benchDocuments(n, tokens int, h *trace.Header) []*trace.Document {
	rng := rand.New(rand.NewPCG(1, 2))
	r := tracetest.Router{Header: *h, Rule: tracetest.Random(1)}
	docs := make([]*trace.Document, n)
	for i := range docs {
		ids := make([]int32, tokens)
		for t := range ids {
			ids[t] = int32(float64(h.Model.Vocabulary) * math.Pow(rng.Float64(), 3))
		}
		docs[i] = r.Document(fmt.Sprint("set-", i*10/n), fmt.Sprintf("document-%d", i), ids)
	}
	return docs
}

var benchShapes = []struct {
	name          string
	logits, input bool
	float         trace.Float
}{
	{"plain", false, false, trace.Float32},
	{"logits-float32", true, false, trace.Float32},
	{"logits-float16", true, false, trace.Float16},
	{"input-float32", true, true, trace.Float32},
	{"input-float16", true, true, trace.Float16},
}

// BenchmarkRead reads a trace of the mini Mixtral's shape.
func BenchmarkRead(b *testing.B) {
	for _, s := range benchShapes {
		b.Run(s.name, func(b *testing.B) {
			h := benchHeader(s.logits, s.input)
			docs := benchDocuments(200, 512, &h)
			r := writeBench(b, h, docs, s.float)
			b.ResetTimer()
			for b.Loop() {
				for _, err := range r.Documents() {
					require.NoError(b, err)
				}
			}
			b.ReportMetric(float64(r.Tokens())*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(float64(r.Bytes())/float64(r.Tokens()), "bytes/token")
		})
	}
}

// BenchmarkReadDocument reads one document of 200 by its id.
func BenchmarkReadDocument(b *testing.B) {
	h := benchHeader(true, false)
	r := writeBench(b, h, benchDocuments(200, 512, &h), trace.Float32)
	for b.Loop() {
		all, err := r.Select(trace.Filter{Datasets: []string{"set-5"}, Documents: []string{"document-105"}}).ReadAll()
		require.NoError(b, err)
		require.Len(b, all, 1)
	}
}

func writeBench(b *testing.B, h trace.Header, docs []*trace.Document, float trace.Float) *trace.Reader {
	b.Helper()
	r, err := trace.Open(tracetest.Write(b, h, docs, trace.WriterOptions{Float: float}))
	require.NoError(b, err)
	return r
}

// BenchmarkWrite writes a trace of the mini Mixtral's shape, disk included.
func BenchmarkWrite(b *testing.B) {
	for _, s := range benchShapes {
		b.Run(s.name, func(b *testing.B) {
			h := benchHeader(s.logits, s.input)
			docs := benchDocuments(100, 512, &h)
			for b.Loop() {
				writeBench(b, h, docs, s.float)
			}
			b.ReportMetric(100*512*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkVerify verifies the checksums of a shard that is in the page cache.
func BenchmarkVerify(b *testing.B) {
	for _, s := range benchShapes[:3] {
		b.Run(s.name, func(b *testing.B) {
			h := benchHeader(s.logits, s.input)
			r := writeBench(b, h, benchDocuments(200, 512, &h), s.float)
			b.SetBytes(r.Bytes())
			for b.Loop() {
				require.NoError(b, trace.VerifyShard(r.Paths()[0]))
			}
		})
	}
}
