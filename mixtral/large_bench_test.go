package mixtral_test

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	synthetic "github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// layersVariable is the number of layers of BenchmarkLarge's model, shapeVariable its
// shape, 8x7B (the default) or 8x22B, and meshVariable a mesh of devices, as in 1x2.
const (
	layersVariable = "EXPERTSPEC_BENCH_LAYERS"
	shapeVariable  = "EXPERTSPEC_BENCH_SHAPE"
	meshVariable   = "EXPERTSPEC_BENCH_MESH"
)

// BenchmarkLarge loads some layers of the shape of Mixtral 8x7B or 8x22B in bfloat16, or
// int8, through XLA, or without a plugin on the Go backend, decodes one document, with
// all layers as one graph and stepped, and prefills. The metrics are medians.
func BenchmarkLarge(b *testing.B) {
	layers, err := strconv.Atoi(os.Getenv(layersVariable))
	if err != nil {
		b.Skipf("set %s to a number of layers, %s to an XLA plugin, %s to 8x22B for its shape", layersVariable, xlaVariable, shapeVariable)
	}
	shape, err := synthetic.Named(os.Getenv(shapeVariable))
	require.NoError(b, err)
	shape.Layers = layers
	backend := "go"
	if plugin := os.Getenv(xlaVariable); plugin != "" {
		backend = "xla:" + plugin
	}
	be, err := mixtral.OpenBackend(backend)
	require.NoError(b, err)
	o := mixtral.Options{Backend: be, DType: dtypes.BFloat16, Chunk: 2048}
	if mesh := os.Getenv(meshVariable); mesh != "" {
		require.NoError(b, o.Mesh.UnmarshalText([]byte(mesh)))
	}
	if os.Getenv(int8Variable) != "" {
		o.Quantize = mixtral.Int8
	}
	fsys, size := shape.Model()
	large := func(n int) []int32 { return randomIDs(n, shape.Vocabulary) }
	start := time.Now()
	m := load(b, fsys, o)
	seconds := time.Since(start).Seconds()
	b.Run("load", func(b *testing.B) {
		for b.Loop() { // measured above
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(size)/1e9/seconds, "GB/s")
	})
	ctx := context.Background()
	hook := func(context.Context, *mixtral.Routing) error { return nil }
	median := func(b *testing.B, tokens int, run func()) {
		for range 3 { // compile
			run()
		}
		var times []float64
		for b.Loop() {
			start := time.Now()
			run()
			times = append(times, time.Since(start).Seconds()*1e3)
		}
		slices.Sort(times)
		ms := times[len(times)/2]
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ms/float64(layers), "ms/layer")
		b.ReportMetric(times[0]/float64(layers), "best-ms/layer")
		b.ReportMetric(float64(tokens)*1e3/ms, "tokens/s")
	}
	forward := func(b *testing.B, req mixtral.Request) {
		_, err := m.Forward(ctx, req)
		require.NoError(b, err)
	}
	for _, decode := range []struct {
		name               string
		observe, intervene mixtral.Hook
	}{{"decode", nil, nil}, {"decode-observed", hook, nil}, {"decode-stepped", nil, hook}} {
		b.Run(decode.name, func(b *testing.B) {
			cache := m.NewCache(1)
			defer cache.Close()
			forward(b, mixtral.Request{Tokens: [][]int32{large(128)}, Cache: cache})
			median(b, 1, func() {
				forward(b, mixtral.Request{Tokens: [][]int32{large(1)}, Cache: cache, Logits: mixtral.LastLogits,
					Observe: decode.observe, Intervene: decode.intervene})
			})
		})
	}
	for _, batch := range [][2]int{{1, 128}, {1, 512}, {1, 2048}, {8, 512}} {
		for _, observe := range []mixtral.Hook{nil, hook} {
			name := fmt.Sprintf("prefill-%dx%d", batch[0], batch[1])
			if observe != nil {
				name += "-observed"
			}
			b.Run(name, func(b *testing.B) {
				tokens := make([][]int32, batch[0])
				for i := range tokens {
					tokens[i] = large(batch[1])
				}
				median(b, batch[0]*batch[1], func() {
					forward(b, mixtral.Request{Tokens: tokens, Logits: mixtral.LastLogits, Observe: observe})
				})
			})
		}
	}
	b.Run("collect", func(b *testing.B) { collectLarge(b, m, large, true) })
	b.Run("collect-bare", func(b *testing.B) { collectLarge(b, m, large, false) })
}

// collectLarge computes 64 documents of 64 to 512 tokens as package collect does: in
// batches of similar length, two at a time. It records them or does not observe.
func collectLarge(b *testing.B, m *mixtral.Model, large func(n int) []int32, record bool) {
	docs := make([][]int32, 64)
	total := 0
	for i := range docs {
		docs[i] = large(64 + 448*i/(len(docs)-1))
		total += len(docs[i])
	}
	var batches [][][]int32
	from := 0
	for i := range docs {
		size := 1 << bits.Len(uint(len(docs[i])-1))
		if i > from && (size != 1<<bits.Len(uint(len(docs[from])-1)) || (i-from+1)*size > 4096) {
			batches = append(batches, docs[from:i])
			from = i
		}
	}
	batches = append(batches, docs[from:])
	run := func() {
		var g errgroup.Group
		g.SetLimit(2)
		for _, batch := range batches {
			g.Go(func() error {
				rec, err := mixtral.NewRecorder(trace.Header{Model: m.Config().TraceModel("mixtral")})
				require.NoError(b, err)
				req := mixtral.Request{Tokens: batch, Logits: mixtral.LastLogits}
				if record {
					req = mixtral.Request{Tokens: batch, Observe: rec.Observe}
				}
				_, err = m.Forward(context.Background(), req)
				return err
			})
		}
		require.NoError(b, g.Wait())
	}
	run()
	run()
	for b.Loop() {
		run()
	}
	b.ReportMetric(float64(total)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

var largeRandom = rand.New(rand.NewPCG(3, 4))

// randomIDs returns n random ids of a vocabulary.
func randomIDs(n, vocabulary int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = largeRandom.Int32N(int32(vocabulary))
	}
	return ids
}
