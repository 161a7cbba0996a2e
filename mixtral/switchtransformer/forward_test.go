package switchtransformer_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func variant(name string) fs.FS {
	return os.DirFS(filepath.Join("..", "..", "testdata", "variants-switch", name))
}

// onGo loads a model on the Go backend.
func onGo(t testing.TB, fsys fs.FS) *switchtransformer.Model {
	t.Helper()
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	return load(t, fsys, switchtransformer.Options{Backend: b})
}

// onHost calls f with the options of the host executor. TestGraph compares that of
// graphs with it.
func onHost(t *testing.T, f func(name string, o switchtransformer.Options)) {
	t.Helper()
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	f("go", switchtransformer.Options{Backend: b})
}

// someTokens returns n token ids of a vocabulary.
func someTokens(n, vocabulary, seed int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(3 + (seed+i*i*7+i*31)%(vocabulary-3))
	}
	return tokens
}

// byDocument collects each document's experts and dropped tokens, in order.
type byDocument struct {
	experts map[string][]int32
	dropped map[string][]bool
}

func (d *byDocument) hook(_ context.Context, r *switchtransformer.Routing) error {
	if d.experts == nil {
		d.experts, d.dropped = map[string][]int32{}, map[string][]bool{}
	}
	for t, doc := range r.Document {
		key := fmt.Sprintf("%d %s %d", doc, r.Stack, r.Layer)
		if int(r.Position[t]) != len(d.experts[key]) {
			return fmt.Errorf("%s: position %d after %d tokens", key, r.Position[t], len(d.experts[key]))
		}
		d.experts[key], d.dropped[key] = append(d.experts[key], r.Experts[t]), append(d.dropped[key], r.Dropped[t])
	}
	return nil
}

// A batch gives what its documents give alone: capacity is per sequence, and lengths of
// others change nothing.
func TestBatch(t *testing.T) {
	onHost(t, func(name string, o switchtransformer.Options) {
		m := load(t, variant("c"), o)
		var req switchtransformer.Request
		req.Logits = switchtransformer.AllLogits
		for i, n := range []int{40, 3, 1, 17} {
			req.Tokens = append(req.Tokens, someTokens(n, 53, i))
			req.DecoderTokens = append(req.DecoderTokens, someTokens([]int{2, 33, 16, 1}[i], 53, i+9))
		}
		var all byDocument
		req.Observe = all.hook
		together, err := m.Forward(context.Background(), req)
		require.NoError(t, err, name)
		for i := range req.Tokens {
			var one byDocument
			alone, err := m.Forward(context.Background(), switchtransformer.Request{
				Tokens: req.Tokens[i : i+1], DecoderTokens: req.DecoderTokens[i : i+1], Logits: switchtransformer.AllLogits, Observe: one.hook})
			require.NoError(t, err, name)
			near(t, alone.Logits[0], together.Logits[i], 2e-5, name)
			for s := range switchtransformer.Stack(2) {
				of := func(doc int) string { return fmt.Sprintf("%d %s 0", doc, s) }
				assert.Equal(t, one.experts[of(0)], all.experts[of(i)], name)
				assert.Equal(t, one.dropped[of(0)], all.dropped[of(i)], name)
			}
		}
		assert.Contains(t, all.dropped["0 encoder 0"], true, "nothing is dropped: the test shows nothing")
	})
}

// Over a cache, the decoder's results do not depend on how its tokens are divided, and
// are those of an uncapped pass.
func TestCache(t *testing.T) {
	onHost(t, func(name string, o switchtransformer.Options) {
		m := load(t, variant("c"), o)
		ctx := context.Background()
		texts := [][]int32{someTokens(19, 53, 1), someTokens(5, 53, 2)}
		decoder := [][]int32{someTokens(30, 53, 3), someTokens(30, 53, 4)}
		var want byDocument
		whole, err := m.Forward(ctx, switchtransformer.Request{Tokens: texts, DecoderTokens: decoder, Uncapped: true, Logits: switchtransformer.AllLogits, Observe: want.hook})
		require.NoError(t, err, name)
		assert.NotContains(t, want.dropped["0 decoder 1"], true, name)
		cache := m.NewCache(2)
		defer cache.Close()
		var got byDocument
		logits := make([][]float32, 2)
		for _, cut := range [][2]int{{0, 0}, {0, 1}, {1, 2}, {2, 9}, {9, 29}, {29, 30}} {
			req := switchtransformer.Request{Cache: cache, Logits: switchtransformer.AllLogits, Observe: got.hook}
			if cut[1] == 0 {
				req.Tokens = texts
			} else {
				req.DecoderTokens = [][]int32{decoder[0][cut[0]:cut[1]], decoder[1][cut[0]:cut[1]]}
			}
			out, err := m.Forward(ctx, req)
			require.NoError(t, err, "%s %v", name, cut)
			for i := range out.Logits {
				logits[i] = append(logits[i], out.Logits[i]...)
			}
			assert.Equal(t, []int{cut[1], cut[1]}, cache.Lengths(), name)
		}
		assert.Equal(t, want, got, name)
		for i := range logits {
			near(t, whole.Logits[i], logits[i], 5e-5, name)
		}
	})
}

