package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// simulation simulates the variants on a trace.
func (o *options) simulation(ctx context.Context, ps map[string]speculate.Predictor, pinned []int32) ([]*cli.Telemetry, error) {
	r, err := trace.Open(o.simulate)
	if err != nil {
		return nil, fmt.Errorf("-simulate: %w", err)
	}
	data := speculate.FromReader(r)
	slots, err := o.slots(ctx, data.Header.Model)
	if err != nil {
		return nil, err
	}
	costs, decisions, err := o.readCosts()
	if o.costs == "" && o.load == 0 {
		costs, decisions, err = o.calibrate(ctx, data.Header.Model, ps)
	}
	if err != nil {
		return nil, err
	}
	var all []*cli.Telemetry
	for _, v := range o.runs {
		costs.DecisionSeconds = 0
		cfg := costs.Config(prefetch.Config{Capacity: slots, Policy: v.evict, Hold: true})
		if v.evict == prefetch.Static {
			cfg.Static = pinned
		}
		ahead, err := v.ahead(ps[v.predictor], data.Header.Model)
		if err != nil {
			return nil, err
		}
		if ahead != nil {
			cfg.Decision = time.Duration(decisions[ahead.Predictor.Name()] * float64(time.Second))
			cfg.Predictor, cfg.Horizon, cfg.Prefetch, cfg.NextToken, cfg.Nearer = ahead.Predictor, ahead.Horizon, ahead.Experts, ahead.NextToken, ahead.Nearer
		}
		result, err := prefetch.Simulate(ctx, data, cfg)
		if err != nil {
			return nil, fmt.Errorf("-simulate %s, %s: %w", o.simulate, v, err)
		}
		all = append(all, &cli.Telemetry{Label: v.String(), Decode: result})
	}
	return all, nil
}

// readCosts returns the times of a run, of policy lru if there is one, or those of
// flags, and the seconds of a decision by predictor.
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
	if o.load > 0 {
		c.LoadSeconds, c.LatencySeconds = o.load.Seconds(), 0
	}
	if o.compute > 0 {
		c.ComputeSeconds, c.ExpertSeconds, c.RestSeconds = o.compute.Seconds(), 0, 0
	}
	return c, decisions, nil
}

// calibrationTokens are decoded to measure costs.
const calibrationTokens = 64

// calibrate measures the model's times of reading and computing as readCosts returns
// them, with policy lru, or, if that reads nothing, on demand.
func (o *options) calibrate(ctx context.Context, m trace.Model, ps map[string]speculate.Predictor) (c offload.Costs, decisions map[string]float64, err error) {
	decisions = map[string]float64{}
	for _, evict := range []prefetch.Policy{prefetch.LRU, prefetch.OnDemand} {
		if c, err = o.decodeSome(ctx, m, evict, nil); err != nil || c.LoadSeconds > 0 {
			break
		}
	}
	for _, v := range o.runs {
		p := ps[v.predictor]
		if p == nil || v.predictor == oracle || err != nil || decisions[p.Name()] > 0 {
			continue
		}
		var ahead *offload.PrefetchOptions
		if ahead, err = v.ahead(p, m); err == nil && ahead != nil {
			var with offload.Costs
			with, err = o.decodeSome(ctx, m, prefetch.LRU, ahead)
			decisions[p.Name()] = with.DecisionSeconds
		}
	}
	return c, decisions, err
}

// decodeSome returns the costs of decoding calibrationTokens.
func (o *options) decodeSome(ctx context.Context, m trace.Model, evict prefetch.Policy, ahead *offload.PrefetchOptions) (c offload.Costs, err error) {
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
	meter := cli.NewMeter("calibration", model, store, ahead)
	_, err = meter.Generate(ctx, []int32{0}, mixtral.GenerateOptions{MaxTokens: calibrationTokens, Stop: []int32{}})
	return store.Stats().Costs, err
}

// slots is the number of experts that the limits leave room for.
func (o *options) slots(ctx context.Context, m trace.Model) (int, error) {
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
