package mixtral_test

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// xlaVariable is the environment variable with the path of an XLA CPU plugin that
// the tests use besides the Go backend. CI sets it.
const xlaVariable = "EXPERTSPEC_TEST_XLA"

// backends calls f with each backend to test.
func backends(t testing.TB, f func(name string, b compute.Backend)) {
	t.Helper()
	names := []string{"go"}
	if plugin := os.Getenv(xlaVariable); plugin != "" {
		names = append(names, "xla:"+plugin)
	}
	for _, name := range names {
		b, err := mixtral.OpenBackend(name)
		require.NoError(t, err)
		short, _, _ := strings.Cut(name, ":")
		f(short, b)
	}
}

// checkpoints are the models whose outputs transformers computed for us.
func checkpoints() map[string]fs.FS {
	return map[string]fs.FS{
		"mini-mixtral": mini.FS(),
		"variants/a":   os.DirFS(filepath.Join("..", "testdata", "variants", "a")),
		"variants/b":   os.DirFS(filepath.Join("..", "testdata", "variants", "b")),
		"variants/c":   os.DirFS(filepath.Join("..", "testdata", "variants", "c")),
	}
}

// reference is one case of a reference.safetensors: what transformers computed.
type reference struct {
	ids, greedy          []int32
	logits, routerLogits []float32 // [T or 1,V], [L,T,E]
}

func references(t testing.TB, model string) map[string]reference {
	t.Helper()
	r, err := safetensors.Open(os.DirFS(filepath.Join("..", "testdata", filepath.FromSlash(model))), "reference.safetensors")
	require.NoError(t, err)
	defer r.Close()
	cases := make(map[string]reference)
	for _, name := range r.Names() {
		id, field, _ := strings.Cut(name, ".")
		c := cases[id]
		var err error
		switch field {
		case "input_ids":
			c.ids, err = r.Int32s(name)
		case "greedy_ids":
			c.greedy, err = r.Int32s(name)
		case "logits":
			c.logits, err = r.Float32s(name)
		case "router_logits":
			c.routerLogits, err = r.Float32s(name)
		}
		require.NoError(t, err)
		cases[id] = c
	}
	require.NotEmpty(t, cases, "%s: no reference cases", model)
	return cases
}

// recorder collects the routing of one document.
type recorder struct {
	logits  map[int][]float32 // by layer, [T,E]
	experts map[int][]int32   // by layer, [T,K]
	weights map[int][]float32
	input   map[int][]float32
}

func newRecorder() *recorder {
	return &recorder{map[int][]float32{}, map[int][]int32{}, map[int][]float32{}, map[int][]float32{}}
}

func (r *recorder) hook(_ context.Context, rt *mixtral.Routing) error {
	l := rt.Layer
	r.logits[l] = append(r.logits[l], rt.Logits...)
	r.experts[l] = append(r.experts[l], rt.Experts...)
	r.weights[l] = append(r.weights[l], rt.Weights...)
	r.input[l] = append(r.input[l], rt.Input...)
	return nil
}

func load(t testing.TB, fsys fs.FS, o mixtral.Options) *mixtral.Model {
	t.Helper()
	m, err := mixtral.Load(context.Background(), fsys, o)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// TestParityTorch runs a checkpoint of PyTorch's shards.
func TestParityTorch(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		m := load(t, os.DirFS(filepath.Join("..", "testdata", "variants", "b-torch")), mixtral.Options{Backend: b})
		for id, c := range references(t, "variants/b") {
			testParity(t, m, id, c)
		}
	})
}

// TestParity compares every model, executor and backend with transformers.
func TestParity(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		for model, fsys := range checkpoints() {
			for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole, mixtral.Auto} {
				if name == "xla" && model == "mini-mixtral" && ex == mixtral.Auto {
					continue // minutes of compiling what the others compile too
				}
				t.Run(fmt.Sprintf("%s/%s/%s", name, model, ex), func(t *testing.T) {
					m := load(t, fsys, mixtral.Options{Backend: b, Executor: ex})
					for id, c := range references(t, model) {
						testParity(t, m, id, c)
					}
				})
			}
		}
	})
}