// The decoder applies the capacity where it computes a sequence at once, in phase Prefill.
func TestCapacity(t *testing.T) {
	m := onGo(t, variant("c"))
	for _, uncapped := range []bool{false, true} {
		dropped, phase := 0, trace.Phase("")
		_, err := m.Forward(context.Background(), switchtransformer.Request{
			Tokens: [][]int32{{5}}, DecoderTokens: [][]int32{someTokens(50, 53, 3)}, Uncapped: uncapped,
			Observe: func(_ context.Context, r *switchtransformer.Routing) error {
				if r.Stack == switchtransformer.Decoder {
					phase = r.Phase[0]
					for _, d := range r.Dropped {
						if d {
							dropped++
						}
					}
				}
				return nil
			}})
		require.NoError(t, err)
		if uncapped {
			assert.Zero(t, dropped)
			assert.Equal(t, trace.Decode, phase)
		} else {
			assert.Greater(t, dropped, 20)
			assert.Equal(t, trace.Prefill, phase)
		}
	}
}

// The encoder alone routes as with a decoder.
func TestEncoderAlone(t *testing.T) {
	onHost(t, func(name string, o switchtransformer.Options) {
		m := load(t, variant("c"), o)
		var alone, both byDocument
		text := [][]int32{someTokens(35, 53, 1)}
		out, err := m.Forward(context.Background(), switchtransformer.Request{Tokens: text, Observe: alone.hook, Logits: switchtransformer.AllLogits})
		require.NoError(t, err)
		assert.Nil(t, out.Logits)
		_, err = m.Forward(context.Background(), switchtransformer.Request{Tokens: text, DecoderTokens: [][]int32{{2}}, Observe: both.hook})
		require.NoError(t, err)
		assert.Len(t, alone.experts, 1)
		assert.Equal(t, both.experts["0 encoder 0"], alone.experts["0 encoder 0"], name)
	})
}

// Weights and products of bfloat16 change little.
func TestBFloat16(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	exact := onGo(t, mini.FS())
	m := load(t, mini.FS(), switchtransformer.Options{Backend: b, DType: dtypes.BFloat16})
	assert.Equal(t, dtypes.BFloat16, m.DType())
	c := references(t, "mini-switch")["case1"]
	var want, got byDocument
	for _, r := range []struct {
		m *switchtransformer.Model
		d *byDocument
	}{{exact, &want}, {m, &got}} {
		_, err = r.m.Forward(context.Background(), switchtransformer.Request{Tokens: [][]int32{c.tokens[0]}, DecoderTokens: [][]int32{c.tokens[1]}, Observe: r.d.hook})
		require.NoError(t, err)
	}
	same, n := 0, 0
	for key, experts := range want.experts {
		for i, e := range experts {
			n++
			if got.experts[key][i] == e {
				same++
			}
		}
	}
	assert.Greater(t, float64(same)/float64(n), .95, "of %d", n)
}

