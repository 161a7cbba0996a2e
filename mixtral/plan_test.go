package mixtral

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bytes is the size of the weights.
func (w *weights) bytes() int64 {
	buffers := []compute.Buffer{w.embed, w.norm}
	if w.head != w.embed {
		buffers = append(buffers, w.head)
	}
	for _, l := range w.layers {
		buffers = append(buffers, l.dense()...)
		for _, m := range slices.Concat(l.w13, l.w2) {
			buffers = append(buffers, m.buffers()...)
		}
	}
	return bufferBytes(buffers...)
}

func bufferBytes(buffers ...compute.Buffer) (n int64) {
	for _, b := range buffers {
		if b == nil {
			continue
		}
		if shape, err := b.Shape(); err == nil {
			n += int64(shape.ByteSize())
		}
	}
	return n
}

// bytes is the size of the keys and values.
func (c *Cache) bytes() (n int64) {
	for _, p := range c.parts {
		n += bufferBytes(append(slices.Concat(p.k, p.v), p.recent.kv)...)
		for _, x := range slices.Concat(p.hostK, p.hostV) {
			n += 4 * int64(cap(x))
		}
	}
	return n
}

// planModels are checkpoints of odd shapes, one of a tied head, one in 8 bits.
func planModels(t *testing.T) map[string]fs.FS {
	models := map[string]fs.FS{"mini": mini.FS(),
		"wide": mixtraltest.Checkpoint{Layers: 3, Experts: 5, TopK: 2, Hidden: 24, ExpertWidth: 40, Heads: 6, KVHeads: 2, Vocabulary: 97}.FS()}
	for _, name := range []string{"a", "b", "c"} {
		models[name] = os.DirFS(filepath.Join("..", "testdata", "variants", name))
	}
	quantized := t.TempDir()
	require.NoError(t, WriteInt8(context.Background(), models["c"], quantized, nil))
	models["stored int8"] = os.DirFS(quantized)
	return models
}

// planForms are how models are loaded.
var planForms = []Options{{}, {DType: dtypes.BFloat16}, {Quantize: Int8}, {DType: dtypes.BFloat16, Quantize: Int8}}

// planBackends calls f with backends whose memory is the host's, and with one that has
// memory of its own.
func planBackends(t *testing.T, f func(t *testing.T, kind string, b compute.Backend)) {
	be, err := OpenBackend("go")
	require.NoError(t, err)
	t.Run("go", func(t *testing.T) { f(t, "go", be) })
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if plugin == "" {
		return
	}
	x, err := OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	t.Run("xla", func(t *testing.T) { f(t, "xla:cpu", x) })
	t.Run("remote", func(t *testing.T) { f(t, "xla:cuda", ownMemory{x}) })
}

// TestPlanWeights compares plans with the buffers of models that are loaded.
func TestPlanWeights(t *testing.T) {
	models := planModels(t)
	planBackends(t, func(t *testing.T, kind string, b compute.Backend) {
		for name, fsys := range models {
			ck, err := OpenCheckpoint(fsys)
			require.NoError(t, err)
			defer ck.Close()
			for _, o := range planForms {
				o.Backend = b
				m, err := Load(t.Context(), fsys, o)
				require.NoError(t, err)
				p, err := ck.Plan(PlanOptions{Options: o})
				require.NoError(t, err)
				of := fmt.Sprint(name, " ", o.DType, " ", o.Quantize)
				assert.Equal(t, m.w.bytes(), p.Weights().Device, of)
				assert.Zero(t, p.Weights().Host+p.Weights().Checkpoint, of)
				parts := map[string][2]int64{
					"embedding": {bufferBytes(m.w.embed), p.Embedding.Device}, "attention": {0, p.Attention.Device}, "experts": {0, p.Experts.Device}}
				for _, l := range m.w.layers {
					for part, buffers := range map[string][]compute.Buffer{"attention": append(l.qkv.all(), l.o.all()...), "experts": nil} {
						if part == "experts" {
							for _, x := range slices.Concat(l.w13, l.w2) {
								buffers = append(buffers, x.all()...)
							}
						}
						parts[part] = [2]int64{parts[part][0] + bufferBytes(buffers...), parts[part][1]}
					}
				}
				if m.w.head != m.w.embed {
					parts["embedding"] = [2]int64{2 * parts["embedding"][0], parts["embedding"][1]}
				}
				for part, x := range parts {
					assert.Equal(t, x[0], x[1], "%s: %s", of, part)
				}
				o.Backend = nil
				elsewhere, err := ck.Plan(PlanOptions{Options: o, Kind: kind})
				require.NoError(t, err)
				assert.Equal(t, p, elsewhere, "%s: without the backend", of)
				require.NoError(t, m.Close())
			}
		}
	})
}

