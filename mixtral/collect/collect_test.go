package collect_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
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
	rep, err := tryRun(t.Context(), collect.Mixtral(m), dir, o, collect.Slice("mini", docs))
	require.NoError(t, err)
	return rep
}

// tryRun runs the model over sources, with the mini tokenizer.
func tryRun(ctx context.Context, m collect.Model, dir string, o collect.Options, sources ...collect.Source) (*collect.Report, error) {
	return collect.Run(ctx, m, must(loadTokenizer()), sources, dir, o)
}

// miniModel returns the mini model.
func miniModel() collect.Model { return collect.Mixtral(must(model())) }

// valid checks a trace and its number of documents.
func valid(t testing.TB, dir string, documents int) {
	t.Helper()
	v, err := trace.Validate(dir, trace.ValidateOptions{SumToOne: true})
	require.NoError(t, err)
	require.NoError(t, v.Err())
	require.Equal(t, documents, v.Documents)
}

// files returns the names and contents of all files in dir.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, e := range must(os.ReadDir(dir)) {
		require.False(t, e.IsDir(), "%s remains", e.Name())
		out[e.Name()] = string(must(os.ReadFile(filepath.Join(dir, e.Name()))))
	}
	return out
}

// documentsOf returns the documents of a trace.
func documentsOf(t testing.TB, dir string) []*trace.Document {
	t.Helper()
	docs, err := must(trace.Open(dir)).ReadAll()
	require.NoError(t, err)
	return docs
}

// divided returns files as if so many processes had written them, not one.
func divided(files map[string]string, parts int) map[string]string {
	files["_collect.json"] = strings.Replace(files["_collect.json"], `"parts": 1,`, fmt.Sprintf(`"parts": %d,`, parts), 1)
	return files
}

func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))
	require.Equal(t, w, g)
	for name := range want {
		assert.True(t, got[name] == want[name], "%s differs", name)
	}
}

// The trace holds, for each document, what a hook receives in a forward pass of
// that document alone.
func TestTraceIsTheRouting(t *testing.T) {
	dir := t.TempDir()
	o := collect.Options{DocumentsPerDataset: 2, MaxTokens: 37, Seed: 5, Logits: true, LogitLayers: []int{3, 11}, RouterInput: true, InputLayers: []int{1}, DocumentsPerShard: 4}
	rep := run(t, documents(5, 3), dir, o)
	require.Equal(t, int64(6), rep.Documents)
	require.Equal(t, 2, rep.Shards)
	require.Equal(t, 0, rep.ProblemCount)
	m, tok := must(model()), must(loadTokenizer())
	texts := make(map[string]string)
	for _, d := range documents(5, 3) {
		texts[d.ID] = d.Text
	}
	docs := documentsOf(t, dir)
	require.Len(t, docs, 6)
	for _, d := range docs {
		ids := tok.Encode(texts[d.ID], true)
		ids = ids[:min(len(ids), 37)]
		require.Equal(t, ids, d.Tokens, d.ID)
		checkRouting(t, m, d, ids)
	}
}

func checkRouting(t *testing.T, m *mixtral.Model, d *trace.Document, ids []int32) {
	const l, k, e, dim, delta = 16, 2, 8, 96, 1e-4
	_, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{ids}, RouterInput: true,
		Observe: func(_ context.Context, r *mixtral.Routing) error {
			for i, pos := range r.Position {
				name := fmt.Sprintf("%s: token %d, layer %d", d.ID, pos, r.Layer)
				at := (int(pos)*l + r.Layer) * k
				assert.Equal(t, r.Experts[i*k:(i+1)*k], d.Experts[at:at+k], name)
				assert.InDeltaSlice(t, r.Weights[i*k:(i+1)*k], d.Weights[at:at+k], delta, name)
				if j := slices.Index([]int{3, 11}, r.Layer); j >= 0 {
					assert.InDeltaSlice(t, r.Logits[i*e:(i+1)*e], d.RouterLogits[(int(pos)*2+j)*e:][:e], delta, name)
				}
				if r.Layer == 1 {
					assert.InDeltaSlice(t, r.Input[i*dim:(i+1)*dim], d.RouterInput[int(pos)*dim:][:dim], delta, name)
				}
			}
			return nil
		}})
	assert.NoError(t, err)
}

