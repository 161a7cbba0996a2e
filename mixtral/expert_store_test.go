package mixtral

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plainStore reads every expert when it is used. It has as many slots as it gives
// compute at a time.
type plainStore struct {
	src             ExpertSource
	slots           []*ExpertSlot
	memory          []byte
	host            bool          // few experts are computed on the host
	onHost          []*ExpertSlot // [E/2]
	group           int
	orders          [][]int
	change          func(experts []int, slots []*ExpertSlot) ([]int, []*ExpertSlot)
	planned         ExpertSource
	refused, opened error
	closed          int
}

func (s *plainStore) Plan(src ExpertSource) (slots, copies int, err error) {
	s.planned = src
	return src.Experts, 0, s.refused
}

func (s *plainStore) Open(src ExpertSource) error {
	s.src = src
	for range src.Experts {
		slot, err := src.NewSlot()
		if err != nil {
			return err
		}
		s.slots = append(s.slots, slot)
	}
	var err error
	if s.memory, err = src.NewMemory(); err != nil {
		return err
	}
	if s.host {
		for i := range s.slots {
			memory, err := src.NewMemory()
			if err != nil {
				return err
			}
			if i%2 == 0 {
				s.onHost = append(s.onHost, src.HostSlot(memory))
			}
		}
	}
	return s.opened
}

func (s *plainStore) Close() error { s.closed++; return nil }

func (s *plainStore) Use(ctx context.Context, rt *Routing, experts []int, few bool, compute func([]int, []*ExpertSlot) error) error {
	s.orders = append(s.orders, experts)
	ascending := make([]int, 0, len(experts))
	for e := range s.src.Experts {
		for _, x := range experts {
			if x == e {
				ascending = append(ascending, e)
			}
		}
	}
	group := s.group
	if few {
		group = len(ascending)
	}
	for len(ascending) > 0 {
		some := ascending[:min(group, len(ascending))]
		slots := slices.Clone(s.slots[:len(some)])
		for i, e := range some {
			if few && i < len(s.onHost) {
				slots[i] = s.onHost[i]
			}
			if err := s.src.Read(ctx, rt.Layer, e, s.memory); err != nil {
				return err
			}
			if err := slots[i].Write(s.memory, true); err != nil {
				return err
			}
		}
		ascending = ascending[len(some):]
		if s.change != nil {
			some, slots = s.change(some, slots)
		}
		if err := compute(some, slots); err != nil {
			return err
		}
	}
	return nil
}

// backends are those of the tests: Go, and with EXPERTSPEC_TEST_XLA the executors of
// XLA, and what runs on devices with memory of their own.
func storeBackends(t *testing.T) map[string]Options {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	all := map[string]Options{"go": {Backend: b}}
	if plugin := os.Getenv("EXPERTSPEC_TEST_XLA"); plugin != "" {
		x, err := OpenBackend("xla:" + plugin)
		require.NoError(t, err)
		all["xla"] = Options{Backend: x}
		all["xla stepped"] = Options{Backend: x, Executor: Stepped}
		if !xla.IsGPU(x) {
			all["remote"] = Options{Backend: ownMemory{x}, Executor: Stepped}
		}
	}
	return all
}

// ownMemory is a backend as if its device had memory of its own.
type ownMemory struct{ compute.Backend }

func (ownMemory) HasSharedBuffers() bool { return false }

