package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// simulation simulates the variants on a trace, each in all cells of the grid.
func (o *options) simulation(ctx context.Context, ps map[string]speculate.Predictor, pinned []int32, errs io.Writer) ([]*cli.Telemetry, error) {
	r, err := trace.Open(o.simulate)
	if err != nil {
		return nil, fmt.Errorf("-simulate: %w", err)
	}
	data, err := o.documents(ctx, speculate.FromReader(r), errs)
	if err != nil {
		return nil, fmt.Errorf("-simulate %s: %w", o.simulate, err)
	}
	m := data.Header.Model
	slots, err := o.slots(ctx, m)
	if err != nil {
		return nil, err
	}
	costs, decisions, err := o.readCosts()
	if o.costs == "" && o.load == "" {
		costs, err = o.calibrate(ctx, m)
	}
	if err != nil {
		return nil, err
	}
	if o.load == "" {
		o.grid.loads = []time.Duration{0} // that of costs
	}
	var all []*cli.Telemetry
	for i, v := range o.runs {
		if len(o.grid.loads)*len(slots) > 1 {
			fmt.Fprintf(errs, "%s, %d of %d\n", v, i+1, len(o.runs))
		}
		cfg := prefetch.Config{Policy: v.evict, Adaptive: v.adapt, Hold: true}
		if v.evict == prefetch.Static {
			cfg.Static = pinned
		}
		ahead, err := v.ahead(ps[v.predictor], m)
		if err != nil {
			return nil, err
		}
		costs.DecisionSeconds = 0
		if ahead != nil {
			cfg.Predictor, cfg.Horizon, cfg.Prefetch, cfg.NextToken, cfg.Nearer = ahead.Predictor, ahead.Horizon, ahead.Experts, ahead.NextToken, ahead.Nearer
			if costs.DecisionSeconds, err = decision(ctx, data, v, cfg, decisions); err != nil {
				return nil, fmt.Errorf("-simulate %s, %s: %w", o.simulate, v, err)
			}
		}
		cfgs := o.grid.configs(costs.Config(cfg), slots)
		results, err := prefetch.SimulateAll(ctx, data, cfgs)
		if err != nil {
			return nil, fmt.Errorf("-simulate %s, %s: %w", o.simulate, v, err)
		}
		for i, result := range results {
			all = append(all, &cli.Telemetry{Label: v.String(), Decode: result, LoadSeconds: cfgs[i].Load.Seconds(), DecisionSeconds: costs.DecisionSeconds})
		}
	}
	return all, nil
}

// simulateBytes are held of a trace that is simulated on.
const simulateBytes = 512 << 20

// documents returns those of -split, in memory if they fit, since they are read for each
// variant. Predictors that were fitted on some of them are named on errs.
func (o *options) documents(ctx context.Context, data speculate.Data, errs io.Writer) (speculate.Data, error) {
	parts := speculate.Parts{Test: data}
	if o.split != (speculate.Fractions{}) {
		var err error
		if parts, err = speculate.Split(ctx, data, o.split, o.seed); err != nil {
			return data, err
		}
	}
	for _, f := range o.fitted {
		seen, err := f.Check(ctx, parts)
		if err != nil {
			return data, fmt.Errorf("%s: %w", f.dir, err)
		}
		if seen != "" {
			fmt.Fprintf(errs, "offload: %s: warning: %s\n", f.dir, seen)
		}
	}
	return parts.Test.InMemory(ctx, simulateBytes)
}

// decision returns the seconds of a variant's decision: those of a run, or as long as
// one takes on the trace, on one core.
func decision(ctx context.Context, data speculate.Data, v variant, cfg prefetch.Config, known map[string]float64) (float64, error) {
	p, key := cfg.Predictor, fmt.Sprint(v.predictor, " ", v.predict, v.reuse)
	if v.predictor == oracle || known[p.Name()] > 0 { // of a run
		return known[p.Name()], nil
	}
	if known[key] > 0 {
		return known[key], nil
	}
	if err := p.Requires().Check(data.Header); err != nil {
		return 0, fmt.Errorf("predictor %s: %w", p.Name(), err)
	}
	var hs []speculate.Horizon
	if v.predict {
		hs = append(hs, cfg.Horizon)
	}
	if v.reuse {
		hs = append(hs, speculate.Horizon{})
	}
	costs, err := speculate.MeasureCosts(ctx, data, hs, nil, p)
	known[key] = costs[p.Name()].Microseconds / 1e6
	return known[key], err
}

