package offload

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

const (
	largePrompt = 32 // tokens
	largeTokens = 128
	largeWarm   = 32 // of them, before times are taken
)

// recording is the routing of two documents by the mini model, of which one has the
// first layers of a larger model and the other the last, and what predictors said.
type recording struct {
	experts [][]int32   // by token, [L,K]
	weights [][]float32 // by token, [L,K]
	// predicted are the scores of experts by distance, token and layer, [E].
	predicted map[int][][][]float32
}

// record has the mini model route n tokens of documents, the i-th from the i-th
// domain on, and gate reuse predict them at distances 1 and 2.
func record(b testing.TB, documents, n int) *recording {
	be, err := mixtral.OpenBackend("go")
	require.NoError(b, err)
	m, err := mixtral.Load(context.Background(), mini.FS(), mixtral.Options{Backend: be})
	require.NoError(b, err)
	defer m.Close()
	ck, err := mixtral.OpenCheckpoint(mini.FS())
	require.NoError(b, err)
	defer ck.Close()
	routers, err := ck.Routers()
	require.NoError(b, err)
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(b, err)
	docs, err := mini.Documents()
	require.NoError(b, err)
	c := m.Config()
	model := c.TraceModel("mini")
	layers := documents * c.Layers
	r := &recording{experts: make([][]int32, n), weights: make([][]float32, n), predicted: map[int][][][]float32{}}
	predictors, err := speculate.Baselines(speculate.ShapeOf(model), &speculate.Gates{Layers: c.Layers, Experts: c.Experts, Hidden: c.HiddenSize, Weights: routers})
	require.NoError(b, err)
	at := slices.IndexFunc(predictors, func(p speculate.Predictor) bool { return p.Name() == "gate reuse" })
	for h := 1; h <= 4; h++ {
		r.predicted[h] = make([][][]float32, n)
		for t := range n {
			r.predicted[h][t] = make([][]float32, layers)
		}
	}
	for i, doc := range docs {
		if documents == 0 {
			break
		}
		ids := tok.Encode(doc.Text, true)
		if len(ids) < n || i%40 != 7 {
			continue
		}
		documents--
		h := trace.Header{Model: model}
		for l := range c.Layers {
			h.InputLayers = append(h.InputLayers, l)
		}
		rec, err := mixtral.NewRecorder(h)
		require.NoError(b, err)
		_, err = m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{ids[:n]}, Observe: rec.Observe, RouterInput: true})
		require.NoError(b, err)
		d := rec.Take(0)
		views, err := speculate.NewViews(h, d)
		require.NoError(b, err)
		for t := range n {
			for l := range c.Layers {
				r.experts[t] = append(r.experts[t], d.ExpertsAt(&model, t, l)...)
				at := (t*c.Layers + l) * c.TopK
				r.weights[t] = append(r.weights[t], d.Weights[at:at+c.TopK]...)
			}
		}
		for h, scores := range r.predicted {
			for l := h; l < c.Layers; l++ {
				for t := range n {
					out := make([]float32, c.Experts)
					require.NoError(b, predictors[at].Predict([]speculate.View{views.At(t, l, speculate.Horizon{Layers: h})}, out))
					scores[t][documents*c.Layers+l] = out
				}
			}
		}
	}
	require.Zero(b, documents, "too few documents of %d tokens", n)
	return r
}

// intervene makes a model's routing that of the recording.
func (r *recording) intervene(_ context.Context, rt *mixtral.Routing) error {
	k := len(rt.Experts) / len(rt.Position)
	for i, t := range rt.Position {
		n := int(t) % len(r.experts)
		copy(rt.Experts[i*k:(i+1)*k], r.experts[n][rt.Layer*k:])
		copy(rt.Weights[i*k:(i+1)*k], r.weights[n][rt.Layer*k:])
	}
	return nil
}

// recorded predicts what was predicted for the recording, or the truth.
type recorded struct {
	*recording
	truth bool
}

func (r recorded) Name() string                      { return "recorded" }
func (r recorded) Requires() speculate.Requirements  { return speculate.Requirements{} }
func (r recorded) Supports(h speculate.Horizon) bool { return r.truth || r.predicted[h.Layers] != nil }
func (r recorded) Predict(views []speculate.View, out []float32) error {
	clear(out)
	e := len(out) / len(views)
	for i, v := range views {
		switch {
		case v.Token() >= len(r.experts):
		case r.truth:
			k := 2
			for j, x := range r.experts[v.Token()][v.Layer()*k:][:k] {
				out[i*e+int(x)] = 1 - float32(j)/8
			}
		default:
			copy(out[i*e:(i+1)*e], r.predicted[v.Horizon().Layers][v.Token()][v.Layer()])
		}
	}
	return nil
}

