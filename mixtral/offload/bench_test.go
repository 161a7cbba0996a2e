package offload

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

// BenchmarkDecode decodes texts one token at a time, from experts that are read at a
// bandwidth at which a layer's misses, with LRU and half of the experts resident, take
// about the time of computing it. One thread computes. Each result is also simulated,
// from the costs of LRU at 50 % and of the predictor's decisions there.
//
// Reading must mostly be waiting, as on a machine with a disk, or a device, that needs
// no processor. Layers of the embedded model take microseconds: it sleeps a millisecond
// in each. The wider one is to be computed by plain Go, since a processor with AVX2
// computes it about as fast as it reads it:
//
//	go test ./mixtral/offload -run '^$' -v -bench Decode/mini
//	GODEBUG=cpu.avx2=off go test ./mixtral/offload -run '^$' -v -bench Decode/512
func BenchmarkDecode(b *testing.B) {
	s := newScene(b)
	for _, m := range []*subject{s.mini(b), s.wide(b)} {
		m.pace(b, s)
		shares := []int{50, 25, 75}
		if testing.Short() {
			shares = shares[:1]
		}
		for _, share := range shares {
			for _, r := range s.runs() {
				b.Run(fmt.Sprintf("%s/resident=%d%%/%s", m.name, share, r.name), func(b *testing.B) { m.benchmark(b, s, share, r) })
			}
		}
	}
}

// scene is routing that the embedded model recorded, and predictors of it.
type scene struct {
	model      trace.Model
	h          trace.Header
	gates      *speculate.Gates
	tokens     []int32
	doc        *trace.Document // of tokens
	predictors []speculate.Predictor
}

const (
	texts, textTokens       = 4, 32
	trainTexts, trainTokens = 100, 64
)

func newScene(b *testing.B) *scene {
	ctx := b.Context()
	mo := backend(b)
	m, err := mixtral.Load(ctx, mini.FS(), mo)
	require.NoError(b, err)
	defer m.Close()
	s := &scene{model: m.Config().TraceModel("mini")}
	s.h = trace.Header{Model: s.model}
	for l := range s.model.Layers {
		s.h.LogitLayers, s.h.InputLayers = append(s.h.LogitLayers, l), append(s.h.InputLayers, l)
	}
	ck, err := mixtral.OpenCheckpoint(mini.FS())
	require.NoError(b, err)
	defer ck.Close()
	weights, err := ck.Routers()
	require.NoError(b, err)
	s.gates = &speculate.Gates{Layers: s.model.Layers, Experts: s.model.Experts, Hidden: s.model.Hidden, Weights: weights}
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(b, err)
	docs, err := mini.Documents()
	require.NoError(b, err)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
	var train []*trace.Document
	for _, d := range docs {
		ids := tok.Encode(d.Text, true)
		switch {
		case len(ids) < trainTokens:
			continue
		case len(s.tokens) < texts*textTokens:
			s.tokens = append(s.tokens, ids[:textTokens]...)
		case len(train) < trainTexts:
			doc := s.record(b, m, ids[:trainTokens])
			doc.Dataset, doc.ID = d.Domain, d.ID
			train = append(train, doc)
		}
	}
	s.doc = s.record(b, m, s.tokens)
	s.doc.Dataset, s.doc.ID = "texts", "all"
	s.fit(b, mo, train)
	return s
}

// record returns the routing of a document that is computed token by token.
func (s *scene) record(b *testing.B, m *mixtral.Model, ids []int32) *trace.Document {
	rec, err := mixtral.NewRecorder(s.h)
	require.NoError(b, err)
	cache := m.NewCache(1)
	defer cache.Close()
	for _, id := range ids {
		_, err := m.Forward(b.Context(), mixtral.Request{Tokens: [][]int32{{id}}, Cache: cache, Observe: rec.Observe, RouterInput: true})
		require.NoError(b, err)
	}
	return rec.Take(0)
}

func (s *scene) fit(b *testing.B, mo mixtral.Options, docs []*trace.Document) {
	ctx := b.Context()
	train, valid := speculate.Slice(s.h, docs[trainTexts/5:]), speculate.Slice(s.h, docs[:trainTexts/5])
	horizons := append(speculate.LayersAhead(1, 2), speculate.Horizon{})
	best, err := neural.TrainMLP(ctx, neural.HiddenState(64), train, valid, neural.TrainOptions{Backend: mo.Backend, Horizons: horizons, Tokens: 60_000, Gates: s.gates})
	require.NoError(b, err)
	base, err := speculate.Baselines(speculate.ShapeOf(s.model), s.gates)
	require.NoError(b, err)
	i := slices.IndexFunc(base, func(p speculate.Predictor) bool { return p.Name() == "gate reuse" })
	s.predictors = []speculate.Predictor{base[i], best}
	r, err := speculate.Evaluate(ctx, speculate.Slice(s.h, []*trace.Document{s.doc}), speculate.EvaluateOptions{Horizons: horizons}, s.predictors...)
	require.NoError(b, err)
	for _, p := range s.predictors {
		for _, h := range horizons {
			if p.Supports(h) {
				recall, _ := r.Recall(p.Name(), h)
				b.Logf("%s at %v: recall %.3f", p.Name(), h, recall)
			}
		}
	}
}

