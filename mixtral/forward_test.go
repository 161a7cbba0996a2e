package mixtral_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sameResults is the maximum difference of results that differ by rounding.
const sameResults = 5e-5

func forward(t *testing.T, m *mixtral.Model, req mixtral.Request) *mixtral.Output {
	t.Helper()
	out, err := m.Forward(context.Background(), req)
	require.NoError(t, err)
	return out
}

// Prefill at once, token by token and in chunks of any sizes, also those of
// Options.Chunk, have the same logits and routing.
func TestChunks(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		for _, model := range []string{"variants/a", "variants/b"} {
			for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
				if name == "xla" && model == "variants/b" && ex == mixtral.Whole {
					continue // a program of all layers for each size: most of a minute of compiling
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, model, ex), func(t *testing.T) {
					m := load(t, checkpoints()[model], mixtral.Options{Backend: b, Executor: ex})
					ids := references(t, model)["case3"].ids
					rec := newRecorder()
					want := forward(t, m, mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Observe: rec.hook, RouterInput: true}).Logits[0]
					for _, sizes := range [][]int{{1}, {13, 5}, {40, 1}} {
						got, seen := inChunks(t, m, ids, sizes)
						assert.LessOrEqual(t, maxDiff(t, got, want), sameResults, "chunks of %v", sizes)
						compareRouting(t, fmt.Sprintf("chunks of %v", sizes), seen, rec)
					}
					auto := load(t, checkpoints()[model], mixtral.Options{Backend: b, Executor: ex, Chunk: 24})
					seen := newRecorder()
					got := forward(t, auto, mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Observe: seen.hook, RouterInput: true}).Logits[0]
					assert.LessOrEqual(t, maxDiff(t, got, want), sameResults)
					compareRouting(t, "Chunk 24", seen, rec)
				})
			}
		}
	})
}

func inChunks(t *testing.T, m *mixtral.Model, ids []int32, sizes []int) ([]float32, *recorder) {
	t.Helper()
	cache := m.NewCache(1)
	defer cache.Close()
	rec := newRecorder()
	var got []float32
	for i, at := 0, 0; at < len(ids); i++ {
		n := min(sizes[i%len(sizes)], len(ids)-at)
		out := forward(t, m, mixtral.Request{Tokens: [][]int32{ids[at : at+n]}, Cache: cache, Logits: mixtral.AllLogits,
			Observe: rec.hook, RouterInput: true})
		got = append(got, out.Logits[0]...)
		at += n
		require.Equal(t, at, cache.Lengths()[0])
	}
	return got, rec
}

func compareRouting(t *testing.T, what string, got, want *recorder) {
	t.Helper()
	for l := range want.logits {
		assert.LessOrEqual(t, maxDiff(t, got.logits[l], want.logits[l]), sameResults, "%s", what)
		assert.LessOrEqual(t, maxDiff(t, got.weights[l], want.weights[l]), sameResults, "%s", what)
		assert.LessOrEqual(t, maxDiff(t, got.input[l], want.input[l]), sameResults, "%s", what)
		assert.Equal(t, want.experts[l], got.experts[l], "%s: layer %d: experts differ", what, l)
	}
}

// A document's result does not depend on its batch, in prefill and in decode, for
// documents of different lengths.
func TestBatch(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
			t.Run(fmt.Sprintf("%s/%s", name, ex), func(t *testing.T) {
				m := load(t, checkpoints()["variants/a"], mixtral.Options{Backend: b, Executor: ex})
				ids := references(t, "variants/a")["case3"].ids
				batch := [][]int32{ids[:3], ids[10:41], ids[5:6]}
				more := [][]int32{ids[40:42], ids[50:51], ids[20:33]}
				cache := m.NewCache(len(batch))
				defer cache.Close()
				first := forward(t, m, mixtral.Request{Tokens: batch, Cache: cache, Logits: mixtral.AllLogits})
				second := forward(t, m, mixtral.Request{Tokens: more, Cache: cache, Logits: mixtral.LastLogits})
				loose := forward(t, m, mixtral.Request{Tokens: batch, Logits: mixtral.AllLogits})
				v := m.Config().VocabSize
				for i := range batch {
					whole := slices.Concat(batch[i], more[i])
					want := forward(t, m, mixtral.Request{Tokens: [][]int32{whole}, Logits: mixtral.AllLogits}).Logits[0]
					assert.LessOrEqual(t, maxDiff(t, first.Logits[i], want[:len(batch[i])*v]), sameResults, "document %d", i)
					assert.LessOrEqual(t, maxDiff(t, loose.Logits[i], want[:len(batch[i])*v]), sameResults, "document %d without a cache", i)
					assert.LessOrEqual(t, maxDiff(t, second.Logits[i], want[len(want)-v:]), sameResults, "document %d", i)
				}
			})
		}
	})
}

