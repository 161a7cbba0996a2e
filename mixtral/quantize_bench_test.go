package mixtral_test

import (
	"context"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testDocuments returns n of the mini model's test documents of at least 256
// tokens, spread over its domains, cut to 256.
func testDocuments(t testing.TB, n int) [][]int32 {
	t.Helper()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(t, err)
	docs, err := mini.Documents()
	require.NoError(t, err)
	var ids [][]int32
	for i := range n {
		for j := i * len(docs) / n; ; j++ {
			if one := tok.Encode(docs[j].Text, true); len(one) >= 256 {
				ids = append(ids, one[:256])
				break
			}
		}
	}
	return ids
}

// quality compares the outputs of a quantized model with those of another.
type quality struct {
	kl              float64 // mean, in nats, of the next token's distribution
	argmax, changed float64 // shares of equal likeliest tokens and of expert sets that differ
}

func compare(t testing.TB, plain, quantized *mixtral.Model, docs [][]int32) (q quality) {
	t.Helper()
	cfg := plain.Config()
	var tokens, sets float64
	for _, ids := range docs {
		a, b := newRecorder(), newRecorder()
		x, err := plain.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Observe: a.hook})
		require.NoError(t, err)
		y, err := quantized.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Observe: b.hook})
		require.NoError(t, err)
		for i := range ids {
			p, r := x.Logits[0][i*cfg.VocabSize:][:cfg.VocabSize], y.Logits[0][i*cfg.VocabSize:][:cfg.VocabSize]
			q.kl += divergence(p, r)
			if argmax(p) == argmax(r) {
				q.argmax++
			}
			for l := range cfg.Layers {
				s := slices.Sorted(slices.Values(a.experts[l][i*cfg.TopK:][:cfg.TopK]))
				if !slices.Equal(s, slices.Sorted(slices.Values(b.experts[l][i*cfg.TopK:][:cfg.TopK]))) {
					q.changed++
				}
				sets++
			}
			tokens++
		}
	}
	return quality{q.kl / tokens, q.argmax / tokens, q.changed / sets}
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// divergence returns KL(softmax(p) || softmax(r)) in nats.
func divergence(p, r []float32) (kl float64) {
	lp, lr := logSum(p), logSum(r)
	for i := range p {
		a := float64(p[i]) - lp
		kl += math.Exp(a) * (a - float64(r[i]) + lr)
	}
	return kl
}

func logSum(x []float32) float64 {
	top, sum := float64(x[argmax(x)]), 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// TestInt8Quality bounds what 8 bits change on the mini model.
func TestInt8Quality(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	plain := load(t, mini.FS(), mixtral.Options{Backend: b})
	q := compare(t, plain, load(t, mini.FS(), mixtral.Options{Backend: b, Quantize: mixtral.Int8}), testDocuments(t, 2))
	assert.Less(t, q.kl, .006)
	assert.Greater(t, q.argmax, .95)
	assert.Less(t, q.changed, .03)
}

// BenchmarkInt8Quality compares int8 with float32: of the mini model on 40 of its
// test documents, of the random variants on as many random ones of their
// vocabulary. The executor is the one that computes on the backend itself.
func BenchmarkInt8Quality(b *testing.B) {
	backends(b, func(name string, be compute.Backend) {
		models := checkpoints()
		for _, model := range slices.Sorted(maps.Keys(models)) {
			b.Run(name+"/"+path.Base(model), func(b *testing.B) {
				o := mixtral.Options{Backend: be, Executor: mixtral.Stepped}
				plain := load(b, models[model], o)
				o.Quantize = mixtral.Int8
				quantized := load(b, models[model], o)
				docs := testDocuments(b, 40)
				if model != "mini-mixtral" {
					r := rand.New(rand.NewPCG(5, 6))
					for _, ids := range docs {
						for i := range ids {
							ids[i] = r.Int32N(int32(plain.Config().VocabSize))
						}
					}
				}
				for b.Loop() {
					q := compare(b, plain, quantized, docs)
					b.ReportMetric(q.kl, "KL-nats")
					b.ReportMetric(q.argmax, "argmax-equal")
					b.ReportMetric(q.changed, "sets-changed")
				}
			})
		}
	})
}