// run is a policy, and what is read ahead.
type run struct {
	name   string
	policy prefetch.Policy
	ahead  *PrefetchOptions
	oracle bool
}

func (s *scene) runs() []run {
	gate, hidden := s.predictors[0], s.predictors[1]
	two := speculate.Horizon{Layers: 2}
	return []run{
		{name: "on-demand", policy: prefetch.OnDemand},
		{name: "LRU"},
		{name: "decayed-LFU", policy: prefetch.DecayedLFU},
		{name: "oracle", ahead: &PrefetchOptions{Predictor: replay{m: s.model, doc: s.doc}, Horizon: speculate.Horizon{Layers: 4}, NextToken: true}, oracle: true},
		{name: "gate-reuse", ahead: &PrefetchOptions{Predictor: gate, Horizon: two, Nearer: true}},
		{name: "hidden-state", ahead: &PrefetchOptions{Predictor: hidden, Horizon: two, Nearer: true, NextToken: true}},
		{name: "decayed-LFU+hidden-state", policy: prefetch.DecayedLFU, ahead: &PrefetchOptions{Predictor: hidden, Horizon: two, Nearer: true, NextToken: true}},
		{name: "reuse+hidden-state", policy: prefetch.Reuse, ahead: &PrefetchOptions{Predictor: hidden, Horizon: two, Nearer: true, NextToken: true, Experts: s.model.TopK}},
	}
}

// subject is a model that decodes.
type subject struct {
	name      string
	files     fs.FS
	options   mixtral.Options
	replayed  bool // routing and router inputs are those of the scene
	bandwidth int64
	costs     Costs              // of LRU at 50 %
	decisions map[string]float64 // seconds, by run
	seconds   map[string]float64 // by share and run
	tokens    int
	sleep     time.Duration // in each layer
}

func (s *scene) mini(b *testing.B) *subject {
	o := backend(b)
	o.DType = dtypes.BFloat16
	return &subject{name: "mini", tokens: len(s.tokens), sleep: time.Millisecond, files: mini.FS(), options: o}
}

// load loads the model so that one processor computes it.
func (m *subject) load(b *testing.B, o Options) (*mixtral.Model, *Store) {
	s, err := New(o)
	require.NoError(b, err)
	mo := m.options
	mo.Experts = s
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(1)
	model, err := mixtral.Load(b.Context(), m.files, mo)
	runtime.GOMAXPROCS(max(8, before)) // those that sleep in a system call keep a P for a while
	require.NoError(b, err)
	return model, s
}

// decode computes the scene's tokens.
func (m *subject) decode(b *testing.B, s *scene, model *mixtral.Model, observe mixtral.Hook) time.Duration {
	cache := model.NewCache(1)
	defer cache.Close()
	req := mixtral.Request{Cache: cache, Logits: mixtral.LastLogits, Observe: observe, RouterInput: observe != nil}
	t := 0
	req.Intervene = func(ctx context.Context, rt *mixtral.Routing) error {
		if m.replayed {
			copy(rt.Experts, s.doc.ExpertsAt(&s.model, t, rt.Layer))
			copy(rt.Weights, s.doc.WeightsAt(&s.model, t, rt.Layer))
		}
		return waitUntil(ctx, time.Now().Add(m.sleep))
	}
	if m.replayed && observe != nil {
		e, d := s.model.Experts, s.model.Hidden
		req.Observe = func(ctx context.Context, rt *mixtral.Routing) error {
			at := t*rt.Layers + rt.Layer
			rt.Logits, rt.Input = s.doc.RouterLogits[at*e:][:e], s.doc.RouterInput[at*d:][:d]
			return observe(ctx, rt)
		}
	}
	start := time.Now()
	for i, id := range s.tokens[:m.tokens] {
		t = i
		req.Tokens = [][]int32{{id}}
		_, err := model.Forward(b.Context(), req)
		require.NoError(b, err)
	}
	return time.Since(start)
}

// pace chooses the bandwidth.
func (m *subject) pace(b *testing.B, s *scene) {
	all := s.model.Layers * s.model.Experts
	model, store := m.load(b, Options{Slots: all})
	m.decode(b, s, model, nil)
	m.decode(b, s, model, nil)
	st := store.Stats()
	require.NoError(b, model.Close())
	points, err := prefetch.HitRates(b.Context(), s.data(m.tokens), prefetch.Config{Hold: true}, []int{all / 2})
	require.NoError(b, err)
	perLayer := points[0].TransfersPerToken / float64(s.model.Layers)
	m.bandwidth = int64(float64(store.src.Bytes) * perLayer / st.Costs.ComputeSeconds)
	read := st.ReadSeconds / float64(st.Total.Transfers)
	b.Logf("%s: an expert is %d bytes, read without limit in %.0f us; computing a layer takes %.0f us, besides %.0f us a token; %.2f misses a layer; bandwidth %.0f MB/s, that is, %.0f us an expert",
		m.name, store.src.Bytes, read*1e6, st.Costs.ComputeSeconds*1e6, st.Costs.RestSeconds*1e6, perLayer, float64(m.bandwidth)/1e6, float64(store.src.Bytes)/float64(m.bandwidth)*1e6)
	m.decisions, m.seconds = map[string]float64{}, map[string]float64{}
}