// readCosts returns the times of a run, of policy lru if there is one, that of
// -compute, and the seconds of a decision by predictor.
func (o *options) readCosts() (c offload.Costs, decisions map[string]float64, err error) {
	decisions = map[string]float64{}
	if o.costs != "" {
		raw, err := os.ReadFile(o.costs)
		if err != nil {
			return c, nil, fmt.Errorf("-costs: %w", err)
		}
		var f figures
		if err := json.Unmarshal(raw, &f); err != nil {
			return c, nil, fmt.Errorf("-costs %s: %w", o.costs, err)
		}
		for _, t := range f.Runs {
			if t.Store == nil || t.Decode == nil || t.Store.Costs.LoadSeconds <= 0 {
				continue
			}
			decisions[t.Decode.Predictor] = t.Store.Costs.DecisionSeconds
			// With lru, latency is known too.
			if c.LoadSeconds == 0 || t.Store.Policy == prefetch.LRU && t.Decode.Predictor == "" {
				c = t.Store.Costs
			}
		}
		if c.LoadSeconds <= 0 || c.ComputeSeconds <= 0 {
			return c, nil, fmt.Errorf("-costs %s: no run of it read experts while it decoded", o.costs)
		}
	}
	if o.compute > 0 {
		c.ComputeSeconds, c.ExpertSeconds, c.RestSeconds = o.compute.Seconds(), 0, 0
	}
	return c, decisions, nil
}

// calibrationTokens are decoded to measure costs.
const calibrationTokens = 64

// calibrate measures the model's times of reading and computing, with policy lru, or,
// if that reads nothing, on demand.
func (o *options) calibrate(ctx context.Context, m trace.Model) (c offload.Costs, err error) {
	for _, evict := range []prefetch.Policy{prefetch.LRU, prefetch.OnDemand} {
		if c, err = o.decodeSome(ctx, m, evict); err != nil || c.LoadSeconds > 0 {
			break
		}
	}
	return c, err
}

// decodeSome returns the costs of decoding calibrationTokens.
func (o *options) decodeSome(ctx context.Context, m trace.Model, evict prefetch.Policy) (c offload.Costs, err error) {
	store, model, free, err := o.model.LoadStore(ctx, func(src mixtral.ExpertSource) (offload.Options, error) {
		if src.Layers != m.Layers || src.Experts != m.Experts || src.TopK != m.TopK {
			return offload.Options{}, fmt.Errorf("-model %s has %d layers of %d experts, top-%d, the trace %s %d of %d, top-%d: -costs, or -load and -compute, must say what the trace's model takes",
				o.model.Folder, src.Layers, src.Experts, src.TopK, o.simulate, m.Layers, m.Experts, m.TopK)
		}
		so, err := o.limits.Options(src)
		so.Policy = evict
		return so, err
	})
	if err != nil {
		return c, err
	}
	defer free()
	meter := cli.NewMeter("calibration", model, store, nil)
	_, err = meter.Generate(ctx, []int32{0}, mixtral.GenerateOptions{MaxTokens: calibrationTokens, Stop: []int32{}})
	return store.Stats().Costs, err
}

// slots are the numbers of experts that -resident asks for, or that the limits leave
// room for.
func (o *options) slots(ctx context.Context, m trace.Model) ([]int, error) {
	if o.grid.resident != nil {
		var slots []int
		for _, percent := range o.grid.resident {
			slots = append(slots, max(1, int(math.Round(percent/100*float64(m.Layers*m.Experts)))))
		}
		return slots, nil
	}
	n, err := o.limit(ctx, m)
	return []int{n}, err
}

// limit is the number of experts that the limits leave room for.
func (o *options) limit(ctx context.Context, m trace.Model) (int, error) {
	if o.limits.Slots > 0 {
		return min(o.limits.Slots, m.Layers*m.Experts), nil
	}
	src, err := o.model.Sizes(ctx)
	if err != nil {
		return 0, err
	}
	if src.Layers != m.Layers || src.Experts != m.Experts {
		return 0, fmt.Errorf("-model %s has %d layers of %d experts, the trace %s %d of %d; -slots says how many experts are resident without a model",
			o.model.Folder, src.Layers, src.Experts, o.simulate, m.Layers, m.Experts)
	}
	so, err := o.limits.Options(src)
	if err != nil {
		return 0, err
	}
	n := int(max(0, so.DeviceMemory-src.Resident) / int64(src.Bytes))
	if n < src.TopK {
		return 0, fmt.Errorf("-device-memory %d: %d bytes of other weights leave room for %d experts of %d bytes; a token needs %d", so.DeviceMemory, src.Resident, n, src.Bytes, src.TopK)
	}
	return min(n, m.Layers*m.Experts), nil
}

// pinned are the experts that policy static pins, those that matter most first; nil:
// the first that are used.
func (o *options) pinned(ctx context.Context) ([]int32, error) {
	if o.pin == "" {
		return nil, nil
	}
	r, err := trace.Open(o.pin)
	if err != nil {
		return nil, fmt.Errorf("-pin: %w", err)
	}
	return prefetch.MostFrequent(ctx, speculate.FromReader(r))
}
