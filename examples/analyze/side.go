package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
)

// source is what to read of a trace, and what to call it.
type source struct{ path, datasets, phase, part, shards, name string }

// side is a trace that has been read.
type side struct {
	name     string
	header   trace.Header
	sums     *trace.Statistics
	shards   string
	selected string // by data set, phase and part, in words
	stats    *trace.Summary
	journeys []viz.Journey
	results  *speculate.Results
	cache    *viz.CacheStudy
	read     func() iter.Seq2[*trace.Document, error] // nil: only sums are known
}

// read takes the trace's statistics, and some documents to show, in one pass.
func read(ctx context.Context, src source, pieces func([]int32) []string, progress io.Writer) (*side, error) {
	r, err := trace.Open(src.path)
	if err != nil {
		return nil, err
	}
	if i, n := parseShards(src.shards); n > 1 {
		r = r.Part(i, n)
	}
	s := &side{name: src.name, header: r.Header(), shards: src.shards}
	s.selected = strings.Join(slices.DeleteFunc([]string{src.datasets, src.phase, src.part}, func(x string) bool { return x == "" }), ", ")
	if s.name == "" {
		s.name = s.header.Model.Name
		for _, x := range []string{src.datasets, src.phase, src.part, src.shards} {
			if x != "" {
				s.name += ", " + x
			}
		}
	}
	filter := trace.Filter{Datasets: cli.List(src.datasets), NoInput: true}
	s.read = func() iter.Seq2[*trace.Document, error] {
		return only(every(r.Select(filter).Documents(), src.part), &s.header, trace.Phase(src.phase))
	}
	if s.sums, err = trace.NewStatistics(s.header, trace.StatisticsOptions{}); err != nil {
		return nil, fmt.Errorf("%s: %w", src.path, err)
	}
	sample := viz.Sampler{Model: s.header.Model, Pieces: pieces}
	var tokens, said int64
	err = s.sums.AddAll(func(yield func(*trace.Document, error) bool) {
		for d, err := range s.read() {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = sample.Add(d)
			}
			if !yield(d, err) || err != nil {
				return
			}
			if tokens += int64(d.Len()); tokens-said >= 100000 {
				said = tokens
				fmt.Fprintf(progress, "%s: %d of %d tokens\n", src.path, tokens, r.Tokens())
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.path, err)
	}
	if tokens == 0 && src.shards == "" { // more parts than shards are possible
		return nil, fmt.Errorf("%s: no tokens of these data sets and this phase", src.path)
	}
	s.stats, s.journeys = s.sums.Summary(), sample.Journeys()
	return s, nil
}

// parsePart reads "i/n"; "" is 1/1.
func parsePart(s string) (i, n int, ok bool) {
	if s == "" {
		return 1, 1, true
	}
	i, n, ok = cli.Part(s)
	return i, n, ok && i >= 1
}

func validPart(s string) bool {
	_, _, ok := parsePart(s)
	return ok
}

// every passes on the i-th of every n documents.
func every(docs iter.Seq2[*trace.Document, error], part string) iter.Seq2[*trace.Document, error] {
	i, n, _ := parsePart(part)
	return func(yield func(*trace.Document, error) bool) {
		at := 0
		for d, err := range docs {
			if (err != nil || at%n == i-1) && !yield(d, err) {
				return
			}
			at++
		}
	}
}

// only passes on the tokens of one phase; "": all.
func only(docs iter.Seq2[*trace.Document, error], h *trace.Header, phase trace.Phase) iter.Seq2[*trace.Document, error] {
	if phase == "" {
		return docs
	}
	return func(yield func(*trace.Document, error) bool) {
		for d, err := range docs {
			if err == nil {
				d = part(d, h, phase)
			}
			if (err != nil || d.Len() > 0) && !yield(d, err) {
				return
			}
		}
	}
}

// part is the tokens of a document that were computed in one phase.
func part(d *trace.Document, h *trace.Header, phase trace.Phase) *trace.Document {
	out := &trace.Document{Dataset: d.Dataset, ID: d.ID}
	n := d.Len()
	each := h.Model.Layers * h.Model.TopK
	logits := len(d.RouterLogits) / max(1, n)
	for t := range n {
		if d.Phase(t) != phase {
			continue
		}
		out.Tokens = append(out.Tokens, d.Tokens[t])
		out.Positions = append(out.Positions, d.Position(t))
		out.Phases = append(out.Phases, phase)
		out.Experts = append(out.Experts, d.Experts[t*each:(t+1)*each]...)
		if d.Weights != nil {
			out.Weights = append(out.Weights, d.Weights[t*each:(t+1)*each]...)
		}
		if l := h.Model.Layers; d.Dropped != nil {
			out.Dropped = append(out.Dropped, d.Dropped[t*l:(t+1)*l]...)
		}
		if d.RouterLogits != nil {
			out.RouterLogits = append(out.RouterLogits, d.RouterLogits[t*logits:(t+1)*logits]...)
		}
	}
	return out
}

// sample returns documents of about so many tokens, spread over the trace.
func (s *side) sample(tokens int) ([]*trace.Document, error) {
	if tokens == 0 || s.read == nil {
		return nil, nil
	}
	var docs []*trace.Document
	kept := 0
	share := float64(tokens) / float64(s.stats.Tokens)
	seen := 0.0
	for d, err := range s.read() {
		if err != nil {
			return nil, err
		}
		if seen += float64(d.Len()) * share; kept == 0 || float64(kept+d.Len()) <= seen || share >= 1 {
			d.RouterLogits = nil
			docs, kept = append(docs, d), kept+d.Len()
		}
	}
	return docs, nil
}

// baselines fits the counting predictors on part of the documents and scores
// them on others; nil where there are too few.
func (s *side) baselines(ctx context.Context, tokens int, seed uint64) (*speculate.Results, error) {
	depth := speculate.ShapeOf(s.header.Model).Depth()
	if tokens == 0 || depth < 2 {
		return nil, nil
	}
	docs, err := s.sample(tokens)
	if err != nil {
		return nil, err
	}
	if len(docs) < 5 {
		return nil, nil
	}
	h := s.header
	h.LogitLayers, h.InputLayers = nil, nil
	data := speculate.Slice(h, docs)
	parts, err := speculate.Split(ctx, data, speculate.Fractions{Valid: 0.1, Test: 0.3}, seed)
	if err != nil {
		return nil, err
	}
	ps, err := speculate.Baselines(speculate.ShapeOf(h.Model), nil)
	if err != nil {
		return nil, err
	}
	var hs []speculate.Horizon
	for _, d := range []int{1, 2, 4, 8} {
		if d < depth {
			hs = append(hs, speculate.Horizon{Layers: d})
		}
	}
	if docs[0].Len() > 0 && docs[0].Tokens[0] == trace.NoToken {
		ps = slices.DeleteFunc(ps, func(p speculate.Predictor) bool { return p.Name() == (&speculate.TokenID{}).Name() })
	}
	if err := speculate.Fit(ctx, parts.Train, hs, ps...); err != nil {
		return nil, err
	}
	return speculate.Evaluate(ctx, parts.Test, speculate.EvaluateOptions{Horizons: hs, Seed: seed}, ps...)
}

func (s *side) study() viz.Study {
	return viz.Study{Name: s.name, Routing: s.stats, Results: s.results, Journeys: s.journeys, Cache: s.cache}
}