// TestPlanCache compares plans with the caches of models that generated.
func TestPlanCache(t *testing.T) {
	models := planModels(t)
	planBackends(t, func(t *testing.T, kind string, b compute.Backend) {
		names := []string{"wide", "a", "b", "c"}
		if kind != "go" { // compiling takes long
			names = []string{"wide"}
		}
		for _, name := range names {
			for i, o := range planForms {
				for j, x := range []struct{ documents, tokens, generated, chunk int }{
					{1, 7, 0, 0}, {1, 64, 2, 0}, {2, 65, 1, 0}, {3, 33, 40, 0}, {1, 60, 70, 16}, {2, 63, 2, 24}, {1, 40, 131, 0}, {5, 30, 6, 0},
				} {
					if kind != "go" && (i+j)%4 != 0 {
						continue
					}
					o.Backend, o.Chunk = b, x.chunk
					m, err := Load(t.Context(), models[name], o)
					require.NoError(t, err)
					want := int64(0)
					if x.generated > 0 {
						c := m.NewCache(x.documents)
						for n := range x.generated {
							tokens := make([][]int32, x.documents)
							for d := range tokens {
								tokens[d] = []int32{int32(n % 64)}
								if n == 0 {
									tokens[d] = make([]int32, x.tokens)
								}
							}
							_, err := m.Forward(t.Context(), Request{Tokens: tokens, Cache: c})
							require.NoError(t, err)
						}
						want = c.bytes()
						c.Close()
					}
					p, err := m.ckPlan(t, models[name], PlanOptions{Options: o, Documents: x.documents, Tokens: x.tokens, Generated: x.generated})
					require.NoError(t, err)
					assert.Equal(t, want, p.Cache.Device, "%s, %v %v: %+v", name, o.DType, o.Quantize, x)
					require.NoError(t, m.Close())
				}
			}
		}
	})
}

// TestPlanMesh compares plans with what the first of several devices has.
func TestPlanMesh(t *testing.T) {
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if plugin == "" {
		t.Skip("EXPERTSPEC_TEST_XLA is not set")
	}
	b, err := OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	fsys := planModels(t)["wide"]
	for i, mesh := range []Mesh{{Width: 3}, {Experts: 2}, {Experts: 2, Width: 2}, {Experts: 3}} {
		o := planForms[i%len(planForms)]
		o.Backend, o.Mesh = b, mesh
		m, err := Load(t.Context(), fsys, o)
		require.NoError(t, err)
		c := m.NewCache(1)
		for _, tokens := range [][]int32{make([]int32, 65), {1}} {
			_, err = m.Forward(t.Context(), Request{Tokens: [][]int32{tokens}, Cache: c})
			require.NoError(t, err)
		}
		work := PlanOptions{Options: o, Documents: 1, Tokens: 65, Generated: 2}
		p, err := m.ckPlan(t, fsys, work)
		require.NoError(t, err)
		assert.Equal(t, m.w.bytes(), p.Weights().Device, "%v", mesh)
		assert.Equal(t, c.bytes(), p.Cache.Device, "%v", mesh)
		assert.Equal(t, mesh.Devices(), p.Devices)
		work.Kind, work.Backend = "xla:cuda", nil
		elsewhere, err := m.ckPlan(t, fsys, work)
		require.NoError(t, err)
		assert.Equal(t, p, elsewhere, "%v: without the backend", mesh)
		c.Close()
		require.NoError(t, m.Close())
	}
}

func (m *Model) ckPlan(t *testing.T, fsys fs.FS, o PlanOptions) (*Plan, error) {
	ck, err := OpenCheckpoint(fsys)
	require.NoError(t, err)
	defer ck.Close()
	return ck.Plan(o)
}

// TestPlanHeap compares plans with what Go's runtime says of a model, whose matrices
// have sizes that GoMLX's Go backend does not round up, and of its cache and work.
func TestPlanHeap(t *testing.T) {
	be, err := OpenBackend("go")
	require.NoError(t, err)
	fsys := mixtraltest.Checkpoint{Layers: 4, Experts: 8, Hidden: 128, ExpertWidth: 384, Heads: 16, KVHeads: 4, Vocabulary: 1024}.FS()
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, o := range planForms {
		of := fmt.Sprint(o.DType, " ", o.Quantize)
		o.Backend = be
		before := heap()
		m, err := Load(t.Context(), fsys, o)
		require.NoError(t, err)
		loaded := heap()
		p, err := m.ckPlan(t, fsys, PlanOptions{Options: o, Documents: 1, Tokens: 500, Generated: 2})
		require.NoError(t, err)
		assert.InEpsilon(t, p.Weights().Device, loaded-before, .02, of)
		c := m.NewCache(1)
		percent := debug.SetGCPercent(-1) // which would free hostWork
		_, err = m.Forward(t.Context(), Request{Tokens: [][]int32{make([]int32, 500)}, Cache: c, Logits: AllLogits})
		require.NoError(t, err)
		work := m.workHeld()
		debug.SetGCPercent(percent)
		logits := int64(500 * 4 * m.cfg.VocabSize) // which are the caller's
		assert.InEpsilon(t, work, p.Temporary.Device-logits, .25, of)
		assert.InEpsilon(t, p.Weights().Device+c.bytes(), heap()-before, .02, of)
		require.NoError(t, m.Close())
		runtime.KeepAlive(c)
	}
}