// remote is a backend whose memory is not the host's, like a GPU's.
type remote struct{ compute.Backend }

func (remote) HasSharedBuffers() bool { return false }

// TestParityRemote is TestParity of what runs on a GPU alone, on XLA's CPU.
func TestParityRemote(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		if name == "go" {
			return
		}
		for _, model := range []string{"variants/a", "variants/b", "variants/c"} {
			for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole, mixtral.Auto} {
				t.Run(fmt.Sprintf("%s/%s", model, ex), func(t *testing.T) {
					m := load(t, checkpoints()[model], mixtral.Options{Backend: remote{b}, Executor: ex})
					for id, c := range references(t, model) {
						testParity(t, m, id, c)
					}
				})
			}
		}
	})
}

func testParity(t *testing.T, m *mixtral.Model, id string, c reference) {
	t.Helper()
	ctx := context.Background()
	rec := newRecorder()
	out, err := m.Forward(ctx, mixtral.Request{Tokens: [][]int32{c.ids}, Logits: mixtral.AllLogits, Observe: rec.hook})
	require.NoError(t, err)
	got := out.Logits[0]
	d := maxDiff(t, got[len(got)-len(c.logits):], c.logits)
	e, swaps := routerDiff(t, m.Config(), rec, c)
	t.Logf("%s: T=%d, largest difference: logits %.2g, router logits %.2g", id, len(c.ids), d, e)
	assert.LessOrEqual(t, d, 2e-4, "%s: logits", id)
	assert.LessOrEqual(t, e, 1e-4, "%s: router logits", id)
	assert.Zero(t, swaps, "%s: different sets of experts", id)
	greedy, err := m.Generate(ctx, c.ids, mixtral.GenerateOptions{MaxTokens: len(c.greedy), Stop: []int32{}})
	require.NoError(t, err)
	assert.Equal(t, c.greedy, greedy, "%s: greedy continuation", id)
}

// routerDiff returns the largest difference of router logits, relative to their
// standard deviation where that exceeds 1, and how many expert sets differ
// though the k-th and the next logit are further than 1e-4 apart.
func routerDiff(t *testing.T, cfg mixtral.Config, rec *recorder, c reference) (worst float64, swaps int) {
	t.Helper()
	n := len(c.ids)
	size := n * cfg.Experts
	for l := range cfg.Layers {
		want := c.routerLogits[l*size:][:size]
		scale := max(1, deviation(want))
		worst = max(worst, maxDiff(t, rec.logits[l], want)/scale)
		for tok := range n {
			row := want[tok*cfg.Experts:][:cfg.Experts]
			order := make([]int32, cfg.Experts)
			for e := range order {
				order[e] = int32(e)
			}
			slices.SortFunc(order, func(a, b int32) int { return int(math.Copysign(1, float64(row[b]-row[a]))) })
			if k := cfg.TopK; k < cfg.Experts && row[order[k-1]]-row[order[k]] <= 1e-4 {
				continue
			}
			got := slices.Clone(rec.experts[l][tok*cfg.TopK:][:cfg.TopK])
			slices.Sort(got)
			slices.Sort(order[:cfg.TopK])
			if !slices.Equal(got, order[:cfg.TopK]) {
				swaps++
			}
		}
	}
	return worst, swaps
}

func deviation(x []float32) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	mean := sum / float64(len(x))
	return math.Sqrt(squares/float64(len(x)) - mean*mean)
}

func maxDiff(t *testing.T, got, want []float32) float64 {
	t.Helper()
	require.Len(t, got, len(want))
	worst := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= worst) { // so that NaN counts
			worst = d
		}
	}
	return worst
}
