package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
)

// cacheStudy simulates a cache of experts on half of the documents, with the
// transition predictor fitted on the other half; nothing where there are too few.
func (s *side) cacheStudy(ctx context.Context, o options) error {
	docs, err := s.sample(o.cache)
	if err != nil || len(docs) < 5 {
		return err
	}
	h := s.header
	h.LogitLayers, h.InputLayers = nil, nil
	parts, err := speculate.Split(ctx, speculate.Slice(h, docs), speculate.Fractions{Valid: 0.1, Test: 0.4}, o.seed)
	if err != nil {
		return err
	}
	parts.Test = exceptTrain(speculate.Slice(h, docs), parts) // the valid part is not needed: half and half
	m := h.Model
	cfg := prefetch.Config{Load: o.load, Compute: o.compute}
	ahead := cfg
	if s := speculate.ShapeOf(m); s.Layers-s.Encoder > 1 { // an encoder's tokens are one step
		p := &speculate.Transition{}
		ahead.Predictor, ahead.Horizon, ahead.Prefetch = p, speculate.Horizon{Layers: 1}, m.TopK
		if err := speculate.Fit(ctx, parts.Train, []speculate.Horizon{ahead.Horizon}, p); err != nil {
			return err
		}
	}
	var study viz.CacheStudy
	if err := s.rates(ctx, parts.Test, cfg, ahead, &study); err != nil {
		return err
	}
	if err := s.costs(ctx, parts.Test, cfg, ahead, &study); err != nil {
		return err
	}
	study.Text = []string{fmt.Sprintf("A simulation of running the model with most experts outside device memory. The layers share one cache, which is empty at the start of each document; tokens are decoded one at a time%s. "+
		"Copying an expert takes %v and computing a layer %v: these are assumptions (flags -load and -compute), not measurements. %d documents, %d tokens.", encoderStep(m), o.load, o.compute, study.Costs[0].Documents, study.Costs[0].Tokens),
		"LRU evicts the least recently used expert, LFU the least frequently used. OPT knows the future: no eviction policy has a higher hit rate."}
	if ahead.Predictor != nil {
		study.Text = append(study.Text, fmt.Sprintf("With prefetch, the %d most likely experts of the next layer, according to the transition predictor fitted on other documents, are copied while a layer is computed. "+
			"A choice is a hit if its expert is resident in time.", m.TopK))
		if err := timeline(ctx, parts.Test, ahead, &study); err != nil {
			return err
		}
	}
	s.cache = &study
	return nil
}

// encoderStep says how the tokens of an encoder are simulated.
func encoderStep(m trace.Model) string {
	if speculate.ShapeOf(m).Encoder == 0 {
		return ""
	}
	return ", after those of the encoder, which are one step a layer"
}

// exceptTrain is what Split did not give to training.
func exceptTrain(all speculate.Data, p speculate.Parts) speculate.Data {
	train := map[[2]string]bool{}
	for d, err := range p.Train.Documents() {
		if err == nil { // documents in memory are read without errors
			train[[2]string{d.Dataset, d.ID}] = true
		}
	}
	return all.Filter(func(d *trace.Document) bool { return !train[[2]string{d.Dataset, d.ID}] })
}

// sizes are whole numbers of experts a layer, at most n of them.
func sizes(m trace.Model, n int) []int {
	var out []int
	last := 0
	for i := 1; i <= n; i++ {
		if c := (m.Experts*i + n/2) / n; c > last {
			out, last = append(out, c*m.Layers), c
		}
	}
	return out
}

const withPrefetch = "LRU with prefetch"

func (s *side) rates(ctx context.Context, data speculate.Data, cfg, ahead prefetch.Config, study *viz.CacheStudy) error {
	add := func(name string, c prefetch.Config, sizes []int) error {
		points, err := prefetch.HitRates(ctx, data, c, sizes)
		study.Names, study.Rates = append(study.Names, name), append(study.Rates, points)
		return err
	}
	for _, p := range []prefetch.Policy{prefetch.LRU, prefetch.LFU, prefetch.OPT} {
		cfg.Policy = p
		if err := add(string(p), cfg, sizes(s.header.Model, 32)); err != nil {
			return err
		}
	}
	if ahead.Predictor == nil {
		return nil
	}
	return add(withPrefetch, ahead, sizes(s.header.Model, 8))
}

// costs are at a quarter and half of the experts.
func (s *side) costs(ctx context.Context, data speculate.Data, cfg, ahead prefetch.Config, study *viz.CacheStudy) error {
	m := s.header.Model
	for _, share := range []float64{0.25, 0.5} {
		for _, p := range []prefetch.Policy{prefetch.LRU, prefetch.LFU, prefetch.OPT, withPrefetch} {
			c := cfg
			c.Policy = p
			if p == withPrefetch {
				if c = ahead; c.Predictor == nil {
					continue
				}
			}
			c.Capacity = max(1, int(math.Round(share*float64(m.Layers*m.Experts))))
			r, err := prefetch.Simulate(ctx, data, c)
			if err != nil {
				return err
			}
			study.Labels, study.Costs = append(study.Labels, string(p)), append(study.Costs, r)
		}
	}
	return nil
}

// timeline simulates the first tokens of a document at half of the experts, and shows the last of them.
func timeline(ctx context.Context, data speculate.Data, cfg prefetch.Config, study *viz.CacheStudy) error {
	m := data.Header.Model
	for d, err := range data.Documents() {
		if err != nil {
			return err
		}
		first := d.Encoded()
		if first == d.Len() { // nothing is decoded
			continue
		}
		n := min(d.Len(), first+64)
		part := &trace.Document{Dataset: d.Dataset, ID: d.ID, Tokens: d.Tokens[:n], Experts: d.Experts[:n*m.Layers*m.TopK]}
		if d.Phases != nil {
			part.Phases = d.Phases[:n]
		}
		if d.Weights != nil {
			part.Weights = d.Weights[:n*m.Layers*m.TopK]
		}
		if d.Dropped != nil {
			part.Dropped = d.Dropped[:n*m.Layers]
		}
		s := speculate.ShapeOf(m)
		cfg.Capacity, cfg.Events = max(1, m.Layers*m.Experts/2), 1<<18
		study.Timeline, err = prefetch.Simulate(ctx, speculate.Slice(data.Header, []*trace.Document{part}), cfg)
		study.From, study.To = max(first, n-max(1, 24/(s.Layers-s.Encoder))), n
		return err
	}
	return nil
}

// validTimes are those of the simulation.
func validTimes(o options) bool {
	return o.load >= time.Microsecond && o.load <= time.Hour && o.compute >= time.Microsecond && o.compute <= time.Hour
}
