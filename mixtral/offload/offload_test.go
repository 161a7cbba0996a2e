package offload

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noise predicts something else for each token and layer.
type noise struct{ inputs bool }

func (noise) Name() string { return "noise" }
func (n noise) Requires() speculate.Requirements {
	return speculate.Requirements{Inputs: n.inputs, Logits: n.inputs}
}
func (noise) Supports(speculate.Horizon) bool { return true }
func (noise) Predict(views []speculate.View, out []float32) error {
	e := len(out) / len(views)
	for i, v := range views {
		for j := range e {
			out[i*e+j] = float32((7*v.Token()+3*v.Layer()+5*j)%11) / 11
		}
	}
	return nil
}

// replay predicts what was recorded.
type replay struct {
	noise
	m   trace.Model
	doc *trace.Document
}

func (r replay) Name() string { return "replay" }
func (r replay) Predict(views []speculate.View, out []float32) error {
	clear(out)
	for i, v := range views {
		if v.Token() < r.doc.Len() {
			for k, e := range r.doc.ExpertsAt(&r.m, v.Token(), v.Layer()) {
				out[i*r.m.Experts+int(e)] = 1 - float32(k)/8
			}
		}
	}
	return nil
}

// backend returns the Go backend.
func backend(t testing.TB) mixtral.Options { return backends(t)["go"] }

// backends are Go, and with EXPERTSPEC_TEST_XLA the executors of XLA, and what runs on
// devices with memory of their own.
func backends(t testing.TB) map[string]mixtral.Options {
	all, err := opened()
	require.NoError(t, err)
	return all
}

var opened = sync.OnceValues(func() (map[string]mixtral.Options, error) {
	b, err := mixtral.OpenBackend("go")
	all := map[string]mixtral.Options{"go": {Backend: b, Chunk: 17}}
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if err != nil || plugin == "" {
		return all, err
	}
	x, err := mixtral.OpenBackend("xla:" + plugin)
	all["xla"] = mixtral.Options{Backend: x, Chunk: 17}
	all["xla stepped"] = mixtral.Options{Backend: x, Chunk: 17, Executor: mixtral.Stepped}
	if x != nil && x.HasSharedBuffers() {
		all["remote"] = mixtral.Options{Backend: ownMemory{x}, Chunk: 17, Executor: mixtral.Stepped}
	}
	return all, err
})

// ownMemory is a backend as if its device had memory of its own.
type ownMemory struct{ compute.Backend }

func (ownMemory) HasSharedBuffers() bool { return false }

// open loads a model with a store, which the test closes.
func open(t testing.TB, files fs.FS, mo mixtral.Options, o Options) (*mixtral.Model, *Store) {
	t.Helper()
	s, err := New(o)
	require.NoError(t, err)
	mo.Experts = s
	m, err := mixtral.Load(context.Background(), files, mo)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, s
}

