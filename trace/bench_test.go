package trace_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/trace"
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

// benchDocuments makes random routing: logits normal, the top two chosen,
// softmax over them.
func benchDocuments(n, tokens int, h *trace.Header) []*trace.Document {
	rng := rand.New(rand.NewPCG(1, 2))
	m := &h.Model
	docs := make([]*trace.Document, n)
	logits := make([]float32, m.Experts)
	for i := range docs {
		d := &trace.Document{Dataset: fmt.Sprint("set-", i*10/n), ID: fmt.Sprintf("document-%d", i)}
		for range tokens {
			d.Tokens = append(d.Tokens, int32(float64(m.Vocabulary)*math.Pow(rng.Float64(), 3)))
			for range m.Layers {
				for e := range logits {
					logits[e] = float32(rng.NormFloat64() * 2)
				}
				a, b := topTwo(logits)
				w := float32(1 / (1 + math.Exp(float64(logits[b]-logits[a]))))
				d.Experts = append(d.Experts, int32(a), int32(b))
				d.Weights = append(d.Weights, w, 1-w)
				if len(h.LogitLayers) > 0 {
					d.RouterLogits = append(d.RouterLogits, logits...)
				}
				if len(h.InputLayers) > 0 {
					for range m.Hidden {
						d.RouterInput = append(d.RouterInput, float32(rng.NormFloat64()))
					}
				}
			}
		}
		docs[i] = d
	}
	return docs
}

func topTwo(x []float32) (a, b int) {
	a, b = 0, 1
	if x[b] > x[a] {
		a, b = b, a
	}
	for i := 2; i < len(x); i++ {
		switch {
		case x[i] > x[a]:
			a, b = i, a
		case x[i] > x[b]:
			b = i
		}
	}
	return a, b
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
			dir := b.TempDir()
			r := writeBench(b, dir, h, docs, s.float)
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
	r := writeBench(b, b.TempDir(), h, benchDocuments(200, 512, &h), trace.Float32)
	for b.Loop() {
		all, err := r.Select(trace.Filter{Datasets: []string{"set-5"}, Documents: []string{"document-105"}}).ReadAll()
		require.NoError(b, err)
		require.Len(b, all, 1)
	}
}

func writeBench(b *testing.B, dir string, h trace.Header, docs []*trace.Document, float trace.Float) *trace.Reader {
	b.Helper()
	w, err := trace.Create(dir, h, trace.WriterOptions{Float: float})
	require.NoError(b, err)
	for _, d := range docs {
		require.NoError(b, w.Write(d))
	}
	require.NoError(b, w.Close())
	r, err := trace.Open(dir)
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
				writeBench(b, b.TempDir(), h, docs, s.float)
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
			r := writeBench(b, b.TempDir(), h, benchDocuments(200, 512, &h), s.float)
			b.SetBytes(r.Bytes())
			for b.Loop() {
				require.NoError(b, trace.VerifyShard(r.Paths()[0]))
			}
		})
	}
}
