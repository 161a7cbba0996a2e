package offload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
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

// Reads that fail now and then are errors, or, where they were ahead, none; the model
// works afterwards and no slot is lost.
func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	files := shapes[1].FS()
	resident, err := mixtral.Load(t.Context(), files, backend(t))
	require.NoError(t, err)
	want := results(t, resident, nil, nil, true)
	require.NoError(t, resident.Close())
	for _, o := range []Options{{Slots: 4}, {Slots: 7, Readers: 1}, {Slots: 5, PerLayer: true, HostMemory: 1 << 16, Policy: prefetch.OnDemand}} {
		var faulty atomic.Bool
		var reads atomic.Int64
		o.wrap = func(read readFunc) readFunc {
			return func(ctx context.Context, layer, expert int, dst []byte) error {
				if n := reads.Add(1); faulty.Load() && n%5 == 0 {
					clear(dst[:len(dst)/2]) // a short read
					return boom
				}
				return read(ctx, layer, expert, dst)
			}
		}
		m, s := open(t, files, backend(t), o)
		failed := 0
		for i := range 40 {
			faulty.Store(true)
			x, err := s.NewPrefetcher(m.Config().TraceModel("x"), PrefetchOptions{Predictor: noise{}, Experts: 3})
			require.NoError(t, err)
			_, err = m.Generate(t.Context(), []int32{int32(i), 3, 5, 7}, mixtral.GenerateOptions{MaxTokens: 2, Stop: []int32{}, Observe: x.Observe})
			if err != nil {
				failed++
				require.ErrorIs(t, err, boom)
				require.ErrorContains(t, err, "mixtral: offload: boom")
			}
			settled(t, s)
			faulty.Store(false)
			if i%10 == 0 {
				require.Equal(t, want, results(t, m, s, noise{}, true))
				settled(t, s)
			}
		}
		assert.Positive(t, failed, "%+v", o)
		assert.Positive(t, s.Stats().Failed)
	}
}

// A disk that fails only for what is read ahead does not fail the model.
func TestFaultsAhead(t *testing.T) {
	files := shapes[1].FS()
	resident, err := mixtral.Load(t.Context(), files, backend(t))
	require.NoError(t, err)
	want := results(t, resident, nil, nil, true)
	require.NoError(t, resident.Close())
	var s *Store
	o := Options{Slots: 7, wrap: func(read readFunc) readFunc {
		return func(ctx context.Context, layer, expert int, dst []byte) error {
			if ctx == s.ctx {
				return errors.New("boom")
			}
			return read(ctx, layer, expert, dst)
		}
	}}
	s, err = New(o)
	require.NoError(t, err)
	mo := backend(t)
	mo.Experts = s
	m, err := mixtral.Load(t.Context(), files, mo)
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, want, results(t, m, s, noise{}, true))
	settled(t, s)
	st := s.Stats()
	assert.Positive(t, st.Failed)
	read := st.Total.Prefetched - st.Failed // for steps of many tokens
	assert.GreaterOrEqual(t, read, int64(0))
	assert.LessOrEqual(t, st.Total.Used, st.Total.Late+read)
}

// Cancelling ends a step that waits for a disk that does not answer, also while
// another waits for its turn; then the model works.
func TestCancel(t *testing.T) {
	files := shapes[1].FS()
	for _, tokens := range [][]int32{{3}, {3, 4, 5, 6, 7, 8, 9, 10}} {
		var stuck atomic.Bool
		reading := make(chan struct{}, 100)
		o := Options{Slots: 4, wrap: func(read readFunc) readFunc {
			return func(ctx context.Context, layer, expert int, dst []byte) error {
				if stuck.Load() && layer == 1 {
					reading <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}
				return read(ctx, layer, expert, dst)
			}
		}}
		m, s := open(t, files, backend(t), o)
		want, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{tokens}, Logits: mixtral.LastLogits})
		require.NoError(t, err)
		stuck.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := m.Forward(ctx, mixtral.Request{Tokens: [][]int32{tokens}})
				errs <- err
			}()
		}
		<-reading
		cancel()
		for range 2 {
			select {
			case err := <-errs:
				require.ErrorIs(t, err, context.Canceled)
			case <-time.After(10 * time.Second):
				t.Fatal("cancelling does not end the step")
			}
		}
		stuck.Store(false)
		settled(t, s)
		got, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{tokens}, Logits: mixtral.LastLogits})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// A damaged weight is an error that names file and tensor.
