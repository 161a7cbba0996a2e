package mixtral_test

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// tokens returns n random ids of the mini model's vocabulary.
func tokens(n int) []int32 {
	r := rand.New(rand.NewPCG(1, 2))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = 3 + r.Int32N(4093)
	}
	return ids
}

// modelVariable names the folder of a checkpoint to benchmark in bfloat16
// instead of the mini model in float32.
const modelVariable = "EXPERTSPEC_BENCH_MODEL"

// dtypeVariable, if set, is the type of either model: float32 or bfloat16.
const dtypeVariable = "EXPERTSPEC_BENCH_DTYPE"

// int8Variable, if set, benchmarks int8 attention and expert matrices.
const int8Variable = "EXPERTSPEC_BENCH_INT8"

func benchmarked(b *testing.B, be compute.Backend) *mixtral.Model {
	b.Helper()
	fsys, o := mini.FS(), mixtral.Options{Backend: be}
	if dir := os.Getenv(modelVariable); dir != "" {
		fsys, o.DType = os.DirFS(dir), dtypes.BFloat16
	}
	if name := os.Getenv(dtypeVariable); name != "" {
		o.DType = dtypes.MapOfNames[name]
		require.NotZero(b, o.DType, "%s=%s", dtypeVariable, name)
	}
	if os.Getenv(int8Variable) != "" {
		o.Quantize = mixtral.Int8
	}
	return load(b, fsys, o)
}

func benchmark(b *testing.B, docs, n int) {
	backends(b, func(name string, be compute.Backend) {
		b.Run(name, func(b *testing.B) {
			m := benchmarked(b, be)
			batch := make([][]int32, docs)
			for i := range batch {
				batch[i] = tokens(n)
			}
			observe := func(context.Context, *mixtral.Routing) error { return nil }
			run := func() {
				_, err := m.Forward(context.Background(), mixtral.Request{Tokens: batch, Logits: mixtral.LastLogits, Observe: observe})
				require.NoError(b, err)
			}
			run() // compile
			for b.Loop() {
				run()
			}
			b.ReportMetric(float64(docs*n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	})
}

// BenchmarkPrefill is one document of 512 tokens.
func BenchmarkPrefill(b *testing.B) { benchmark(b, 1, 512) }

// BenchmarkCollect is 8 documents of 512 tokens at once, as collecting does.
func BenchmarkCollect(b *testing.B) { benchmark(b, 8, 512) }

// BenchmarkObserve alternates bare passes over BenchmarkCollect's documents with
// passes that are observed, and with passes that also return the last logits, and
// reports by how much their medians are slower.
func BenchmarkObserve(b *testing.B) {
	backends(b, func(name string, be compute.Backend) {
		b.Run(name, func(b *testing.B) {
			m := benchmarked(b, be)
			batch := make([][]int32, 8)
			for i := range batch {
				batch[i] = tokens(512)
			}
			observe := func(context.Context, *mixtral.Routing) error { return nil }
			requests := []mixtral.Request{{Tokens: batch}, {Tokens: batch, Observe: observe}, {Tokens: batch, Observe: observe, Logits: mixtral.LastLogits}}
			var times [3][]float64
			pass := func(i int) float64 {
				start := time.Now()
				_, err := m.Forward(context.Background(), requests[i])
				require.NoError(b, err)
				return time.Since(start).Seconds()
			}
			pass(2) // compile
			for b.Loop() {
				for i := range requests {
					times[i] = append(times[i], pass(i))
				}
			}
			slower := func(i int) float64 {
				slices.Sort(times[i])
				return 100 * (times[i][len(times[i])/2]/times[0][len(times[0])/2] - 1)
			}
			slower(0) // sorts
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(slower(1), "%slower-observed")
			b.ReportMetric(slower(2), "%slower-with-logits")
		})
	})
}

// BenchmarkDecode continues a document of 128 tokens, 64 tokens an operation.
// The metric excludes the first token, the prefill.
func BenchmarkDecode(b *testing.B) {
	const n = 64
	backends(b, func(name string, be compute.Backend) {
		b.Run(name, func(b *testing.B) {
			m := benchmarked(b, be)
			prompt := tokens(128)
			var decoding time.Duration
			run := func(n int) {
				var first time.Time
				token := func(int32) error {
					if first.IsZero() {
						first = time.Now()
					}
					return nil
				}
				_, err := m.Generate(context.Background(), prompt, mixtral.GenerateOptions{MaxTokens: n + 1, Stop: []int32{}, Token: token})
				require.NoError(b, err)
				decoding += time.Since(first)
			}
			run(2) // compile
			decoding = 0
			for b.Loop() {
				run(n)
			}
			b.ReportMetric(float64(n)*float64(b.N)/decoding.Seconds(), "tokens/s")
		})
	})
}