// Experts of a store give results that are bit-equal to those of a model that holds
// them: in all forms, on rows and panels, in chunks, decoded and in batches, for
// checkpoints of 8 bits too. Those that are computed on the host differ by rounding.
func TestExpertStoreEqual(t *testing.T) {
	for name, backend := range storeBackends(t) {
		for i, shape := range []mixtraltest.Checkpoint{
			{Layers: 2, Experts: 3, TopK: 2, Hidden: 12, ExpertWidth: 5, Heads: 3, KVHeads: 1, Vocabulary: 11},
			{Layers: 2, Experts: 9, TopK: 4, Hidden: 40, ExpertWidth: 33, Heads: 4, KVHeads: 4, Vocabulary: 98, Fused: true},
			{Layers: 1, Experts: 4, TopK: 3, Hidden: 300, ExpertWidth: 290, Heads: 6, KVHeads: 2, Vocabulary: 130, Shards: 3},
		} {
			files := shape.FS()
			stored := t.TempDir()
			require.NoError(t, WriteInt8(t.Context(), files, stored, nil))
			for j, o := range []Options{{}, {Quantize: Int8}, {DType: dtypes.BFloat16}, {DType: dtypes.BFloat16, Quantize: Int8}, {}} {
				if name != "go" && j != []int{1, 0, 3}[i] {
					continue // XLA compiles for each
				}
				t.Run(fmt.Sprint(name, i, j, o.DType, o.Quantize), func(t *testing.T) {
					o.Backend, o.Executor, o.Chunk = backend.Backend, backend.Executor, 17
					var files fs.FS = files
					if j == 4 {
						files = os.DirFS(stored)
					}
					resident := runsOf(t, files, o)
					for _, s := range []*plainStore{{group: 1}, {group: 2, host: true}, {group: shape.Experts}} {
						if name != "go" && s.group > 2 {
							continue
						}
						o.Experts = s
						got := runsOf(t, files, o)
						assert.Equal(t, 1, s.closed)
						if !s.host {
							require.Equal(t, resident, got, "%d at a time", s.group)
							continue
						}
						tolerance := 2e-5
						if o.DType == dtypes.BFloat16 {
							tolerance = .05
						}
						for n := range got {
							require.Len(t, got[n], len(resident[n]))
							for at := range got[n] {
								require.InDelta(t, resident[n][at], got[n][at], tolerance, "logit %d of run %d", at, n)
							}
						}
					}
				})
			}
		}
	}
}