// workHeld is the bytes of all hostWork.
func (m *Model) workHeld() (n int64) {
	m.work.New = nil
	for {
		w, ok := m.work.Get().(*hostWork)
		if !ok {
			return n
		}
		for _, x := range [][]float32{w.x, w.h, w.qkv, w.att, w.in, w.act, w.fit, w.fitAtt, w.cos, w.sin, w.qcos, w.qsin, w.logits, w.rows, w.k, w.v} {
			n += 4 * int64(cap(x))
		}
		for _, l := range w.lanes {
			n += 4 * int64(cap(l.q)+cap(l.scores)+cap(l.out))
			n += l.gate.Bytes() + l.up.Bytes()
		}
	}
}

// TestPlanPublished compares parameters and bytes with those of the published
// checkpoints: total_size of their model.safetensors.index.json.
func TestPlanPublished(t *testing.T) {
	for _, x := range []struct {
		shape             string
		vocabulary        int
		parameters, bytes int64
	}{
		{"8x7B", 32000, 46_702_792_704, 93_405_585_408},
		{"8x22B", 32000, 140_620_634_112, 281_241_268_224}, // v0.1
		{"8x22B", 32768, 140_630_071_296, 281_260_142_592}, // v0.3
	} {
		shape, err := large.Named(x.shape)
		require.NoError(t, err)
		shape.Vocabulary = x.vocabulary
		fsys, size := shape.Model()
		assert.Equal(t, x.bytes, size)
		ck, err := OpenCheckpoint(fsys)
		require.NoError(t, err)
		p, err := ck.Plan(PlanOptions{Options: Options{DType: dtypes.BFloat16}, Kind: "xla:cuda"})
		require.NoError(t, err)
		assert.Equal(t, x.parameters, p.Total().Parameters)
		// Routers and norms are float32 in memory.
		assert.Equal(t, x.bytes, p.Weights().Device-p.Router.Device/2)
		require.NoError(t, ck.Close())
	}
}

// TestPlanRefuses loads models that do not fit, of which nothing may be read.
func TestPlanRefuses(t *testing.T) {
	be, err := OpenBackend("go")
	require.NoError(t, err)
	was := hostMemory
	defer func() { hostMemory = was }()
	hostMemory = func() int64 { return 141_000_000_000 }
	shape, err := large.Named("8x22B")
	require.NoError(t, err)
	var read atomic.Int64
	fsys, _ := shape.Model()
	fsys = countingFS{fsys, &read}
	ck, err := OpenCheckpoint(fsys)
	require.NoError(t, err)
	headers := read.Swap(0)
	require.NoError(t, ck.Close())
	_, err = Load(t.Context(), fsys, Options{Backend: be, DType: dtypes.BFloat16, Quantize: Int8})
	assert.Equal(t, headers, read.Swap(0))
	assert.EqualError(t, err, "mixtral: the weights need 141116006400 bytes of memory, there are 141000000000: embedding and head 805306368, attention 4935712768, "+
		"routers and norms 13787136, experts 135361200128; package mixtral/offload runs the model in less")
	refused := &plainStore{refused: errors.New("too little")}
	_, err = Load(t.Context(), fsys, Options{Backend: be, DType: dtypes.BFloat16, Quantize: Int8, Experts: refused})
	assert.EqualError(t, err, "too little")
	assert.Equal(t, ExpertSource{Layers: 56, Experts: 8, TopK: 2, Bytes: 302_145_536, Resident: 5_754_806_272}, refused.planned)
	assert.Zero(t, refused.closed)
	assert.Equal(t, headers, read.Load())
}

func TestPlanErrors(t *testing.T) {
	ck, err := OpenCheckpoint(mini.FS())
	require.NoError(t, err)
	defer ck.Close()
	for want, o := range map[string]PlanOptions{
		`mixtral: PlanOptions.Kind is ""; must be go, xla:cpu or xla:cuda`:      {},
		`mixtral: PlanOptions.Kind is "cuda"; must be go, xla:cpu or xla:cuda`:  {Kind: "cuda"},
		"mixtral: PlanOptions are of 1 documents of 0 tokens and 0 more":        {Kind: "go", Documents: 1},
		"mixtral: PlanOptions are of -1 documents of 1 tokens and 0 more":       {Kind: "go", Documents: -1, Tokens: 1},
		"mixtral: PlanOptions are of 1 documents of 1 tokens and -1 more":       {Kind: "go", Documents: 1, Tokens: 1, Generated: -1},
		"mixtral: Options.DType is Float16; must be Float32 or BFloat16":        {Kind: "go", Options: Options{DType: dtypes.Float16}},
		"mixtral: Options.Experts requires executor stepped or auto, not whole": {Kind: "xla:cuda", Options: Options{Executor: Whole, Experts: new(plainStore)}},
	} {
		_, err := ck.Plan(o)
		assert.EqualError(t, err, want)
	}
	p, err := ck.Plan(PlanOptions{Kind: "go"})
	require.NoError(t, err)
	need := p.Weights().Device
	assert.NoError(t, p.Check(need))
	assert.ErrorContains(t, p.Check(need-1), fmt.Sprintf("the weights need %d bytes of memory, there are %d: embedding", need, need-1))
}
