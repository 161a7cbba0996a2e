package collect_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/require"
)

// benchDocuments are 128 documents of 512 tokens and 32 texts, one data set.
func benchDocuments() (docs []collect.Document, ids [][]int32) {
	text := ""
	for _, d := range documents(30, 3) {
		text += d.Text + "\n\n"
	}
	all := must(loadTokenizer()).Encode(text, false)
	for i := range 128 {
		s := must(must(loadTokenizer()).Decode(all[i%32*600:][:600], true))
		docs = append(docs, collect.Document{Dataset: "bench", ID: fmt.Sprint(i), Text: s})
		ids = append(ids, must(loadTokenizer()).Encode(s, true)[:512])
	}
	return docs, ids
}

// BenchmarkBare is the forward pass alone over the batches of BenchmarkRun: 128
// documents of 512 tokens, 8 at a time.
func BenchmarkBare(b *testing.B) {
	m := must(model())
	_, ids := benchDocuments()
	for b.Loop() {
		bare(b, m, ids)
	}
	b.ReportMetric(128*512*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

func bare(b *testing.B, m *mixtral.Model, ids [][]int32) {
	for i := 0; i < len(ids); i += 8 {
		_, err := m.Forward(context.Background(), mixtral.Request{Tokens: ids[i : i+8]})
		require.NoError(b, err)
	}
}

// BenchmarkRun is all of collecting: reading, choosing, tokenizing, the forward
// pass with its hook, writing and syncing.
func BenchmarkRun(b *testing.B) {
	docs, _ := benchDocuments()
	for name, o := range map[string]collect.Options{
		"routing":     {},
		"logits":      {Logits: true},
		"logits16":    {Logits: true, Float: trace.Float16},
		"routerinput": {Logits: true, RouterInput: true, Float: trace.Float16},
	} {
		b.Run(name, func(b *testing.B) {
			n := int64(0)
			for b.Loop() {
				n += run(b, docs, b.TempDir(), o).Tokens
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkCost alternates bare forward passes with collecting and reports how
// much more time collecting takes, including tokenizing and choosing: elapsed, and
// of processors, which other programs affect less.
func BenchmarkCost(b *testing.B) {
	docs, ids := benchDocuments()
	models := map[string]func() (*mixtral.Model, error){"go": model}
	if os.Getenv("EXPERTSPEC_TEST_XLA") != "" {
		models["xla"] = xla
	}
	for backend, model := range models {
		for name, o := range map[string]collect.Options{"routing": {}, "logits": {Logits: true}} {
			b.Run(backend+"/"+name, func(b *testing.B) {
				m := must(model())
				bare(b, m, ids[:8]) // compiles
				var without, with, withoutCPU, withCPU time.Duration
				for b.Loop() {
					start, startCPU := time.Now(), processorTime(b)
					bare(b, m, ids)
					middle, middleCPU := time.Now(), processorTime(b)
					runOn(b, m, docs, b.TempDir(), o)
					without, with = without+middle.Sub(start), with+time.Since(middle)
					withoutCPU, withCPU = withoutCPU+middleCPU-startCPU, withCPU+processorTime(b)-middleCPU
				}
				b.ReportMetric(100*(with.Seconds()/without.Seconds()-1), "%slower")
				b.ReportMetric(100*(withCPU.Seconds()/withoutCPU.Seconds()-1), "%more-cpu")
				b.ReportMetric(128*512*float64(b.N)/without.Seconds(), "bare-tokens/s")
			})
		}
	}
}
