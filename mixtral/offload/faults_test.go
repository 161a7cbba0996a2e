package offload

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
		planned, err := New(s.o)
		require.NoError(t, err)
		ck, err := mixtral.OpenCheckpoint(files)
		require.NoError(t, err)
		p, err := ck.Plan(mixtral.PlanOptions{Options: mixtral.Options{Experts: planned}, Kind: "go"})
		require.NoError(t, err)
		require.NoError(t, ck.Close())
		assert.Equal(t, []int{x.slots, 2}, []int{p.Slots, p.Copies})
		assert.Equal(t, st.Peak.Device(), p.Weights().Device)
		assert.Equal(t, st.Peak.Host, p.Weights().Host)
		assert.EqualValues(t, max(0, 18-2-x.slots)*bytes, p.Weights().Checkpoint, "stored in float32 too")
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