// data is the trace of the first tokens.
func (s *scene) data(tokens int) speculate.Data {
	d, m := *s.doc, &s.model
	d.Tokens, d.Experts, d.Weights = d.Tokens[:tokens], d.Experts[:tokens*m.Layers*m.TopK], d.Weights[:tokens*m.Layers*m.TopK]
	d.Phases = d.Phases[:min(tokens, len(d.Phases))]
	d.RouterLogits, d.RouterInput = d.RouterLogits[:tokens*m.Layers*m.Experts], d.RouterInput[:tokens*m.Layers*m.Hidden]
	return speculate.Slice(s.h, []*trace.Document{&d})
}

func (m *subject) benchmark(b *testing.B, s *scene, share int, r run) {
	var seconds float64
	var st Stats
	var cfg prefetch.Config
	for range b.N {
		o := Options{Slots: s.model.Layers * s.model.Experts * share / 100, Policy: r.policy, Bandwidth: m.bandwidth}
		model, store := m.load(b, o)
		var observe mixtral.Hook
		if r.ahead != nil {
			x, err := store.NewPrefetcher(s.model, *r.ahead)
			require.NoError(b, err)
			observe = x.Observe
		}
		runtime.GC()
		seconds += m.decode(b, s, model, observe).Seconds() / float64(b.N)
		st, cfg = store.Stats(), store.o.config(store.pool())
		require.NoError(b, model.Close())
	}
	m.seconds[fmt.Sprint(share, r.name)] = seconds
	if share == 50 {
		m.decisions[r.name] = st.Costs.DecisionSeconds
		if r.name == "LRU" {
			m.costs = st.Costs
		}
	}
	n := float64(m.tokens)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(n/seconds, "tokens/s")
	b.ReportMetric(seconds/n*1e3, "ms/token")
	b.ReportMetric(st.Total.StallSeconds/n*1e3, "stall-ms/token")
	b.ReportMetric(st.PredictSeconds/n*1e3, "predict-ms/token")
	b.ReportMetric(100*st.Total.HitRate(), "hit-%")
	b.ReportMetric(100*float64(st.Total.Late)/float64(st.Total.Requests), "late-%")
	b.ReportMetric(float64(st.Total.Transfers)/n, "transfers/token")
	b.ReportMetric(float64(st.Total.Wasted)/n, "wasted/token")
	if m.costs.LoadSeconds > 0 {
		b.ReportMetric(m.simulate(b, s, cfg, r)/n*1e3, "simulated-ms/token")
	}
	lru, oracle := m.seconds[fmt.Sprint(share, "LRU")], m.seconds[fmt.Sprint(share, "oracle")]
	if r.ahead != nil && oracle > 0 {
		b.ReportMetric(100*(lru-seconds)/(lru-oracle), "closed-%")
	}
}

// simulate returns the seconds that the simulator predicts.
func (m *subject) simulate(b *testing.B, s *scene, cfg prefetch.Config, r run) float64 {
	cfg = m.costs.Config(cfg)
	cfg.Hold = true
	if r.ahead != nil {
		cfg.Predictor, cfg.Horizon, cfg.Prefetch, cfg.NextToken = r.ahead.Predictor, r.ahead.Horizon, s.model.TopK, r.ahead.NextToken
		cfg.Nearer = r.ahead.Nearer
		if cfg.Horizon == (speculate.Horizon{}) {
			cfg.Horizon.Layers = 1
		}
		cfg.Decision = duration(m.decisions[r.name])
		if r.oracle {
			cfg.Predictor = speculate.Oracle{}
		}
	}
	res, err := prefetch.Simulate(b.Context(), s.data(m.tokens), cfg)
	require.NoError(b, err)
	return res.Seconds
}

// wide is a random model of hidden size 512 and expert width 1792 in bfloat16, with as
// many layers and experts as the embedded one, whose routing it repeats.
func (s *scene) wide(b *testing.B) *subject {
	o := backend(b)
	o.DType = dtypes.BFloat16
	files, _ := large.Shape{Layers: s.model.Layers, Hidden: 512, ExpertWidth: 1792, Heads: 8, KVHeads: 2, Vocabulary: s.model.Vocabulary}.Model()
	return &subject{name: "512-wide", tokens: 3 * textTokens, files: files, options: o, replayed: true}
}
