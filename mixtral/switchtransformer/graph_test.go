package switchtransformer

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// graphModel loads a model onto the executor of graphs, whatever the backend.
func graphModel(t *testing.T, fsys fs.FS, b compute.Backend, dtype dtypes.DType) (*Model, *graph) {
	t.Helper()
	ck, err := OpenCheckpoint(fsys)
	require.NoError(t, err)
	defer ck.Close()
	m := &Model{cfg: ck.Config(), dtype: dtype}
	for s := range Stack(stacks) {
		m.blocks[s] = m.cfg.MoEBlocks(s)
	}
	m.x, err = newGraph(&loading{ctx: t.Context(), ck: ck, cfg: &m.cfg, backend: b, dtype: dtype})
	require.NoError(t, err)
	return m, m.x.(*graph)
}

// seen is what a model computed for some requests.
type seen struct {
	logits  [][]float32
	routing []Routing
}

// computed runs requests that a test compares: a ragged batch with more tokens than
// experts take, whole and uncapped; if singly, the same texts one by one; their decoders over a
// cache, in pieces of different lengths, with a hook that chooses other experts; and
// the encoder alone.
func computed(t *testing.T, m *Model, singly bool) map[string]seen {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 8))
	texts := func(lens ...int) [][]int32 {
		out := make([][]int32, len(lens))
		for i, n := range lens {
			for range n {
				out[i] = append(out[i], rng.Int32N(int32(m.cfg.VocabSize)))
			}
		}
		return out
	}
	all := map[string]seen{}
	run := func(name string, req Request) {
		s := all[name]
		req.RouterInput = true
		req.Observe = func(_ context.Context, r *Routing) error {
			kept := *r
			kept.Logits, kept.Input = append([]float32(nil), r.Logits...), append([]float32(nil), r.Input...)
			s.routing = append(s.routing, kept)
			return nil
		}
		out, err := m.Forward(t.Context(), req)
		require.NoError(t, err, name)
		s.logits = append(s.logits, out.Logits...)
		all[name] = s
	}
	encoder, decoder := texts(14, 16, 3, 9, 11), texts(9, 1, 13, 16, 2)
	run("whole", Request{Tokens: encoder, DecoderTokens: decoder, Logits: AllLogits})
	run("uncapped", Request{Tokens: encoder, DecoderTokens: decoder, Logits: AllLogits, Uncapped: true})
	if singly {
		for i := range encoder {
			run("singly", Request{Tokens: encoder[i : i+1], DecoderTokens: decoder[i : i+1], Logits: AllLogits})
		}
	}
	run("encoder", Request{Tokens: encoder})
	cache := m.NewCache(len(encoder))
	defer cache.Close()
	run("cache", Request{Tokens: encoder, DecoderTokens: texts(1, 1, 1, 1, 1), Cache: cache, Logits: LastLogits})
	other := func(_ context.Context, r *Routing) error {
		for i := range r.Experts {
			switch (r.Document[i] + int(r.Position[i])) % 3 {
			case 0:
				r.Experts[i] = int32((int(r.Experts[i]) + r.Layer + 1) % m.cfg.Experts)
			case 1:
				r.Weights[i] = 0
			}
		}
		return nil
	}
	run("cache", Request{DecoderTokens: texts(5, 1, 16, 2, 1), Cache: cache, Logits: AllLogits, Intervene: other})
	for range 2 {
		run("cache", Request{DecoderTokens: texts(1, 1, 1, 1, 1), Cache: cache, Logits: LastLogits, Intervene: other})
	}
	run("cache", Request{DecoderTokens: texts(16, 3, 41, 1, 64), Cache: cache, Logits: LastLogits}) // which grows
	return all
}

// ownMemory is a backend as if its device had memory of its own, like a GPU.
type ownMemory struct{ compute.Backend }

func (ownMemory) HasSharedBuffers() bool { return false }

// TestGraph compares the executor of graphs with the host's: what hooks see, and
// logits.
func TestGraph(t *testing.T) {
	host, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	backends := map[string]compute.Backend{"go": host}
	if plugin := os.Getenv("EXPERTSPEC_TEST_XLA"); plugin != "" {
		b, err := mixtral.OpenBackend("xla:" + plugin)
		require.NoError(t, err)
		if backends["xla"] = b; !xla.IsGPU(b) {
			backends["xla"] = ownMemory{b}
		}
	}
	for _, variant := range []string{"a", "b"} {
		fsys := os.DirFS(filepath.Join("..", "..", "testdata", "variants-switch", variant))
		m, err := Load(t.Context(), fsys, Options{Backend: host})
		require.NoError(t, err)
		want := computed(t, m, true)
		require.NoError(t, m.Close())
		for name, b := range backends {
			if name == "xla" && variant == "b" {
				continue // the Go backend runs the same graphs, and compiles them in no time
			}
			t.Run(name+"/"+variant, func(t *testing.T) {
				m, x := graphModel(t, fsys, b, dtypes.Float32)
				x.gpu = name == "xla"               // TestParity has what XLA CPU computes
				got := computed(t, m, name == "go") // XLA compiles other programs for single texts, which TestParity has
				for name, g := range got {
					equal(t, want[name], g, name)
				}
				checkFreed(t, m, x)
			})
		}
	}
}