// Concurrent passes over one model do not affect each other.
func TestConcurrent(t *testing.T) {
	m := onGo(t, variant("a"))
	req := func(seed int) switchtransformer.Request {
		return switchtransformer.Request{Tokens: [][]int32{someTokens(20+seed, 101, seed)}, DecoderTokens: [][]int32{someTokens(7+3*seed, 101, seed)}, Logits: switchtransformer.AllLogits}
	}
	want := make([]*switchtransformer.Output, 4)
	for i := range want {
		var err error
		want[i], err = m.Forward(context.Background(), req(i))
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	for round := range 3 {
		for i := range want {
			wg.Go(func() {
				got, err := m.Forward(context.Background(), req(i))
				if assert.NoError(t, err, round) {
					assert.Equal(t, want[i], got)
				}
			})
		}
	}
	wg.Wait()
}

func TestRequestErrors(t *testing.T) {
	m := onGo(t, variant("a"))
	ctx := context.Background()
	cache := m.NewCache(1)
	defer cache.Close()
	_, err := m.Forward(ctx, switchtransformer.Request{Tokens: [][]int32{{5, 6}}, Cache: cache})
	require.NoError(t, err)
	other := onGo(t, variant("a")).NewCache(1)
	for _, c := range []struct {
		req  switchtransformer.Request
		want string
	}{
		{switchtransformer.Request{}, "the request has no texts"},
		{switchtransformer.Request{DecoderTokens: [][]int32{{0}}}, "the request has no texts"},
		{switchtransformer.Request{Tokens: [][]int32{{5}, {}}}, "document 1, encoder: no tokens"},
		{switchtransformer.Request{Tokens: [][]int32{{5, 101}}}, "document 0, encoder: token 1: id 101 is not in the vocabulary of 101"},
		{switchtransformer.Request{Tokens: [][]int32{{5}}, DecoderTokens: [][]int32{{0, -1}}}, "document 0, decoder: token 1: id -1 is not in the vocabulary of 101"},
		{switchtransformer.Request{Tokens: [][]int32{{5}}, DecoderTokens: [][]int32{{}}}, "document 0, decoder: no tokens"},
		{switchtransformer.Request{Tokens: [][]int32{{5}}, DecoderTokens: [][]int32{{0}, {0}}}, "1 texts for the encoder and 2 for the decoder"},
		{switchtransformer.Request{Tokens: [][]int32{{5}}, Cache: cache}, "the cache holds encoded texts"},
		{switchtransformer.Request{DecoderTokens: [][]int32{{5}, {6}}, Cache: cache}, "the cache holds 1 texts, the request has 2"},
		{switchtransformer.Request{DecoderTokens: [][]int32{{5}}, Cache: other}, "the cache belongs to another model"},
		{switchtransformer.Request{DecoderTokens: [][]int32{{5}}, Cache: m.NewCache(1)}, "the cache holds no texts yet"},
	} {
		_, err := m.Forward(ctx, c.req)
		assert.ErrorContains(t, err, c.want)
		assert.ErrorContains(t, err, "switchtransformer: ")
	}
	_, err = m.Forward(ctx, switchtransformer.Request{DecoderTokens: [][]int32{{0}}, Cache: cache, Logits: switchtransformer.LastLogits})
	assert.NoError(t, err, "errors about requests leave a cache as it was")
}

// A pass that fails leaves no usable cache.
func TestBrokenCache(t *testing.T) {
	m := onGo(t, variant("a"))
	cache := m.NewCache(1)
	failure := errors.New("enough")
	_, err := m.Forward(context.Background(), switchtransformer.Request{Tokens: [][]int32{{5}}, DecoderTokens: [][]int32{{0}}, Cache: cache,
		Observe: func(_ context.Context, r *switchtransformer.Routing) error {
			if r.Stack == switchtransformer.Decoder {
				return failure
			}
			return nil
		}})
	assert.ErrorIs(t, err, failure)
	_, err = m.Forward(context.Background(), switchtransformer.Request{DecoderTokens: [][]int32{{0}}, Cache: cache})
	assert.ErrorContains(t, err, "the cache is invalid since a forward pass failed")
}

func TestContextAndClose(t *testing.T) {
	m := onGo(t, variant("a"))
	ctx, cancel := context.WithCancel(context.Background())
	layers := 0
	_, err := m.Forward(ctx, switchtransformer.Request{Tokens: [][]int32{someTokens(30, 101, 1)}, DecoderTokens: [][]int32{{0}},
		Observe: func(context.Context, *switchtransformer.Routing) error { layers++; cancel(); return nil }})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, layers)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err = m.Forward(context.Background(), switchtransformer.Request{Tokens: [][]int32{{5}}})
	assert.ErrorContains(t, err, "the model is closed")
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	_, err = switchtransformer.Load(ctx, variant("a"), switchtransformer.Options{Backend: b})
	assert.ErrorIs(t, err, context.Canceled)
}