// Hooks receive the right documents, positions, tokens and phases.
func TestRoutingRows(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
			m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: ex, Chunk: 4})
			c := m.Config()
			ids := references(t, "variants/b")["case3"].ids
			batch := [][]int32{ids[:9], ids[20:25], ids[30:31]}
			next := map[[2]int]int32{} // layer, document -> position
			hook := func(_ context.Context, r *mixtral.Routing) error {
				n := len(r.Document)
				if len(r.Position) != n || len(r.Logits) != n*c.Experts || len(r.Experts) != n*c.TopK || len(r.Weights) != n*c.TopK || len(r.Input) != n*c.HiddenSize {
					return fmt.Errorf("sizes %d %d %d %d %d %d", n, len(r.Position), len(r.Logits), len(r.Experts), len(r.Weights), len(r.Input))
				}
				for i, d := range r.Document {
					if want := next[[2]int{r.Layer, d}]; r.Position[i] != want {
						return fmt.Errorf("layer %d, document %d: position %d, expected %d", r.Layer, d, r.Position[i], want)
					}
					if want := batch[d][r.Position[i]]; r.Token[i] != want || r.Phase[i] != trace.Prefill {
						return fmt.Errorf("layer %d, document %d, position %d: token %d in %s, expected %d in prefill", r.Layer, d, r.Position[i], r.Token[i], r.Phase[i], want)
					}
					next[[2]int{r.Layer, d}]++
				}
				return nil
			}
			forward(t, m, mixtral.Request{Tokens: batch, Observe: hook, RouterInput: true})
			for l := range c.Layers {
				for d, doc := range batch {
					assert.Equal(t, len(doc), int(next[[2]int{l, d}]), "%s/%s", name, ex)
				}
			}
		}
	})
}

// A hook that reorders the experts changes nothing; zero weights and other experts
// change the logits.
func TestIntervene(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: mixtral.Stepped})
		ids := references(t, "variants/b")["case2"].ids
		plain := forward(t, m, mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits}).Logits[0]
		run := func(h mixtral.Hook) []float32 {
			return forward(t, m, mixtral.Request{Tokens: [][]int32{ids}, Logits: mixtral.AllLogits, Intervene: h}).Logits[0]
		}
		reversed := run(func(_ context.Context, r *mixtral.Routing) error {
			k := m.Config().TopK
			for t := range r.Position {
				slices.Reverse(r.Experts[t*k:][:k])
				slices.Reverse(r.Weights[t*k:][:k])
			}
			return nil
		})
		assert.LessOrEqual(t, maxDiff(t, reversed, plain), sameResults, "%s", name)
		silenced := run(func(_ context.Context, r *mixtral.Routing) error { clear(r.Weights); return nil })
		assert.GreaterOrEqual(t, maxDiff(t, silenced, plain), .01, "%s", name)
		shifted := run(func(_ context.Context, r *mixtral.Routing) error {
			for i := range r.Experts {
				r.Experts[i] = (r.Experts[i] + 1) % int32(m.Config().Experts)
			}
			return nil
		})
		assert.GreaterOrEqual(t, maxDiff(t, shifted, plain), .01, "%s", name)
		observed := run(nil)
		assert.Equal(t, plain, observed, "%s: a second run", name)
	})
}

func TestForwardErrors(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b})
	whole := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: mixtral.Whole})
	hook := func(context.Context, *mixtral.Routing) error { return nil }
	closed := m.NewCache(1)
	closed.Close()
	closedModel := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b})
	cacheOfClosed := closedModel.NewCache(1)
	require.NoError(t, closedModel.Close())
	for want, f := range map[string]func() error{
		"no documents":             func() error { _, err := m.Forward(t.Context(), mixtral.Request{}); return err },
		"document 1 has no tokens": func() error { return try(m, mixtral.Request{Tokens: [][]int32{{1}, {}}}) },
		"document 0, token 2: id 67 is not in the vocabulary of 67": func() error { return try(m, mixtral.Request{Tokens: [][]int32{{1, 2, 67}}}) },
		"token 0: id -1": func() error { return try(m, mixtral.Request{Tokens: [][]int32{{-1}}}) },
		"Intervene requires a model with Executor Stepped or Auto": func() error { return try(whole, mixtral.Request{Tokens: [][]int32{{1}}, Intervene: hook}) },
		"another model":       func() error { return try(m, mixtral.Request{Tokens: [][]int32{{1}}, Cache: whole.NewCache(1)}) },
		"holds 2 documents":   func() error { return try(m, mixtral.Request{Tokens: [][]int32{{1}}, Cache: m.NewCache(2)}) },
		"the cache is closed": func() error { return try(m, mixtral.Request{Tokens: [][]int32{{1}}, Cache: closed}) },
		"Options.Backend is nil": func() error {
			_, err := mixtral.Load(t.Context(), checkpoints()["variants/b"], mixtral.Options{})
			return err
		},
		"mixtral: the model is closed": func() error { return try(closedModel, mixtral.Request{Tokens: [][]int32{{1}}}) },
		"the model is closed": func() error {
			return try(closedModel, mixtral.Request{Tokens: [][]int32{{1}}, Cache: cacheOfClosed})
		},
		"is closed": func() error {
			_, err := closedModel.Generate(t.Context(), []int32{1}, mixtral.GenerateOptions{MaxTokens: 1})
			return err
		},
		"MaxTokens is 0": func() error { _, err := m.Generate(t.Context(), []int32{1}, mixtral.GenerateOptions{}); return err },
		"prompt has no tokens": func() error {
			_, err := m.Generate(t.Context(), nil, mixtral.GenerateOptions{MaxTokens: 1})
			return err
		},
	} {
		err := f()
		assert.ErrorContains(t, err, want)
		assert.Equal(t, 1, strings.Count(err.Error(), "mixtral: "), "%v", err)
	}
}