// Another model, with a rule for weights and two phases, is collected like a
// Mixtral.
func TestOtherModel(t *testing.T) {
	m := &otherModel{tracetest.Router{
		Header: trace.Header{Model: trace.Model{Name: "other", Layers: 3, Stacks: []trace.Stack{{Name: "encoder", Layers: 1}, {Name: "decoder", Layers: 2}},
			Experts: 5, TopK: 1, Vocabulary: 4096}},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{(s.Token + int32(s.Layer)) % 5} }), Prompt: 2,
	}}
	dir := t.TempDir()
	o := collect.Options{MaxTokens: 20, BatchTokens: 64, Concurrency: 2, Logits: true, LogitLayers: []int{2}}
	rep, err := tryRun(t.Context(), m, dir, o, collect.Slice("mini", documents(3, 2)))
	require.NoError(t, err)
	assert.Equal(t, 6, int(rep.Documents))
	assert.Equal(t, 2, rep.Shards)
	h := must(trace.Open(dir)).Header()
	assert.Equal(t, "other", h.Model.Name)
	assert.Equal(t, []int{2}, h.LogitLayers)
	report := must(trace.Validate(dir, trace.ValidateOptions{})) // weights are of a softmax over all experts
	require.NoError(t, report.Err())
	require.Equal(t, 6, report.Documents)
	for _, d := range documentsOf(t, dir) {
		assert.Equal(t, 2, d.Encoded())
		assert.Equal(t, trace.Decode, d.Phases[2])
		for i, token := range d.Tokens {
			want := []int32{token % 5, trace.NoExpert, trace.NoExpert}
			if i >= 2 {
				want = []int32{trace.NoExpert, (token + 1) % 5, (token + 2) % 5}
			}
			assert.Equal(t, want, d.Experts[i*3:][:3])
		}
	}
}

type otherModel struct{ router tracetest.Router }

func (m *otherModel) TraceHeader() trace.Header { return m.router.Header }

func (m *otherModel) Record(_ context.Context, h *trace.Header, tokens [][]int32, _ []*trace.Document) ([]*trace.Document, error) {
	router := m.router
	router.Header = *h
	docs := make([]*trace.Document, len(tokens))
	for i, ids := range tokens {
		docs[i] = router.Document("", "", ids)
	}
	return docs, nil
}

// A model that returns too few documents is an error.
func TestWrongModel(t *testing.T) {
	_, err := tryRun(t.Context(), wrongModel{miniModel()}, t.TempDir(), collect.Options{MaxTokens: 5}, collect.Slice("mini", documents(9, 1)))
	assert.ErrorContains(t, err, "the model returned 0 documents for a batch of 1")
}

type wrongModel struct{ collect.Model }

func (wrongModel) Record(context.Context, *trace.Header, [][]int32, []*trace.Document) ([]*trace.Document, error) {
	return nil, nil
}

// Parts together make the files of one run, whatever the order of the input.
func TestPartsAndOrder(t *testing.T) {
	docs := documents(6, 3)
	whole, parts := t.TempDir(), t.TempDir()
	o := collect.Options{DocumentsPerDataset: 4, MaxTokens: 16, Seed: 9, DocumentsPerShard: 3}
	run(t, docs, whole, o)
	for part := range 3 {
		rand.New(rand.NewPCG(1, uint64(part))).Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		o.Part, o.Parts = part, 3
		run(t, docs, parts, o)
	}
	same(t, files(t, parts), divided(files(t, whole), 3))
	o.Part, o.Parts = 0, 0
	rep := run(t, docs, parts, o)
	assert.Equal(t, 0, rep.Shards)
	assert.Equal(t, 4, rep.Existing)
	o.Seed = 10
	other := t.TempDir()
	run(t, docs, other, o)
	assert.False(t, maps.Equal(files(t, whole), files(t, other)), "another seed chooses other documents")
}