func TestDamaged(t *testing.T) {
	c := shapes[0]
	c.Edit = func(tensors map[string]*mixtraltest.Tensor) {
		for e := range 3 {
			copy(tensors[fmt.Sprintf("model.layers.2.block_sparse_moe.experts.%d.w3.weight", e)].Data[40:], []byte{0, 0, 0xc0, 0x7f})
		}
	}
	m, s := open(t, c.FS(), backend(t), Options{Slots: 2})
	for range 2 {
		_, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{{1, 2, 3}}})
		require.ErrorContains(t, err, "model.safetensors")
		require.ErrorContains(t, err, "model.layers.2.block_sparse_moe.experts.")
		require.ErrorContains(t, err, "element 10 is NaN")
		settled(t, s)
	}
}

// Several callers at a time get the results of one.
func TestConcurrent(t *testing.T) {
	files := shapes[1].FS()
	m, s := open(t, files, backend(t), Options{Slots: 5})
	want := results(t, m, s, nil, true)
	errs := make(chan error)
	for range 4 {
		go func() {
			var err error
			defer func() { errs <- err }()
			x, err := s.NewPrefetcher(m.Config().TraceModel("x"), PrefetchOptions{Predictor: noise{}})
			if err != nil {
				return
			}
			for range 5 {
				_, err = m.Generate(context.Background(), []int32{1, 2, 3}, mixtral.GenerateOptions{MaxTokens: 4, Stop: []int32{}, Observe: x.Observe})
				if err != nil {
					return
				}
			}
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	settled(t, s)
	require.Equal(t, want, results(t, m, s, nil, true))
}

// Closing while experts are being read ahead ends that.
func TestClose(t *testing.T) {
	files := shapes[1].FS()
	s, err := New(Options{Slots: 8, Bandwidth: 100_000})
	require.NoError(t, err)
	mo := backend(t)
	mo.Experts = s
	m, err := mixtral.Load(t.Context(), files, mo)
	require.NoError(t, err)
	x, err := s.NewPrefetcher(m.Config().TraceModel("x"), PrefetchOptions{Predictor: noise{}, Experts: 9})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	cache := m.NewCache(1)
	for i := 0; err == nil; i++ {
		_, err = m.Forward(ctx, mixtral.Request{Tokens: [][]int32{{int32(i)}}, Observe: x.Observe, Cache: cache})
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	done := make(chan error)
	go func() { done <- m.Close() }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the model does not close")
	}
	require.NoError(t, s.Close())
}

// Limits that are too low say what is needed, and with exactly that the model runs.
func TestLimits(t *testing.T) {
	files := shapes[1].FS()
	mo := backend(t)
	s, err := New(Options{DeviceMemory: 1000})
	require.NoError(t, err)
	mo.Experts = s
	_, err = mixtral.Load(t.Context(), files, mo)
	bytes := 4 * 3 * 40 * 33
	rest := 4 * (2*(4*40*40+9*40+2*40) + 2*98*40 + 40)
	require.EqualError(t, err, fmt.Sprintf("offload: device memory of 1000 bytes is too little: the model needs %d bytes, for 4 experts of %d bytes and %d bytes of other weights", 4*bytes+rest, bytes, rest))
	for _, x := range []struct{ memory, slots int }{{4*bytes + rest, 4}, {5*bytes + rest - 1, 4}, {5*bytes + rest, 5}, {1 << 30, 18}} {
		m, s := open(t, files, backend(t), Options{DeviceMemory: int64(x.memory), HostMemory: int64(2*bytes + 1)})
		results(t, m, s, nil, true)
		st := s.Stats()
		assert.Equal(t, x.slots, st.Slots)
		assert.Equal(t, Peak{Weights: int64(rest), Slots: int64(x.slots * bytes), Host: int64(2 * bytes)}, st.Peak)
		assert.LessOrEqual(t, st.Peak.Device(), int64(x.memory))
		assert.Equal(t, float64(x.slots)/18, st.Resident)
	}
	for want, o := range map[string]Options{
		"one of the two is required": {},
		"none may be negative":       {Slots: -1},
		"-1 readers":                 {Slots: 3, Readers: -1},
		"bandwidth is -2":            {Slots: 3, Bandwidth: -2},
	} {
		_, err := New(o)
		require.ErrorContains(t, err, want)
	}
	for want, o := range map[string]Options{
		"3 slots are too few: the model needs 4 (4 experts": {Slots: 3},
		"the model needs 4 (8 experts":                      {Slots: 3, PerLayer: true},
		"knows the future":                                  {Slots: 4, Policy: prefetch.OPT},
		`policy is "x"`:                                     {Slots: 4, Policy: "x"},
		fmt.Sprintf("for 8 experts of %d bytes", bytes):     {DeviceMemory: int64(rest + 7*bytes), PerLayer: true},
	} {
		s, err := New(o)
		require.NoError(t, err)
		_, err = s.NewPrefetcher(trace.Model{}, PrefetchOptions{})
		require.ErrorContains(t, err, "no model is loaded")
		mo.Experts = s
		_, err = mixtral.Load(t.Context(), files, mo)
		require.ErrorContains(t, err, want)
		require.NoError(t, s.Close())
	}
	m, s := open(t, files, backend(t), Options{Slots: 4})
	mo.Experts = s
	_, err = mixtral.Load(t.Context(), files, mo)
	require.ErrorContains(t, err, "another model")
	model := m.Config().TraceModel("x")
	for want, o := range map[string]PrefetchOptions{
		"Predictor is nil":               {},
		"must be a distance of at least": {Predictor: noise{}, Horizon: speculate.Horizon{KnownID: true}},
		"10 experts are to be read":      {Predictor: noise{}, Experts: 10},
		"oracle":                         {Predictor: &speculate.TokenID{}, NextToken: true},
	} {
		_, err := s.NewPrefetcher(model, o)
		if want != "oracle" {
			require.ErrorContains(t, err, want)
		} else {
			require.ErrorIs(t, err, speculate.ErrHorizon)
		}
	}
	model.Experts++
	_, err = s.NewPrefetcher(model, PrefetchOptions{Predictor: noise{}})
	require.ErrorContains(t, err, "the store's model has 2, 9 and 4")
}

// Steps that use all experts do not evict what they find: of the second of two, as many
// hit as the slots allow, less those through which the others pass.
func TestStreamKeeps(t *testing.T) {
	const layers, experts, slots = 4, 9, 20
	all := mixtraltest.Checkpoint{Layers: layers, Experts: experts, TopK: 2, Hidden: 24,
		Route: func(_ int, token int32) []int32 { return []int32{token % experts, (token + 1) % experts} }}
	m, s := open(t, all.FS(), backend(t), Options{Slots: slots})
	prompt := make([]int32, experts)
	for i := range prompt {
		prompt[i] = int32(i)
	}
	var before prefetch.Counts
	for range 2 {
		_, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{prompt}})
		require.NoError(t, err)
		settled(t, s)
		now := s.Stats().Total
		if before.Requests == 0 {
			assert.EqualValues(t, layers*experts, now.Transfers)
		} else {
			const window = 3
			assert.LessOrEqual(t, now.Transfers-before.Transfers, int64(layers*experts-slots+2*window))
			assert.Zero(t, now.Wasted)
		}
		before = now
	}
}