// one returns read that reads a single expert and returns it as all others, so that a
// benchmark's checkpoint is ready sooner.
func one(read readFunc) readFunc {
	var once sync.Once
	var expert []byte
	var err error
	return func(ctx context.Context, _, _ int, dst []byte) error {
		once.Do(func() {
			expert = make([]byte, len(dst))
			err = read(ctx, 0, 0, expert)
		})
		copy(dst, expert)
		return err
	}
}

// document is the recording as a trace.
func (r *recording) document(tokens int) speculate.Data {
	h := trace.Header{Model: trace.Model{Name: "recorded", Layers: len(r.experts[0]) / 2, Experts: 8, TopK: 2}}
	d := &trace.Document{Dataset: "recorded", ID: "recorded"}
	for t := range tokens {
		d.Tokens = append(d.Tokens, int32(t))
		d.Experts, d.Weights = append(d.Experts, r.experts[t]...), append(d.Weights, r.weights[t]...)
	}
	return speculate.Slice(h, []*trace.Document{d})
}

// cut removes layers from n on.
func (r *recording) cut(n int) {
	for t := range r.experts {
		k := 2
		r.experts[t], r.weights[t] = r.experts[t][:n*k], r.weights[t][:n*k]
	}
}

// BenchmarkLarge decodes with the shape of Mixtral 8x7B, or of EXPERTSPEC_BENCH_SHAPE,
// 8x22B, in int8 and EXPERTSPEC_BENCH_MEMORY bytes of weights on XLA's device, the others
// in host memory, of which EXPERTSPEC_BENCH_HOST_MEMORY bytes are used (default: as many
// as they need), or else in the checkpoint. Its routing is that of the mini model, of
// documents whose 16 layers make 32 or 56. It also reports what the simulator predicts
// with the costs of the first run.
func BenchmarkLarge(b *testing.B) {
	memory, _ := strconv.ParseInt(os.Getenv("EXPERTSPEC_BENCH_MEMORY"), 10, 64)
	hostMemory, err := strconv.ParseInt(os.Getenv("EXPERTSPEC_BENCH_HOST_MEMORY"), 10, 64)
	if err != nil {
		hostMemory = 1 << 40
	}
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if memory == 0 || plugin == "" {
		b.Skip("set EXPERTSPEC_BENCH_MEMORY to bytes and EXPERTSPEC_TEST_XLA to an XLA plugin")
	}
	be, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(b, err)
	shape, err := large.Named(os.Getenv("EXPERTSPEC_BENCH_SHAPE"))
	require.NoError(b, err)
	if layers, err := strconv.Atoi(os.Getenv("EXPERTSPEC_BENCH_LAYERS")); err == nil {
		shape.Layers = layers
	}
	files, _ := shape.Model()
	r := record(b, (shape.Layers+15)/16, largePrompt+largeTokens)
	r.cut(shape.Layers)
	gate, truth := recorded{r, false}, recorded{r, true}
	distance := func(p speculate.Predictor, n, experts int) *PrefetchOptions {
		return &PrefetchOptions{Predictor: p, Horizon: speculate.Horizon{Layers: n}, Experts: experts}
	}
	var costs Costs
	for _, x := range []struct {
		name     string
		policy   prefetch.Policy
		prefetch *PrefetchOptions
		host     bool
	}{
		{"LRU", prefetch.LRU, nil, false},
		{"on demand", prefetch.OnDemand, nil, false},
		{"decayed LFU", prefetch.DecayedLFU, nil, false},
		{"LRU, gate reuse", prefetch.LRU, distance(gate, 1, 2), false},
		{"LRU, oracle", prefetch.LRU, distance(truth, 1, 2), false},
		{"decayed LFU, oracle", prefetch.DecayedLFU, distance(truth, 2, 2), false},
		{"host, decayed LFU", prefetch.DecayedLFU, nil, true},
		{"host, decayed LFU, gate reuse", prefetch.DecayedLFU, distance(gate, 4, 1), true},
		{"host, decayed LFU, oracle", prefetch.DecayedLFU, distance(truth, 8, 1), true},
	} {
		b.Run(x.name, func(b *testing.B) {
			o := Options{DeviceMemory: memory, HostMemory: hostMemory, Policy: x.policy, Host: x.host, wrap: one}
			mo := mixtral.Options{Backend: be, DType: dtypes.BFloat16, Quantize: mixtral.Int8}
			s, err := New(o)
			require.NoError(b, err)
			mo.Experts = s
			m, err := mixtral.Load(b.Context(), files, mo)
			require.NoError(b, err)
			defer func() {
				require.NoError(b, m.Close())
				debug.FreeOSMemory()
			}()
			largeDecode(b, m, s, r, x.prefetch) // compiles, and fills host memory
			var ms float64
			for b.Loop() {
				ms = largeDecode(b, m, s, r, x.prefetch)
			}
			b.ReportMetric(0, "ns/op")
			if costs.LoadSeconds == 0 {
				costs = s.Stats().Costs
			}
			if !x.host {
				cfg := prefetch.Config{Capacity: len(s.places), Policy: x.policy, Hold: true, Prompt: largePrompt, InFlight: 1}
				if x.prefetch != nil {
					cfg.Predictor, cfg.Horizon, cfg.Prefetch = x.prefetch.Predictor, x.prefetch.Horizon, x.prefetch.Experts
				}
				b.ReportMetric(largeSimulated(b, r, costs.Config(cfg))/ms, "simulated/measured")
			}
			if x.name == "LRU" {
				largePrefill(b, m, s, r)
			}
		})
	}
}

