package switchtransformer_test

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// xlaVariable is the environment variable with the path of an XLA CPU plugin that
// the tests use besides the Go backend. CI sets it.
const xlaVariable = "EXPERTSPEC_TEST_XLA"

// executors are the ways of running a model that are tested.
func executors(t testing.TB, f func(name string, o switchtransformer.Options)) {
	t.Helper()
	kinds := []struct {
		name, backend string
		executor      mixtral.Executor
	}{{"go", "go", mixtral.Auto}}
	if plugin := os.Getenv(xlaVariable); plugin != "" {
		kinds = append(kinds, struct {
			name, backend string
			executor      mixtral.Executor
		}{"xla_stepped", "xla:" + plugin, mixtral.Stepped})
	}
	for _, k := range kinds {
		b := opened[k.backend]
		if b == nil {
			var err error
			b, err = mixtral.OpenBackend(k.backend)
			require.NoError(t, err)
			opened[k.backend] = b
		}
		f(k.name, switchtransformer.Options{Backend: b, Executor: k.executor})
	}
}

// opened and loaded are shared by the tests, none of which is parallel: XLA compiles a
// model's programs once.
var (
	opened = map[string]compute.Backend{}
	loaded = map[any]*switchtransformer.Model{}
)

var miniFS = mini.FS()

// checkpoints are the models whose outputs transformers computed for us.
func checkpoints() map[string]fs.FS {
	models := map[string]fs.FS{"mini-switch": miniFS}
	for _, name := range []string{"a", "b", "c"} {
		models["variants-switch/"+name] = os.DirFS(filepath.Join("..", "..", "testdata", "variants-switch", name))
	}
	return models
}

// reference is one case of a reference.safetensors: what transformers computed.
type reference struct {
	tokens                 [2][]int32
	routerLogits           [2][]float32 // [L,T,E]
	experts, dropped       [2][]int32   // [L,T]
	logits                 []float32    // [T,V]
	greedy, greedyUncached []int32
}

func references(t testing.TB, model string) map[string]reference {
	t.Helper()
	dir := filepath.Join("..", "..", "testdata", filepath.FromSlash(model))
	r, err := safetensors.Open(os.DirFS(dir), "reference.safetensors")
	require.NoError(t, err)
	defer r.Close()
	cases := make(map[string]reference)
	for _, name := range r.Names() {
		id, field, _ := strings.Cut(name, ".")
		c := cases[id]
		s := 0
		if rest, ok := strings.CutPrefix(field, "decoder_"); ok {
			s, field = 1, rest
		}
		field = strings.TrimPrefix(field, "encoder_")
		var err error
		switch field {
		case "input_ids":
			c.tokens[s], err = r.Int32s(name)
		case "router_logits":
			c.routerLogits[s], err = r.Float32s(name)
		case "experts":
			c.experts[s], err = r.Int32s(name)
		case "dropped":
			c.dropped[s], err = r.Int32s(name)
		case "logits":
			c.logits, err = r.Float32s(name)
		case "greedy_ids":
			c.greedy, err = r.Int32s(name)
		case "greedy_nocache_ids":
			c.greedyUncached, err = r.Int32s(name)
		default:
			t.Fatalf("%s: unknown", name)
		}
		require.NoError(t, err)
		cases[id] = c
	}
	require.NotEmpty(t, cases, "%s: no reference cases", model)
	return cases
}

// some returns the cases that an executor is tested with: of those that compile
// programs for each length, one. TestGraph compares more with the host executor.
func some(executor string, cases map[string]reference) map[string]reference {
	if executor == "go" {
		return cases
	}
	return map[string]reference{"case1": cases["case1"]}
}

// recorder collects the routing of one document, [L] of each stack.
type recorder [2]map[int]*layerRouting

type layerRouting struct {
	logits, weights, input []float32
	experts                []int32
	dropped                []bool
}

func (r *recorder) hook(_ context.Context, rt *switchtransformer.Routing) error {
	if r[rt.Stack] == nil {
		r[rt.Stack] = map[int]*layerRouting{}
	}
	l := r[rt.Stack][rt.Layer]
	if l == nil {
		l = new(layerRouting)
		r[rt.Stack][rt.Layer] = l
	}
	l.logits, l.weights = append(l.logits, rt.Logits...), append(l.weights, rt.Weights...)
	l.input, l.experts = append(l.input, rt.Input...), append(l.experts, rt.Experts...)
	l.dropped = append(l.dropped, rt.Dropped...)
	return nil
}