// settled waits for what is in flight and checks that every place is free or holds
// one expert, and that the engine agrees.
func settled(t *testing.T, s *Store) {
	t.Helper()
	select {
	case s.turn <- struct{}{}:
		<-s.turn
	case <-time.After(10 * time.Second):
		t.Fatal("a step still uses experts")
	}
	for {
		s.mu.Lock()
		var open *transfer
		for _, p := range s.places {
			if p.last != nil && !p.last.ended() {
				open = p.last
			}
		}
		if _, more := s.engine.Next(); open == nil && !more && len(s.demands) == 0 {
			break // locked
		}
		s.mu.Unlock()
		if open != nil {
			select {
			case <-open.done:
			case <-time.After(10 * time.Second):
				t.Fatal("a transfer does not end")
			}
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	defer s.mu.Unlock()
	for _, p := range s.places {
		if p.id < 0 {
			require.Contains(t, s.free, p)
		} else {
			require.Same(t, p, s.at[p.id])
			require.NotContains(t, s.free, p)
			require.True(t, s.engine.Resident(p.id))
		}
	}
	for id, p := range s.at {
		require.Equal(t, p != nil, s.engine.Resident(int32(id)))
	}
}

// results are the logits of a batch in chunks, of a document that is continued, and
// the ids of a greedy continuation; fewer without all. s may be nil.
func results(t *testing.T, m *mixtral.Model, s *Store, p speculate.Predictor, all bool) [][]float32 {
	t.Helper()
	ctx := context.Background()
	c := m.Config()
	rng := rand.New(rand.NewPCG(7, 3))
	document := func(n int) (ids []int32) {
		for range n {
			ids = append(ids, rng.Int32N(int32(c.VocabSize)))
		}
		return ids
	}
	observer := func() (mixtral.Hook, bool) {
		if s == nil || p == nil {
			return nil, false
		}
		x, err := s.NewPrefetcher(c.TraceModel("x"), PrefetchOptions{Predictor: p, NextToken: true})
		require.NoError(t, err)
		return x.Observe, x.RouterInput()
	}
	req := mixtral.Request{Tokens: [][]int32{document(40), document(1), document(13), document(5)}, Logits: mixtral.AllLogits}
	steps := []int{20, 1, 1, 3, 1}
	if !all {
		req.Tokens, steps = req.Tokens[2:3], []int{16, 1, 1}
	}
	req.Observe, req.RouterInput = observer()
	out, err := m.Forward(ctx, req)
	require.NoError(t, err)
	logits := out.Logits
	cache := m.NewCache(2)
	defer cache.Close()
	hook, input := observer()
	for _, n := range steps {
		out, err := m.Forward(ctx, mixtral.Request{Tokens: [][]int32{document(n), document(1)}, Logits: mixtral.AllLogits, Cache: cache, Observe: hook, RouterInput: input})
		require.NoError(t, err)
		logits = append(logits, out.Logits...)
	}
	if !all {
		return logits
	}
	o := mixtral.GenerateOptions{MaxTokens: 6, Stop: []int32{}}
	o.Observe, o.RouterInput = observer()
	ids, err := m.Generate(ctx, document(4), o)
	require.NoError(t, err)
	for _, id := range ids {
		logits = append(logits, []float32{float32(id)})
	}
	return logits
}

var shapes = []mixtraltest.Checkpoint{
	{Layers: 3, Experts: 3, TopK: 2, Hidden: 12, ExpertWidth: 5, Heads: 3, KVHeads: 1, Vocabulary: 11},
	{Layers: 2, Experts: 9, TopK: 4, Hidden: 40, ExpertWidth: 33, Heads: 4, Vocabulary: 98, Fused: true},
	{Layers: 2, Experts: 1, TopK: 1, Hidden: 34, ExpertWidth: 7, Heads: 17, KVHeads: 1, Vocabulary: 101, Shards: 2},
}

// form is the form of a model's weights.
type form struct {
	dtype dtypes.DType
	q     mixtral.QuantizeMode
}

var forms = []form{{dtypes.Float32, 0}, {dtypes.BFloat16, 0}, {dtypes.Float32, mixtral.Int8}, {dtypes.BFloat16, mixtral.Int8}}

// With every policy, results are bit-equal to those of the resident model, also where
// experts are computed on the host, except if the executor is not the host's.
func TestEqual(t *testing.T) {
	for name, mo := range backends(t) {
		for i, shape := range shapes {
			for k, form := range forms {
				if name != "go" && k != []int{2, 0, 1}[i] {
					continue // XLA compiles for each
				}
				mo.DType, mo.Quantize = form.dtype, form.q
				testEqual(t, fmt.Sprintf("%s %d %v %v", name, i, form.dtype, form.q), shape, mo, name == "go")
			}
		}
	}
}

func testEqual(t *testing.T, name string, shape mixtraltest.Checkpoint, mo mixtral.Options, all bool) {
	files := shape.FS()
	resident, err := mixtral.Load(t.Context(), files, mo)
	require.NoError(t, err)
	want := results(t, resident, nil, nil, all)
	require.NoError(t, resident.Close())
	least := min(max(2, shape.TopK), shape.Experts)
	if !all {
		least = min(2*least, shape.Experts) // two documents together
	}
	for j, o := range []Options{
		{Slots: least, HostMemory: 1 << 20, Host: true},
		{Slots: least, Policy: prefetch.OnDemand},
		{Slots: least + 2, Policy: prefetch.DecayedLFU, HostMemory: 3000},
		{Slots: least, PerLayer: true, Policy: prefetch.LFU, HostMemory: 1 << 20, Readers: 1},
		{Slots: least},
		{Slots: 1000, Readers: 5},
		{Slots: least + 3, Policy: prefetch.Reuse},
		{Slots: least + 3, Policy: prefetch.Static},
	} {
		for n, p := range []speculate.Predictor{noise{inputs: true}, noise{}, nil} {
			if !all && (n != j%3 || j != 0 && shape.Layers != 2 || j > 3) {
				continue // XLA compiles for each
			}
			t.Run(fmt.Sprintf("%s/%d %+v", name, j, p), func(t *testing.T) {
				m, s := open(t, files, mo, o)
				got := results(t, m, s, p, all)
				if o.Host && !all {
					requireClose(t, want, got, mo.DType)
				} else {
					require.Equal(t, want, got)
				}
				settled(t, s)
				st := s.Stats()
				c := st.Total
				assert.Equal(t, c.Requests, c.Hits+c.Late+c.Misses+c.Host)
				assert.Equal(t, o.Host, c.Host > 0, "experts were computed on the host")
				assert.EqualValues(t, c.Transfers*int64(s.src.Bytes), st.DiskBytes+st.HostBytes)
				assert.Zero(t, st.Failed)
				if o.Slots == 1000 {
					assert.LessOrEqual(t, c.Transfers, int64(len(s.at)), "each is read at most once")
					if p == nil {
						assert.Equal(t, c.Cold, c.Transfers)
					}
				}
			})
		}
	}
}

func requireClose(t *testing.T, want, got [][]float32, dtype dtypes.DType) {
	tolerance := 2e-5
	if dtype == dtypes.BFloat16 {
		tolerance = .05
	}
	require.Len(t, got, len(want))
	for n := range got {
		require.Len(t, got[n], len(want[n]))
		for i := range got[n] {
			require.InDelta(t, want[n][i], got[n][i], tolerance, "number %d of result %d", i, n)
		}
	}
}

// Decoding, the store's hits and misses are those that the simulator counts on the
// routing that it recorded: one implementation decides.
func TestSimulatorAgrees(t *testing.T) {
	files := mixtraltest.Checkpoint{Layers: 4, Experts: 7, TopK: 2, Hidden: 24}.FS()
	for _, o := range []Options{
		{Slots: 5}, {Slots: 11, Policy: prefetch.LFU}, {Slots: 13, Policy: prefetch.DecayedLFU, HalfLife: 3}, {Slots: 9, Policy: prefetch.OnDemand},
		{Slots: 3, PerLayer: true}, {Slots: 4, PerLayer: true, Policy: prefetch.DecayedLFU},
		{Slots: 9, Policy: prefetch.Static}, {Slots: 4, PerLayer: true, Policy: prefetch.Static, Static: []int32{9, 1, 27, 8}},
		{Slots: 9, Policy: prefetch.Reuse, HalfLife: 2},
	} {
		m, s := open(t, files, backend(t), o)
		var observe mixtral.Hook
		cfg := prefetch.Config{}
		if o.Policy == prefetch.Reuse {
			x, err := s.NewPrefetcher(m.Config().TraceModel("x"), PrefetchOptions{Predictor: noise{}})
			require.NoError(t, err)
			observe = x.Observe
			cfg.Predictor = noise{}
		}
		doc := decode(t, m, observe, 60)
		settled(t, s)
		p := cfg.Predictor
		cfg = s.o.config(o.Slots)
		cfg.Hold, cfg.Load, cfg.Compute, cfg.Predictor = true, time.Millisecond, time.Millisecond, p
		r, err := prefetch.Simulate(t.Context(), speculate.Slice(trace.Header{Model: m.Config().TraceModel("x"), NoWeights: true}, []*trace.Document{doc}), cfg)
		require.NoError(t, err)
		st := s.Stats()
		for l := range st.Layers {
			st.Layers[l].StallSeconds, r.Layers[l].StallSeconds = 0, 0
		}
		assert.Equal(t, r.Layers, st.Layers, "%+v", o)
		assert.Positive(t, st.Total.Misses)
		assert.Len(t, st.Steps, 60)
	}
}

// decode computes tokens one at a time and returns their routing, without weights.
func decode(t *testing.T, m *mixtral.Model, observe mixtral.Hook, n int) *trace.Document {
	t.Helper()
	rec, err := mixtral.NewRecorder(trace.Header{Model: m.Config().TraceModel("x"), NoWeights: true})
	require.NoError(t, err)
	cache := m.NewCache(1)
	defer cache.Close()
	both := func(ctx context.Context, r *mixtral.Routing) error {
		if observe != nil {
			if err := observe(ctx, r); err != nil {
				return err
			}
		}
		return rec.Observe(ctx, r)
	}
	for i := range n {
		_, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{{int32(i * i % 50)}}, Cache: cache, Observe: both, RouterInput: true})
		require.NoError(t, err)
	}
	doc := rec.Take(0)
	doc.Dataset, doc.ID = "a", "b"
	return doc
}

