package switchtransformer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// layersVariable is the number of blocks of each stack of BenchmarkLarge's model, and
// expertsVariable that of its experts, 128 by default.
const (
	layersVariable  = "EXPERTSPEC_BENCH_LAYERS"
	expertsVariable = "EXPERTSPEC_BENCH_EXPERTS"
)

// BenchmarkLarge loads blocks of google/switch-base-128's shape in bfloat16 through XLA,
// with the executor Stepped, encodes and decodes. The metrics are medians.
func BenchmarkLarge(b *testing.B) {
	blocks, err := strconv.Atoi(os.Getenv(layersVariable))
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if err != nil || plugin == "" {
		b.Skipf("set %s to a number of blocks and EXPERTSPEC_TEST_XLA to an XLA plugin", layersVariable)
	}
	experts := 128
	if n, err := strconv.Atoi(os.Getenv(expertsVariable)); err == nil {
		experts = n
	}
	be, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(b, err)
	shape := large.Base(blocks, experts)
	fsys, size := shape.Model()
	start := time.Now()
	ctx := context.Background()
	m, err := switchtransformer.Load(ctx, fsys, switchtransformer.Options{Backend: be, Executor: mixtral.Stepped, DType: dtypes.BFloat16})
	require.NoError(b, err)
	b.Cleanup(func() { m.Close() })
	seconds := time.Since(start).Seconds()
	b.Run("load", func(b *testing.B) {
		for b.Loop() { // measured above
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(size)/1e9/seconds, "GB/s")
	})
	random := rand.New(rand.NewPCG(3, 4))
	text := func(n int) []int32 {
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = random.Int32N(int32(shape.Vocabulary))
		}
		return ids
	}
	forward := func(b *testing.B, req switchtransformer.Request) {
		_, err := m.Forward(ctx, req)
		require.NoError(b, err)
	}
	hook := func(context.Context, *switchtransformer.Routing) error { return nil }
	for _, batch := range [][2]int{{1, 512}, {8, 512}} {
		b.Run(fmt.Sprintf("encode-%dx%d", batch[0], batch[1]), func(b *testing.B) {
			tokens := make([][]int32, batch[0])
			for i := range tokens {
				tokens[i] = text(batch[1])
			}
			median(b, batch[0]*batch[1], func() { forward(b, switchtransformer.Request{Tokens: tokens, Observe: hook}) })
		})
	}
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("decode-%d", n), func(b *testing.B) {
			cache := m.NewCache(n)
			defer cache.Close()
			tokens := make([][]int32, n)
			for i := range tokens {
				tokens[i] = text(512)
			}
			forward(b, switchtransformer.Request{Tokens: tokens, Cache: cache})
			median(b, n, func() {
				for i := range tokens {
					tokens[i] = text(1)
				}
				forward(b, switchtransformer.Request{DecoderTokens: tokens, Cache: cache, Logits: switchtransformer.LastLogits, Observe: hook})
			})
		})
	}
}

// median measures what computes a number of tokens.
func median(b *testing.B, tokens int, run func()) {
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
	b.ReportMetric(ms, "ms")
	b.ReportMetric(times[0], "best-ms")
	b.ReportMetric(float64(tokens)*1e3/ms, "tokens/s")
}
