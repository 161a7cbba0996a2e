package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/mini/predictors"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
	"github.com/gomlx/compute"
)

// A network of this hidden width, trained on this many tokens, learns in seconds. It is a taste: examples/train trains
// for as long as is asked of it.
const (
	width       = 64
	trainTokens = 18_000
)

// study splits the trace by document, fits predictors on one part, calibrates on the second and measures on the third.
func study(ctx context.Context, o *options, backend compute.Backend, reader *trace.Reader, p *progress) (*studied, error) {
	parts, err := speculate.Split(ctx, speculate.FromReader(reader), speculate.Fractions{Valid: .2, Test: .2}, o.seed)
	if err != nil {
		return nil, err
	}
	checkpoint, err := mixtral.OpenCheckpoint(mini.FS())
	if err != nil {
		return nil, err
	}
	defer checkpoint.Close()
	routers, err := checkpoint.Routers()
	if err != nil {
		return nil, err
	}
	c := checkpoint.Config()
	horizons := speculate.LayersAhead(1, 2, 4)
	var curves trainingCurves
	var calibration viz.Calibration
	made, err := neural.Fit(ctx, parts.Train, parts.Valid, neural.CompareOptions{
		Train: neural.TrainOptions{
			Backend: backend, Horizons: horizons, Seed: o.seed, Tokens: trainTokens,
			Gates:    &speculate.Gates{Layers: c.Layers, Experts: c.Experts, Hidden: c.HiddenSize, Weights: routers},
			Progress: func(n neural.Progress) { p.trained(n); curves.add(n) },
		},
		MLPs:     []neural.MLPConfig{neural.InterLayer(width), neural.StatisticsAware(width), neural.CorrectedGate(), neural.HiddenState(width)},
		Evaluate: speculate.EvaluateOptions{Seed: o.seed},
		Stage:    p.stage,
	})
	if err != nil {
		return nil, err
	}
	p.stage("evaluating these, and the embedded predictors")
	eo := speculate.EvaluateOptions{Horizons: horizons, Seed: o.seed, Each: calibration.Observe}
	results, ps, err := evaluate(ctx, parts, eo, made)
	if err != nil {
		return nil, err
	}
	ps = slices.DeleteFunc(ps, func(p speculate.Predictor) bool {
		return !slices.Contains([]string{"gate reuse", "hidden state", "hidden transformer"}, p.Name())
	})
	s := &studied{results: results, training: curves.figure(), calibration: &calibration}
	s.runs, s.offload, err = compareOffloading(ctx, backend, parts.Test, ps, p)
	return s, err
}

// evaluate measures what was made, the embedded predictors and the oracle on the test documents.
func evaluate(ctx context.Context, parts speculate.Parts, o speculate.EvaluateOptions, made *neural.Comparison) (*speculate.Results, []speculate.Predictor, error) {
	embedded, err := predictors.Load()
	if err != nil {
		return nil, nil, err
	}
	seen, err := embedded.Provenance.Check(ctx, parts)
	if err != nil {
		return nil, nil, err
	}
	ps := append(made.Predictors, embedded.Predictors...)
	results, err := speculate.Evaluate(ctx, parts.Test, o, append(slices.Clone(ps), speculate.Oracle{})...)
	if err != nil {
		return nil, nil, err
	}
	if seen != "" {
		results.Warnings = append(results.Warnings, seen)
	}
	costs := maps.Clone(made.Costs)
	maps.Copy(costs, embedded.Costs)
	results.Costs, err = speculate.MeasureCosts(ctx, parts.Test, o.Horizons, costs, ps...)
	return results, ps, err
}

// studied is the part of a study that the report shows.
type studied struct {
	results     *speculate.Results
	training    viz.Figure
	calibration *viz.Calibration
	runs        []viz.OffloadRun
	offload     []string // in words
}

// report writes the HTML report, its pictures and the figures' data into dir.
func report(dir string, reader *trace.Reader, tokenizer *tokenizer.Tokenizer, s *studied) error {
	statistics, err := trace.NewStatistics(reader.Header(), trace.StatisticsOptions{})
	if err != nil {
		return err
	}
	sample := viz.Sampler{Model: reader.Header().Model, DocumentsPerDataset: 2, Pieces: tokenizer.Pieces}
	for doc, err := range reader.Select(trace.Filter{NoInput: true}).Documents() {
		if err != nil {
			return err
		}
		if err := statistics.Add(doc); err != nil {
			return err
		}
		if err := sample.Add(doc); err != nil {
			return err
		}
	}
	section, err := viz.OffloadSection(s.offload, s.runs)
	if err != nil {
		return err
	}
	rep, err := viz.NewReport(viz.Study{
		Title: "mini-mixtral on ten domains", Routing: statistics.Summary(), Results: s.results, Journeys: sample.Journeys(),
		Training: []viz.Figure{s.training}, Calibration: s.calibration, Extra: []viz.Section{section},
	})
	if err != nil {
		return err
	}
	if err := cli.WriteFile(filepath.Join(dir, "results.json"), s.results.WriteJSON); err != nil {
		return err
	}
	pictures := filepath.Join(dir, "pictures")
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	return rep.Save(filepath.Join(dir, "report.html"), pictures)
}

// trainingCurves are the losses of the networks, by tokens seen.
type trainingCurves struct {
	names []string
	steps [][]float64
	loss  [][]float64
}

func (t *trainingCurves) add(p neural.Progress) {
	if n := len(t.names); n == 0 || t.names[n-1] != p.Name {
		t.names, t.steps, t.loss = append(t.names, p.Name), append(t.steps, nil), append(t.loss, nil)
	}
	n := len(t.names) - 1
	t.steps[n], t.loss[n] = append(t.steps[n], float64(p.Step)), append(t.loss[n], p.ValidLoss)
}

func (t *trainingCurves) figure() viz.Lines {
	l := viz.Lines{Info: viz.Info{Name: "training", Title: "Validation loss while training"}, XAxis: "step", YAxis: "cross-entropy (nats)"}
	for i, name := range t.names {
		l.Curves = append(l.Curves, viz.Curve{Name: name, X: t.steps[i], Y: t.loss[i]})
	}
	return l
}
