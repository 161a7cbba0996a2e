package trace_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/require"
)

var benchShards = flag.Int("shards", 200, "number of shards of BenchmarkShards")

// BenchmarkShards opens and validates a folder of many shards, each of a document of
// three tokens in Mixtral 8x7B's shape, so that nearly all time is that of files.
func BenchmarkShards(b *testing.B) {
	h := trace.Header{Model: trace.Model{Name: "bench", Layers: 32, Experts: 8, TopK: 2, Hidden: 4096, Vocabulary: 32000}}
	h.Source = trace.Source{Program: "test", Shards: *benchShards, Extra: map[string]string{"docs": "150", "tokens": "512"}}
	dir := b.TempDir()
	doc := benchDocuments(1, 3, &h)[0]
	one := b.TempDir()
	for i := range *benchShards {
		w, err := trace.Create(one, h, trace.WriterOptions{})
		require.NoError(b, err)
		doc.ID = fmt.Sprintf("document-%d", i)
		require.NoError(b, w.Write(doc))
		require.NoError(b, w.Close())
		require.NoError(b, os.Rename(filepath.Join(one, "shard-00000.parquet"), filepath.Join(dir, fmt.Sprintf("shard-%05d.parquet", i))))
	}
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			r, err := trace.Open(dir)
			require.NoError(b, err)
			require.Equal(b, int64(3**benchShards), r.Tokens())
		}
		perShard(b)
	})
	b.Run("Validate", func(b *testing.B) {
		for b.Loop() {
			r, err := trace.Validate(dir, trace.ValidateOptions{})
			require.NoError(b, err)
			require.NoError(b, r.Err())
			require.Empty(b, r.Missing)
			require.Equal(b, *benchShards, r.Documents)
		}
		perShard(b)
	})
}

func perShard(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N**benchShards), "us/shard")
}

// BenchmarkMixtral writes, opens, verifies and validates a trace of random routing in
// Mixtral 8x7B's shape, disk included. Run it with -cpu 1 for the rates of one core.
func BenchmarkMixtral(b *testing.B) {
	for _, s := range []struct {
		name          string
		logits, input bool
		float         trace.Float
		docs          int
	}{
		{"routing", false, false, trace.Float32, 64},
		{"logits-float32", true, false, trace.Float32, 64},
		{"logits-float16", true, false, trace.Float16, 64},
		{"input-float16", false, true, trace.Float16, 2},
	} {
		h := trace.Header{Model: trace.Model{Name: "mixtral-8x7b", Layers: 32, Experts: 8, TopK: 2, Hidden: 4096, Vocabulary: 32000}}
		if s.logits {
			h.LogitLayers = h.Model.AllLayers()
		}
		if s.input {
			h.InputLayers = h.Model.AllLayers()
		}
		docs := benchDocuments(s.docs, 512, &h)
		rates := func(b *testing.B, r *trace.Reader) {
			b.ReportMetric(float64(512*s.docs*b.N)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(float64(r.Bytes())*float64(b.N)/1e6/b.Elapsed().Seconds(), "MB/s")
			b.ReportMetric(float64(r.Bytes())/float64(r.Tokens()), "bytes/token")
		}
		r := writeBench(b, h, docs, s.float)
		b.Run(s.name+"/Write", func(b *testing.B) {
			for b.Loop() {
				writeBench(b, h, docs, s.float)
			}
			rates(b, r)
		})
		b.Run(s.name+"/Verify", func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, trace.VerifyShard(r.Paths()[0]))
			}
			rates(b, r)
		})
		b.Run(s.name+"/Validate", func(b *testing.B) {
			for b.Loop() {
				report, err := trace.Validate(filepath.Dir(r.Paths()[0]), trace.ValidateOptions{})
				require.NoError(b, err)
				require.NoError(b, report.Err())
			}
			rates(b, r)
		})
	}
}