// With a predictor that is right, everything but the first layer's experts of the
// first token is read ahead, in time where reading is fast; a wrong one wastes.
func TestPrefetches(t *testing.T) {
	files := mixtraltest.Checkpoint{Layers: 4, Experts: 7, TopK: 2, Hidden: 24}.FS()
	m, _ := open(t, files, backend(t), Options{Slots: 6})
	doc := decode(t, m, nil, 30)
	model := m.Config().TraceModel("x")
	ahead := PrefetchOptions{NextToken: true}
	run := func(p speculate.Predictor, o Options) prefetch.Counts {
		m, s := open(t, files, backend(t), o)
		ahead.Predictor = p
		x, err := s.NewPrefetcher(model, ahead)
		require.NoError(t, err)
		settle := func(ctx context.Context, r *mixtral.Routing) error {
			settled := func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				_, more := s.engine.Next()
				return !more && !slices.ContainsFunc(s.places, func(p *place) bool { return p.last != nil && !p.last.ended() })
			}
			for !settled() { // what was read ahead is here before the next layer needs it
				time.Sleep(100 * time.Microsecond)
			}
			return x.Observe(ctx, r)
		}
		again := decode(t, m, settle, 30)
		require.Equal(t, doc.Experts, again.Experts)
		settled(t, s)
		return s.Stats().Total
	}
	c := run(replay{m: model, doc: doc}, Options{Slots: 6})
	assert.EqualValues(t, 2, c.Misses, "the first layer of the first token")
	assert.EqualValues(t, 0, c.Late)
	assert.LessOrEqual(t, c.Wasted, int64(2))
	c = run(noise{}, Options{Slots: 6})
	assert.Positive(t, c.Wasted)
	assert.Positive(t, c.Misses)
	c = run(replay{m: model, doc: doc}, Options{Slots: 2})
	assert.EqualValues(t, 0, c.Prefetched, "no slot that is not in use")
	ahead.Horizon.Layers = 2
	c = run(replay{m: model, doc: doc}, Options{Slots: 9})
	assert.EqualValues(t, 4, c.Misses, "the first two layers of the first token")
	ahead.Nearer = true
	c = run(replay{m: model, doc: doc}, Options{Slots: 9})
	assert.EqualValues(t, 2, c.Misses, "the second is predicted from the first")
}

// An expert that is predicted but late is waited for, and read once.
func TestLate(t *testing.T) {
	files := mixtraltest.Checkpoint{Layers: 4, Experts: 7, TopK: 2, Hidden: 24}.FS()
	m, _ := open(t, files, backend(t), Options{Slots: 6})
	doc := decode(t, m, nil, 10)
	model := m.Config().TraceModel("x")
	o := Options{Slots: 6, Bandwidth: 4 << 20}
	m, s := open(t, files, backend(t), o)
	x, err := s.NewPrefetcher(model, PrefetchOptions{Predictor: replay{m: model, doc: doc}})
	require.NoError(t, err)
	decode(t, m, x.Observe, 10)
	settled(t, s)
	st := s.Stats()
	assert.Positive(t, st.Total.Late)
	assert.Positive(t, st.Total.StallSeconds)
	least := float64(st.DiskBytes) / float64(o.Bandwidth)
	assert.GreaterOrEqual(t, st.ReadSeconds, least*.9)
	var stalled float64
	for _, step := range st.Steps {
		stalled += step.StallSeconds
	}
	assert.InDelta(t, st.Total.StallSeconds, stalled, 1e-6)
}