// largeSimulated returns milliseconds a token of those that largeDecode measures.
func largeSimulated(b *testing.B, r *recording, cfg prefetch.Config) float64 {
	var seconds [2]float64
	for i, tokens := range []int{largePrompt + largeWarm, largePrompt + largeTokens} {
		x, err := prefetch.Simulate(b.Context(), r.document(tokens), cfg)
		require.NoError(b, err)
		seconds[i] = x.Seconds
	}
	return 1e3 * (seconds[1] - seconds[0]) / (largeTokens - largeWarm)
}

// largeDecode returns milliseconds a token.
func largeDecode(b *testing.B, m *mixtral.Model, s *Store, r *recording, po *PrefetchOptions) float64 {
	cache := m.NewCache(1)
	defer cache.Close()
	req := mixtral.Request{Cache: cache, Intervene: r.intervene, Logits: mixtral.LastLogits}
	if po != nil {
		c := m.Config()
		x, err := s.NewPrefetcher(c.TraceModel("large"), *po)
		require.NoError(b, err)
		req.Observe = x.Observe
	}
	s.mu.Lock()
	s.stats.costs = costs{} // without compiling
	s.mu.Unlock()
	var before Stats
	var start time.Time
	for n := -1; n < largeTokens; n++ {
		req.Tokens = [][]int32{{int32(n + 7)}}
		if n < 0 {
			req.Tokens[0] = make([]int32, largePrompt)
		}
		if n == largeWarm {
			before, start = s.Stats(), time.Now()
		}
		_, err := m.Forward(b.Context(), req)
		require.NoError(b, err)
	}
	seconds, tokens := time.Since(start).Seconds(), float64(largeTokens-largeWarm)
	after := s.Stats()
	c, was := after.Total, before.Total
	share := func(a, b int64) float64 { return float64(a-b) / float64(c.Requests-was.Requests) }
	b.ReportMetric(tokens/seconds, "tokens/s")
	b.ReportMetric(1e3*seconds/tokens, "ms/token")
	b.ReportMetric(1e3*(c.StallSeconds-was.StallSeconds)/tokens, "stall-ms/token")
	b.ReportMetric(share(c.Hits, was.Hits), "hits")
	b.ReportMetric(share(c.Late, was.Late), "late")
	b.ReportMetric(share(c.Host, was.Host), "host")
	b.ReportMetric(float64(c.Wasted-was.Wasted)/tokens, "wasted/token")
	bytes := after.HostBytes + after.DiskBytes - before.HostBytes - before.DiskBytes
	b.ReportMetric(float64(bytes)/1e9/tokens, "GB/token")
	b.ReportMetric(float64(bytes)/1e9/(after.WriteSeconds-before.WriteSeconds), "GB/s")
	if smi, err := exec.Command("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader").Output(); err == nil {
		fmt.Printf("# device memory in use: %s; slots %d, %.1f GB of weights and slots, %.1f GB of host memory\n",
			strings.TrimSpace(string(smi)), after.Slots, float64(after.Peak.Device())/1e9, float64(after.Peak.Host)/1e9)
	}
	fmt.Printf("# costs %+v; %.1f GB from host memory, %.1f GB from the checkpoint\n", after.Costs, float64(after.HostBytes)/1e9, float64(after.DiskBytes)/1e9)
	return 1e3 * seconds / tokens
}

// largePrefill reports how fast prompts are, and what copies alone would take.
func largePrefill(b *testing.B, m *mixtral.Model, s *Store, r *recording) {
	for _, shape := range [][2]int{{1, 128}, {1, 512}, {8, 512}} {
		tokens := make([][]int32, shape[0])
		for i := range tokens {
			tokens[i] = make([]int32, shape[1])
		}
		var best, copied float64
		for range 4 {
			before, start := s.Stats(), time.Now()
			_, err := m.Forward(context.Background(), mixtral.Request{Tokens: tokens, Intervene: r.intervene, Logits: mixtral.LastLogits})
			require.NoError(b, err)
			seconds, after := time.Since(start).Seconds(), s.Stats()
			if best == 0 || seconds < best {
				best, copied = seconds, float64(after.HostBytes+after.DiskBytes-before.HostBytes-before.DiskBytes)
			}
		}
		fmt.Printf("# prefill %d x %d: %.0f ms, %.0f tokens/s, %.1f GB copied at %.1f GB/s\n",
			shape[0], shape[1], best*1e3, float64(shape[0]*shape[1])/best, copied/1e9, copied/1e9/best)
	}
}