// Close waits for the calls in progress, and frees once.
func TestClose(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b})
	layers, closed := 0, make(chan int)
	_, err = m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{{1, 2}}, Observe: func(context.Context, *mixtral.Routing) error {
		if layers == 0 {
			go func() {
				err := m.Close()
				assert.NoError(t, err)
				closed <- layers
			}()
			for try(m, mixtral.Request{Tokens: [][]int32{{1}}}) == nil {
				runtime.Gosched()
			}
		}
		layers++
		return nil
	}})
	require.NoError(t, err)
	assert.Equal(t, m.Config().Layers, <-closed)
	assert.NoError(t, m.Close())
	assert.EqualError(t, try(m, mixtral.Request{Tokens: [][]int32{{1}}}), "mixtral: the model is closed")
}

func try(m *mixtral.Model, req mixtral.Request) error {
	_, err := m.Forward(context.Background(), req)
	return err
}

// A context that ends stops the pass with its error, and its cache cannot be used
// any more.
func TestCancel(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	m := load(t, checkpoints()["mini-mixtral"], mixtral.Options{Backend: b})
	ctx, cancel := context.WithCancel(context.Background())
	cache := m.NewCache(1)
	layers := 0
	_, err = m.Forward(ctx, mixtral.Request{Tokens: [][]int32{{1, 2, 3}}, Cache: cache, Observe: func(context.Context, *mixtral.Routing) error {
		if layers++; layers == 3 {
			cancel()
		}
		return nil
	}})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 3, layers)
	err = try(m, mixtral.Request{Tokens: [][]int32{{1}}, Cache: cache})
	assert.ErrorContains(t, err, "is invalid since")
}

func TestSampling(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	m := load(t, checkpoints()["variants/a"], mixtral.Options{Backend: b})
	run := func(o mixtral.GenerateOptions) []int32 {
		o.MaxTokens, o.Stop = 20, []int32{}
		ids, err := m.Generate(t.Context(), []int32{7, 8}, o)
		require.NoError(t, err)
		return ids
	}
	greedy := run(mixtral.GenerateOptions{})
	assert.Equal(t, greedy, run(mixtral.GenerateOptions{Temperature: 1, TopP: 1e-9, Seed: 3}))
	assert.Equal(t, greedy, run(mixtral.GenerateOptions{Temperature: 1e-4, Seed: 3}))
	one, same, other := run(mixtral.GenerateOptions{Temperature: 5, Seed: 3}), run(mixtral.GenerateOptions{Temperature: 5, Seed: 3}), run(mixtral.GenerateOptions{Temperature: 5, Seed: 4})
	assert.Equal(t, same, one)
	assert.NotEqual(t, other, one)
	// A stop token ends the text and is not part of it.
	stop := greedy[5]
	ids, err := m.Generate(t.Context(), []int32{7, 8}, mixtral.GenerateOptions{MaxTokens: 20, Stop: []int32{stop}})
	require.NoError(t, err, "with stop token %d", stop)
	assert.Equal(t, greedy[:slices.Index(greedy, stop)], ids, "with stop token %d", stop)
}

func TestOpenBackendErrors(t *testing.T) {
	for name, want := range map[string]string{
		"":                  "unknown",
		"gpu":               "unknown",
		"go:nonsense":       "nonsense",
		"xla":               "a plugin is required",
		"xla:./plugin.so":   "must be absolute",
		"xla:/no/plugin.so": `backend "xla:/no/plugin.so": no such file or directory`,
		"xla:none":          "put pjrt_c_api_none_plugin.so into ~/.local/lib/go-xla or into a folder of PJRT_PLUGIN_LIBRARY_PATH, or use xla:/path",
	} {
		b, err := mixtral.OpenBackend(name)
		assert.Nil(t, b)
		require.Error(t, err, name)
		if !strings.Contains(err.Error(), "built without XLA") { // with CGO_ENABLED=0
			assert.ErrorContains(t, err, want)
		}
	}
}
