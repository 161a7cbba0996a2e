package switchtransformer_test

import (
	"context"
	"io/fs"
	"math"
	"os"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// largeVariable is the environment variable with the folder of a checkpoint of
// switch-base-8's size, which testdata/switch_peer.py writes; without it the mini alone
// is measured.
const largeVariable = "EXPERTSPEC_BENCH_SWITCH"

// measured calls f with models in both types. What f reports is its best pass, as
// testdata/switch_peer.py does: others may use the machine.
func measured(b *testing.B, f func(b *testing.B, m *switchtransformer.Model)) {
	models := []struct {
		name string
		fsys fs.FS
	}{{"mini", mini.FS()}}
	if dir := os.Getenv(largeVariable); dir != "" {
		models = append(models, struct {
			name string
			fsys fs.FS
		}{"base", os.DirFS(dir)})
	}
	executors(b, func(executor string, o switchtransformer.Options) {
		for _, model := range models {
			for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
				b.Run(model.name+"/"+executor+"/"+dtype.String(), func(b *testing.B) {
					o := o
					o.DType = dtype
					m, err := switchtransformer.Load(context.Background(), model.fsys, o)
					require.NoError(b, err)
					defer m.Close()
					f(b, m)
				})
			}
		}
	})
}

// BenchmarkEncode encodes 8 texts of 512 tokens.
func BenchmarkEncode(b *testing.B) {
	measured(b, func(b *testing.B, m *switchtransformer.Model) {
		var texts [][]int32
		for i := range 8 {
			texts = append(texts, someTokens(512, m.Config().VocabSize, i))
		}
		best := time.Duration(math.MaxInt64)
		for b.Loop() {
			start := time.Now()
			cache := m.NewCache(len(texts)) // all of the encoder, with what the decoder needs
			_, err := m.Forward(context.Background(), switchtransformer.Request{Tokens: texts, Cache: cache})
			require.NoError(b, err)
			cache.Close()
			best = min(best, time.Since(start))
		}
		b.ReportMetric(8*512/best.Seconds(), "best-tok/s")
	})
}

// BenchmarkDecode decodes 64 tokens of a text of 128 tokens.
func BenchmarkDecode(b *testing.B) {
	measured(b, func(b *testing.B, m *switchtransformer.Model) {
		const n = 64
		ctx := context.Background()
		text := [][]int32{someTokens(128, m.Config().VocabSize, 1)}
		best := time.Duration(math.MaxInt64)
		for b.Loop() {
			cache := m.NewCache(1)
			req := switchtransformer.Request{Tokens: text, Cache: cache}
			_, err := m.Forward(ctx, req)
			require.NoError(b, err)
			req.Tokens, req.Logits = nil, switchtransformer.LastLogits
			start := time.Now()
			for i := range n {
				req.DecoderTokens = [][]int32{{int32(i)}}
				_, err := m.Forward(ctx, req)
				require.NoError(b, err)
			}
			best = min(best, time.Since(start))
			cache.Close()
		}
		b.ReportMetric(n/best.Seconds(), "best-tok/s")
	})
}
