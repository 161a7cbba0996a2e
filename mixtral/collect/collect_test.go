package collect_test

import (
	"context"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// model loads the mini model once, on the Go backend.
var model = sync.OnceValues(func() (*mixtral.Model, error) { return load("go") })

// xla loads it on the XLA plugin that the environment names.
var xla = sync.OnceValues(func() (*mixtral.Model, error) { return load("xla:" + os.Getenv("EXPERTSPEC_TEST_XLA")) })

func load(backend string) (*mixtral.Model, error) {
	b, err := mixtral.OpenBackend(backend)
	if err != nil {
		return nil, err
	}
	return mixtral.Load(context.Background(), mini.FS(), mixtral.Options{Backend: b})
}

var loadTokenizer = sync.OnceValues(func() (*tokenizer.Tokenizer, error) {
	return tokenizer.Load(mini.FS(), "tokenizer.json")
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// documents returns n of the mini documents of each of the first sets domains.
func documents(n, sets int) []collect.Document {
	var out []collect.Document
	count := make(map[string]int)
	for _, d := range must(mini.Documents()) {
		if count[d.Domain] < n && (count[d.Domain] > 0 || len(count) < sets) {
			count[d.Domain]++
			out = append(out, collect.Document{Dataset: d.Domain, ID: d.ID, Text: d.Text})
		}
	}
	return out
}

func run(t testing.TB, docs []collect.Document, dir string, o collect.Options) *collect.Report {
	t.Helper()
	return runOn(t, must(model()), docs, dir, o)
}

func runOn(t testing.TB, m *mixtral.Model, docs []collect.Document, dir string, o collect.Options) *collect.Report {
	t.Helper()
	rep, err := collect.Run(context.Background(), m, must(loadTokenizer()), []collect.Source{collect.Slice("mini", docs)}, dir, o)
	require.NoError(t, err)
	return rep
}

// files returns the names and contents of all files in dir.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, e := range must(os.ReadDir(dir)) {
		if !assert.False(t, e.IsDir(), "%s is left", e.Name()) {
			continue
		}
		out[e.Name()] = string(must(os.ReadFile(filepath.Join(dir, e.Name()))))
	}
	return out
}

// documentsOf goes through a trace.
func documentsOf(t testing.TB, dir string) iter.Seq[*trace.Document] {
	return func(yield func(*trace.Document) bool) {
		for d, err := range must(trace.Open(dir)).Documents() {
			require.NoError(t, err)
			if !yield(d) {
				return
			}
		}
	}
}

func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))
	require.Equal(t, w, g)
	for name := range want {
		assert.Equal(t, want[name], got[name])
	}
}

// The trace holds, for each document, what a forward pass of that document
// alone tells a hook.
func TestTraceIsTheRouting(t *testing.T) {
	dir := t.TempDir()
	o := collect.Options{Docs: 2, Tokens: 37, Seed: 5, Logits: true, LogitLayers: []int{3, 11}, RouterInput: true, InputLayers: []int{1}, Shard: 4}
	rep := run(t, documents(5, 3), dir, o)
	require.Equal(t, int64(6), rep.Documents)
	require.Equal(t, 2, rep.Shards)
	require.Equal(t, 0, rep.ProblemCount)
	m, tok := must(model()), must(loadTokenizer())
	texts := make(map[string]string)
	for _, d := range documents(5, 3) {
		texts[d.ID] = d.Text
	}
	r := must(trace.Open(dir))
	n := 0
	for d, err := range r.Documents() {
		require.NoError(t, err)
		n++
		ids := tok.Encode(texts[d.ID], true)
		if len(ids) > 37 {
			ids = ids[:37]
		}
		require.Equal(t, ids, d.Tokens, "%s: tokens %v, want %v", d.ID, d.Tokens, ids)
		checkRouting(t, m, d, ids)
	}
	assert.Equal(t, 6, n)
}

func checkRouting(t *testing.T, m *mixtral.Model, d *trace.Document, ids []int32) {
	const l, k, e, dim = 16, 2, 8, 96
	close := func(a, b []float32) bool {
		for i := range b {
			if diff := a[i] - b[i]; diff > 1e-4 || diff < -1e-4 {
				return false
			}
		}
		return true
	}
	_, err := m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{ids}, RouterInput: true,
		Observe: func(_ context.Context, r *mixtral.Routing) error {
			for i, pos := range r.Position {
				at := (int(pos)*l + r.Layer) * k
				assert.Equal(t, r.Experts[i*k:(i+1)*k], d.Experts[at:at+k], "%s: token %d, layer %d: experts %v, want %v", d.ID, pos, r.Layer, d.Experts[at:at+k], r.Experts[i*k:(i+1)*k])
				assert.True(t, close(d.Weights[at:at+k], r.Weights[i*k:(i+1)*k]), "%s: token %d, layer %d: experts %v, want %v", d.ID, pos, r.Layer, d.Experts[at:at+k], r.Experts[i*k:(i+1)*k])
				j := slices.Index([]int{3, 11}, r.Layer)
				assert.False(t, j >= 0 && !close(d.RouterLogits[(int(pos)*2+j)*e:], r.Logits[i*e:(i+1)*e]), "%s: token %d, layer %d: other logits", d.ID, pos, r.Layer)
				assert.False(t, r.Layer == 1 && !close(d.RouterInput[int(pos)*dim:], r.Input[i*dim:(i+1)*dim]), "%s: token %d, layer %d: other router input", d.ID, pos, r.Layer)
			}
			return nil
		}})
	assert.NoError(t, err)
}

// Parts together make the files of one run, whatever the order of the input.
func TestPartsAndOrder(t *testing.T) {
	docs := documents(6, 3)
	whole, parts := t.TempDir(), t.TempDir()
	o := collect.Options{Docs: 4, Tokens: 16, Seed: 9, Shard: 3}
	run(t, docs, whole, o)
	for part := range 3 {
		rand.New(rand.NewPCG(1, uint64(part))).Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		o.Part, o.Parts = part, 3
		run(t, docs, parts, o)
	}
	same(t, files(t, parts), files(t, whole))
	o.Part, o.Parts = 0, 0
	rep := run(t, docs, parts, o)
	assert.Equal(t, 0, rep.Shards)
	assert.Equal(t, 4, rep.Standing)
	o.Seed = 10
	other := t.TempDir()
	run(t, docs, other, o)
	assert.NotEqual(t, files(t, whole), files(t, other))
}