func load(t testing.TB, fsys fs.FS, o switchtransformer.Options) *switchtransformer.Model {
	t.Helper()
	shared := o.Executor == mixtral.Stepped && reflect.TypeOf(fsys).Comparable()
	key := [2]any{fsys, o.DType}
	if shared && loaded[key] != nil {
		return loaded[key]
	}
	m, err := switchtransformer.Load(context.Background(), fsys, o)
	require.NoError(t, err)
	if shared {
		loaded[key] = m
	} else {
		t.Cleanup(func() { m.Close() })
	}
	return m
}

// TestParity compares with transformers' outputs: router logits, experts, dropped tokens
// and logits of a pass over encoder and decoder.
func TestParity(t *testing.T) {
	executors(t, func(name string, o switchtransformer.Options) {
		for model, fsys := range checkpoints() {
			m := load(t, fsys, o)
			for id, c := range some(name, references(t, model)) {
				t.Run(fmt.Sprintf("%s/%s/%s", name, model, id), func(t *testing.T) { testParity(t, m, c) })
			}
		}
	})
}

func testParity(t *testing.T, m *switchtransformer.Model, c reference) {
	cfg := m.Config()
	var got recorder
	out, err := m.Forward(context.Background(), switchtransformer.Request{
		Tokens: [][]int32{c.tokens[0]}, DecoderTokens: [][]int32{c.tokens[1]}, Logits: switchtransformer.AllLogits, Observe: got.hook,
	})
	require.NoError(t, err)
	for s := range switchtransformer.Stack(2) {
		n := len(c.tokens[s])
		layers := len(cfg.MoEBlocks(s))
		require.Len(t, got[s], layers, s)
		require.Len(t, c.experts[s], layers*n)
		for l := range layers {
			g := got[s][l]
			label := fmt.Sprintf("%s layer %d", s, l)
			near(t, c.routerLogits[s][l*n*cfg.Experts:(l+1)*n*cfg.Experts], g.logits, 1e-4, label)
			dropped := make([]int32, n)
			experts := slices.Clone(g.experts)
			for i, d := range g.dropped {
				if d {
					dropped[i] = 1
				}
			}
			assert.Equal(t, c.dropped[s][l*n:(l+1)*n], dropped, label)
			assert.Equal(t, c.experts[s][l*n:(l+1)*n], experts, label)
			checkWeights(t, g, cfg.Experts, label)
		}
	}
	all := out.Logits[0]
	near(t, c.logits, all[len(all)-len(c.logits):], 1e-4, "logits") // the longest case holds the last alone
}

// checkWeights compares weights with the softmax over all experts.
func checkWeights(t *testing.T, g *layerRouting, experts int, label string) {
	t.Helper()
	for i, e := range g.experts {
		sum := 0.0
		row := g.logits[i*experts:][:experts]
		for _, x := range row {
			sum += math.Exp(float64(x - row[e]))
		}
		require.InDelta(t, 1/sum, g.weights[i], 1e-6, "%s, token %d", label, i)
	}
}

func near(t *testing.T, want, got []float32, tolerance float64, label string) {
	t.Helper()
	require.Equal(t, len(want), len(got), label)
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(float64(want[i] - got[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	assert.LessOrEqual(t, worst, tolerance, "%s: element %d is %v, expected %v", label, at, got[at], want[at])
}

// TestGreedy compares greedy ids: decoded over a cache, as transformers' generate does,
// and from the start for each token, which drops tokens.
func TestGreedy(t *testing.T) {
	executors(t, func(name string, o switchtransformer.Options) {
		for model, fsys := range checkpoints() {
			if name != "go" && model != "variants-switch/c" {
				continue
			}
			m := load(t, fsys, o)
			for id, c := range some(name, references(t, model)) {
				if name != "go" && id == "case2" {
					continue // programs of other lengths do the same
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, model, id), func(t *testing.T) { testGreedy(t, m, c, name == "go") })
			}
		}
	})
}

func testGreedy(t *testing.T, m *switchtransformer.Model, c reference, uncached bool) {
	ctx := context.Background()
	got, err := m.Generate(ctx, c.tokens[0], switchtransformer.GenerateOptions{MaxTokens: len(c.greedy), Stop: []int32{}})
	require.NoError(t, err)
	assert.Equal(t, c.greedy, got)
	if !uncached {
		return // of many lengths, for which programs are compiled
	}
	tokens := []int32{int32(m.Config().DecoderStart)}
	for range c.greedyUncached {
		out, err := m.Forward(ctx, switchtransformer.Request{Tokens: [][]int32{c.tokens[0]}, DecoderTokens: [][]int32{tokens}, Logits: switchtransformer.LastLogits})
		require.NoError(t, err)
		best := 0
		for i, x := range out.Logits[0] {
			if x > out.Logits[0][best] {
				best = i
			}
		}
		tokens = append(tokens, int32(best))
	}
	assert.Equal(t, c.greedyUncached, tokens[1:])
}
