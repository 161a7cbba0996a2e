package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// offloadDocuments test documents, of so many tokens each at most, are decoded as one.
const offloadDocuments, offloadTokens = 6, 96

// offloading decodes texts with half of the experts in memory.
type offloading struct {
	backend   compute.Backend
	header    trace.Header
	document  *trace.Document // what is decoded, with its routing
	bandwidth int64           // bytes a second that are read
	costs     offload.Costs   // of LRU
}

// policy is a run, and what is read ahead in it; nil: nothing.
type policy struct {
	name  string
	evict prefetch.Policy
	ahead *offload.PrefetchOptions
}

// compareOffloading measures policies, and simulates each with the times that were
// measured with LRU. It returns what it did in words, too.
func compareOffloading(ctx context.Context, backend compute.Backend, test speculate.Data, predictors []speculate.Predictor, p *progress) (runs []viz.OffloadRun, text []string, err error) {
	p.stage("decoding with half of the experts in memory")
	x := &offloading{backend: backend, header: test.Header}
	if err := x.prepare(ctx, test); err != nil {
		return nil, nil, err
	}
	policies := []policy{{"LRU", prefetch.LRU, nil}, {"on demand", prefetch.OnDemand, nil}}
	for _, q := range predictors {
		ahead := &offload.PrefetchOptions{Predictor: q, Horizon: speculate.Horizon{Layers: 2}, Experts: test.Header.Model.TopK}
		policies = append(policies, policy{"prefetch: " + q.Name(), prefetch.LRU, ahead})
	}
	for _, q := range policies {
		measured, simulated, err := x.run(ctx, q)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", q.name, err)
		}
		runs = append(runs, viz.OffloadRun{Name: q.name, Measured: measured, Simulated: simulated})
	}
	runs[0], runs[1] = runs[1], runs[0]
	d := runs[0].Measured
	return runs, []string{
		fmt.Sprintf("Decoding %d tokens with %d of %d experts in memory: the others are read when they are needed, or before, at %.0f MB/s. At that rate, reading those that LRU misses takes about as long as computing.",
			d.Tokens, d.Capacity, x.header.Model.Layers*x.header.Model.Experts, float64(x.bandwidth)/1e6),
		fmt.Sprintf("Prefetch reads the experts that a predictor expects two layers ahead, and pays for its decisions, which weigh much where a layer is computed in %.0f µs. The simulator knows the times of reading and computing that were measured with LRU, and those of decisions.",
			1e6*x.costs.ComputeSeconds),
	}, nil
}

// writeOffloading writes a row for each run.
func writeOffloading(out io.Writer, runs []viz.OffloadRun) error {
	d := runs[0].Measured
	fmt.Fprintf(out, "\nDecoding with %.0f %% of the experts in memory and the others read at a limited rate, measured and simulated:\n\n", 100*d.Resident)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "policy\tms/token\tsimulated\twaiting\tresident\tprefetched\tlate\tmissing")
	for _, r := range runs {
		m, c := r.Measured, &r.Measured.Total
		percent := func(n int64) float64 { return 100 * float64(n) / float64(c.Requests) }
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f\t%.2f\t%.0f %%\t%.0f %%\t%.0f %%\t%.0f %%\n", r.Name, 1000/m.TokensPerSecond, 1000/r.Simulated.TokensPerSecond, 1000*m.StallPerToken,
			percent(c.Hits-c.Used+c.Late), percent(c.Used-c.Late), percent(c.Late), percent(c.Misses))
	}
	return tw.Flush()
}

// prepare records the routing of the texts, and chooses the bandwidth.
func (x *offloading) prepare(ctx context.Context, test speculate.Data) error {
	var ids []int32
	n := 0
	for d, err := range test.All(ctx) {
		if err != nil {
			return err
		}
		if n++; n <= offloadDocuments {
			ids = append(ids, d.Tokens[:min(len(d.Tokens), offloadTokens)]...)
		}
	}
	experts := x.header.Model.Layers * x.header.Model.Experts
	model, store, err := x.load(ctx, offload.Options{Slots: experts})
	if err != nil {
		return err
	}
	defer model.Close()
	recorder, err := mixtral.NewRecorder(x.header)
	if err != nil {
		return err
	}
	if _, err := decode(ctx, model, ids, recorder.Observe); err != nil {
		return err
	}
	x.document = recorder.Take(0)
	x.document.Dataset, x.document.ID = "test", "texts"
	points, err := prefetch.HitRates(ctx, x.data(), prefetch.Config{Hold: true}, []int{experts / 2})
	if err != nil {
		return err
	}
	before := store.Stats()
	seconds, err := decode(ctx, model, ids, nil) // all experts are in memory
	if err != nil {
		return err
	}
	bytes := float64(before.DiskBytes) / float64(before.Total.Transfers)
	x.bandwidth = int64(bytes * points[0].TransfersPerToken * float64(len(ids)) / seconds)
	return nil
}

func (x *offloading) data() speculate.Data {
	return speculate.Slice(x.header, []*trace.Document{x.document})
}

// load loads the model so that one processor computes it and others read.
func (x *offloading) load(ctx context.Context, o offload.Options) (*mixtral.Model, *offload.Store, error) {
	store, err := offload.New(o)
	if err != nil {
		return nil, nil, err
	}
	processors := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(processors)
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: x.backend, DType: dtypes.BFloat16, Experts: store})
	return model, store, err
}

// decode computes tokens one at a time and returns the seconds that took.
func decode(ctx context.Context, model *mixtral.Model, ids []int32, observe mixtral.Hook) (float64, error) {
	cache := model.NewCache(1)
	defer cache.Close()
	runtime.GC() // not while it is measured
	start := time.Now()
	for _, id := range ids {
		_, err := model.Forward(ctx, mixtral.Request{Tokens: [][]int32{{id}}, Cache: cache, Logits: mixtral.LastLogits, Observe: observe, RouterInput: observe != nil})
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}

// run measures and simulates a policy.
func (x *offloading) run(ctx context.Context, p policy) (measured, simulated *prefetch.Result, err error) {
	m := x.header.Model
	o := offload.Options{Slots: m.Layers * m.Experts / 2, Policy: p.evict, Bandwidth: x.bandwidth}
	model, store, err := x.load(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	defer model.Close()
	var observe mixtral.Hook
	cfg := prefetch.Config{Capacity: o.Slots, Policy: p.evict, Hold: true}
	if a := p.ahead; a != nil {
		prefetcher, err := store.NewPrefetcher(m, *a)
		if err != nil {
			return nil, nil, err
		}
		observe = prefetcher.Observe
		cfg.Predictor, cfg.Horizon, cfg.Prefetch = a.Predictor, a.Horizon, a.Experts
	}
	seconds, err := decode(ctx, model, x.document.Tokens, observe)
	if err != nil {
		return nil, nil, err
	}
	s := store.Stats()
	if x.costs.LoadSeconds == 0 {
		x.costs = s.Costs
	}
	costs := x.costs
	costs.DecisionSeconds = s.Costs.DecisionSeconds
	simulated, err = prefetch.Simulate(ctx, x.data(), costs.Config(cfg))
	measured = cli.Decoded(&prefetch.Result{Documents: 1, Tokens: x.document.Len(), Total: s.Total, Layers: s.Layers, Seconds: seconds}, &s, p.ahead)
	return measured, simulated, err
}