func equal(t *testing.T, want, got seen, label string) {
	t.Helper()
	require.Len(t, got.logits, len(want.logits), label)
	for i := range want.logits {
		require.InDeltaSlice(t, want.logits[i], got.logits[i], 1e-4, "%s, %d", label, i)
	}
	// Groups of documents differ between executors: rows are compared by their document.
	w, g := byRow(want.routing), byRow(got.routing)
	require.Len(t, g, len(w), label)
	for at, rows := range w {
		require.Len(t, g[at], len(rows), "%s %s", label, at)
		for i, r := range rows {
			s := g[at][i]
			require.Equal(t, [3]any{r.token, r.expert, r.dropped}, [3]any{s.token, s.expert, s.dropped}, "%s %s", label, at)
			require.InDelta(t, r.weight, s.weight, 1e-5, "%s %s", label, at)
			require.InDeltaSlice(t, r.logits, s.logits, 1e-4, "%s %s", label, at)
			require.InDeltaSlice(t, r.input, s.input, 1e-4, "%s %s", label, at)
		}
	}
}

type routedRow struct {
	token, expert int32
	weight        float32
	dropped       bool
	logits, input []float32
}

// byRow returns the rows of routings by stack, layer, document, position and phase.
func byRow(routings []Routing) map[string][]routedRow {
	rows := map[string][]routedRow{}
	for _, r := range routings {
		e, d := len(r.Logits)/len(r.Token), len(r.Input)/len(r.Token)
		for i := range r.Token {
			at := fmt.Sprintf("%s layer %d, document %d, position %d, phase %v", r.Stack, r.Layer, r.Document[i], r.Position[i], r.Phase[i])
			rows[at] = append(rows[at], routedRow{token: r.Token[i], expert: r.Experts[i], weight: r.Weights[i], dropped: r.Dropped[i],
				logits: r.Logits[i*e : (i+1)*e], input: r.Input[i*d : (i+1)*d]})
		}
	}
	return rows
}

// checkFreed closes the model, whose weights are then no buffers any more.
func checkFreed(t *testing.T, m *Model, x *graph) {
	t.Helper()
	buffers := []compute.Buffer{x.w.head, x.w.stacks[Encoder].embed, x.w.stacks[Decoder].embed}
	for s := range x.w.stacks {
		w := &x.w.stacks[s]
		buffers = append(buffers, w.norm, w.table)
		for i, b := range w.blocks {
			require.Equal(t, m.cfg.sparse(Stack(s), i), b.router != nil)
			buffers = append(append(buffers, b.self.norm, b.self.in, b.self.out, b.norm, b.wi, b.wo), b.router...)
			if Stack(s) == Decoder {
				buffers = append(buffers, b.cross.norm, b.cross.in, b.cross.out, b.cross.kv)
			}
		}
	}
	for i, b := range buffers {
		require.True(t, alive(b), "buffer %d", i)
	}
	require.NoError(t, m.Close())
	for i, b := range buffers {
		assert.False(t, alive(b), "buffer %d", i)
	}
}

// alive reports whether a buffer can be read.
func alive(b compute.Buffer) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	shape, err := b.Shape()
	return err == nil && shape.Ok()
}

// Many rows are chosen as single ones are.
func TestChooseParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	const n, e = 5003, 13
	logits := make([]float32, n*e)
	for i := range logits {
		logits[i] = float32(rng.IntN(7)) // ties
	}
	experts, weights := make([]int32, n), make([]float32, n)
	choose(logits, e, experts, weights)
	for i := range n {
		expert, weight := []int32{-1}, []float32{0}
		choose(logits[i*e:(i+1)*e], e, expert, weight)
		require.Equal(t, expert[0], experts[i])
		require.Equal(t, weight[0], weights[i])
	}
}

// In bfloat16 weights take half the memory, and router logits are near those of float32
// up to the first difference of experts.
func TestGraphBFloat16(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	fsys := os.DirFS(filepath.Join("..", "..", "testdata", "variants-switch", "a"))
	var logits [2][]float32
	var sizes [2]uintptr
	for i, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		m, x := graphModel(t, fsys, b, dtype)
		for s := range Stack(stacks) {
			for _, w := range x.w.stacks[s].blocks {
				shape, err := w.wi.Shape()
				require.NoError(t, err)
				sizes[i] += uintptr(shape.ByteSize())
			}
		}
		_, err := m.Forward(t.Context(), Request{Tokens: [][]int32{{5, 9, 33, 2, 71}}, Observe: func(_ context.Context, r *Routing) error {
			if r.Layer == 0 {
				logits[i] = append(logits[i], r.Logits...)
			}
			return nil
		}})
		require.NoError(t, err)
		require.NoError(t, m.Close())
	}
	assert.Equal(t, sizes[0], 2*sizes[1])
	require.Len(t, logits[0], 5*4)
	assert.InDeltaSlice(t, logits[0], logits[1], .05)
	assert.NotEqual(t, logits[0], logits[1])
}