// runsOf returns the logits of a batch, and of a document that is continued.
func runsOf(t *testing.T, files fs.FS, o Options) (logits [][]float32) {
	t.Helper()
	m, err := Load(t.Context(), files, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	rng := rand.New(rand.NewPCG(7, 3))
	document := func(n int) (ids []int32) {
		for range n {
			ids = append(ids, rng.Int32N(int32(m.cfg.VocabSize)))
		}
		return ids
	}
	out, err := m.Forward(t.Context(), Request{Tokens: [][]int32{document(40), document(1), document(13), document(5)}, Logits: AllLogits})
	require.NoError(t, err)
	logits = out.Logits
	cache := m.NewCache(2)
	defer cache.Close()
	for _, n := range []int{20, 1, 3, 1} {
		out, err := m.Forward(t.Context(), Request{Tokens: [][]int32{document(n), document(1)}, Logits: AllLogits, Cache: cache})
		require.NoError(t, err)
		logits = append(logits, out.Logits...)
	}
	return logits
}

// A store is called with the experts in order of choice, and without those of weight 0.
func TestExpertStoreOrder(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	c := mixtraltest.Checkpoint{Layers: 2, Experts: 5, TopK: 3}
	s := &plainStore{group: 5}
	m, err := Load(t.Context(), c.FS(), Options{Backend: b, Experts: s})
	require.NoError(t, err)
	defer m.Close()
	assert.Equal(t, [3]int{2, 5, 3}, [3]int{s.src.Layers, s.src.Experts, s.src.TopK})
	_, err = m.Forward(t.Context(), Request{Tokens: [][]int32{{4, 5}}, Intervene: func(_ context.Context, r *Routing) error {
		copy(r.Experts, []int32{4, 0, 2, 2, 1, 4})
		copy(r.Weights, []float32{.5, .3, .2, .6, .4, 0})
		if r.Layer == 1 {
			clear(r.Weights)
		}
		return nil
	}})
	require.NoError(t, err)
	assert.Equal(t, [][]int{{4, 0, 2, 1}}, s.orders)
}

// A store that breaks its contract, or fails, is an error; the model works afterwards.
func TestExpertStoreErrors(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	files := mixtraltest.Checkpoint{Layers: 2, Experts: 5, TopK: 3}.FS()
	s := &plainStore{group: 5}
	m, err := Load(t.Context(), files, Options{Backend: b, Experts: s})
	require.NoError(t, err)
	defer m.Close()
	forward := func() error {
		_, err := m.Forward(t.Context(), Request{Tokens: [][]int32{{4, 5, 6}}})
		return err
	}
	boom := errors.New("boom")
	for want, change := range map[string]func(experts []int, slots []*ExpertSlot) ([]int, []*ExpertSlot){
		"did not compute expert": func([]int, []*ExpertSlot) ([]int, []*ExpertSlot) { return nil, nil },
		"on 0 slots":             func(e []int, _ []*ExpertSlot) ([]int, []*ExpertSlot) { return e, nil },
		"without a slot":         func(e []int, s []*ExpertSlot) ([]int, []*ExpertSlot) { return e, make([]*ExpertSlot, len(e)) },
		"experts remain": func(e []int, s []*ExpertSlot) ([]int, []*ExpertSlot) {
			return append(e[:len(e):len(e)], 4, 4, 4, 4), append(s[:len(s):len(s)], s...)
		},
		"where": func(e []int, s []*ExpertSlot) ([]int, []*ExpertSlot) { return e[1:], s[1:] },
	} {
		s.change = change
		require.ErrorContains(t, forward(), want)
	}
	s.change = nil
	require.NoError(t, forward())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.src.Read(ctx, 0, 0, s.slots[0].Memory()), context.Canceled)
	require.ErrorContains(t, s.src.Read(t.Context(), 2, 0, s.slots[0].Memory()), "no expert 0 of layer 2: there are 2 layers of 5")
	require.ErrorContains(t, s.src.Read(t.Context(), 1, -1, s.slots[0].Memory()), "no expert -1")
	require.ErrorContains(t, s.src.Read(t.Context(), 1, 0, s.slots[0].Memory()[1:]), "an expert needs")

	_, err = Load(t.Context(), files, Options{Backend: b, Experts: s, Executor: Whole})
	require.ErrorContains(t, err, "requires executor stepped or auto, not whole")
	failing := &plainStore{opened: boom}
	_, err = Load(t.Context(), files, Options{Backend: b, Experts: failing})
	require.ErrorIs(t, err, boom)
	assert.Zero(t, failing.closed)
}

// The sizes that a store is given are those of the weights.
func TestExpertSource(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	c := mixtraltest.Checkpoint{Layers: 2, Experts: 3, TopK: 2, Hidden: 12, ExpertWidth: 5, Heads: 3, KVHeads: 1, Vocabulary: 11}
	attention := 2 * ((3+2)*4*12 + 12*12)
	rest := 2*(3*12+2*12) + 12
	for _, x := range []struct {
		o               Options
		bytes, resident int
	}{
		{Options{}, 4 * 3 * 12 * 5, 4 * (attention + rest + 2*11*12)},
		{Options{DType: dtypes.BFloat16}, 2 * 3 * 12 * 5, 2*(attention+2*11*12) + 4*rest},
		{Options{Quantize: Int8}, 3*12*5 + 4*(5+5+12), attention + 4*(2*(5*4+12)+rest+2*11*12)},
	} {
		s := &plainStore{}
		x.o.Backend, x.o.Experts = b, s
		m, err := Load(t.Context(), c.FS(), x.o)
		require.NoError(t, err)
		assert.Equal(t, x.bytes, s.src.Bytes, "%v %v", x.o.DType, x.o.Quantize)
		assert.EqualValues(t, x.resident, s.src.Resident, "%v %v", x.o.DType, x.o.Quantize)
		require.NoError(t, m.Close())
	}
}
