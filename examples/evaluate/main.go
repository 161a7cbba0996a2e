// Command evaluate scores saved predictors on a trace that they have not seen:
//
//	$ go run ./examples/evaluate -trace test -predictors predictors -model mini -json results.json -predictions predictions.parquet
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

const help = `
evaluate asks saved predictors about every token and layer of a trace and prints recall by predictor and distance, with 95 %
intervals from resampled documents; then the cost of each predictor, with its other measures. The time of a decision is measured
here, on one core, step by step as in decoding. The JSON holds all figures, also by layer, data set and phase. The predictions
file holds one row a (document, position, layer, distance, predictor), from which recompute.py beside this program computes
the figures again.`

type options struct {
	trace, predictors, model, json, predictions, only, horizons, by string
	split                                                           speculate.Fractions
	seed                                                            uint64
	resamples                                                       int
	hs                                                              []speculate.Horizon
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "evaluate", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "nothing was kept; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.trace, "trace", "", "`folder` of the trace to score on (required)")
	f.TextVar(&o.split, "split", speculate.Fractions{}, "`shares` of validation and test documents, as .15,.15, when train ran with the same -split, -seed and -trace: score\non the test documents only; empty: on all, with a warning where train used some of them; another split or seed is refused")
	f.StringVar(&o.predictors, "predictors", "predictors", "`folder` that train wrote, or mini for the embedded predictors of the embedded model")
	f.StringVar(&o.model, "model", "", "`folder` of the checkpoint that the gates are read from, or mini; required for gate reuse")
	f.StringVar(&o.json, "json", "", "`file` for all figures")
	f.StringVar(&o.predictions, "predictions", "", "`file` for the predictions, Parquet; large: E numbers a row")
	f.StringVar(&o.only, "only", "", "`names` of the predictors to score, separated by commas; empty: all, and the oracle")
	f.StringVar(&o.horizons, "horizons", "", "`horizons`: distances in layers, token+id or token, separated by commas"+cli.HorizonsUsage)
	f.StringVar(&o.by, "by", "", "print the measures by layer, dataset or phase; empty: over all, with the cost of each predictor")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of the resampling and of -split")
	f.IntVar(&o.resamples, "resamples", 1000, "`times` that the documents are resampled; at least 100")
}

func (o *options) check(*flag.FlagSet) (err error) {
	switch {
	case o.trace == "":
		return errors.New("-trace is required")
	case o.resamples < 100:
		return fmt.Errorf("-resamples is %d; must be at least 100", o.resamples)
	case o.by != "" && o.by != "layer" && o.by != "dataset" && o.by != "phase":
		return fmt.Errorf("-by is %q; must be layer, dataset or phase", o.by)
	}
	o.hs, err = cli.Horizons(o.horizons)
	return err
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	r, err := trace.Open(o.trace)
	if err != nil {
		return err
	}
	o.hs = cli.HorizonsOf(o.hs, r.Header().Model)
	data, total := speculate.FromReader(r), fmt.Sprintf("of %d ", r.Tokens())
	parts := speculate.Parts{Test: data}
	if o.split != (speculate.Fractions{}) {
		if parts, err = speculate.Split(ctx, data, o.split, o.seed); err != nil {
			return err
		}
		data, total = parts.Test, ""
	}
	gates, err := cli.ReadGates(o.model)
	if err != nil {
		return err
	}
	set, err := cli.LoadPredictors(o.predictors, gates)
	if err != nil {
		return fmt.Errorf("%s: %w", o.predictors, err)
	}
	seen, err := set.Provenance.Check(ctx, parts)
	if err != nil {
		return fmt.Errorf("%s: %w", o.predictors, err)
	}
	ps, err := choose(append(set.Predictors, speculate.Oracle{}), cli.List(o.only))
	if err != nil {
		return fmt.Errorf("%s: %w", o.predictors, err)
	}
	last := time.Now()
	eo := speculate.EvaluateOptions{Horizons: o.hs, Seed: o.seed, Resamples: o.resamples, Progress: func(docs, tokens int) {
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			fmt.Fprintf(s.Err, "%d documents, %d %stokens\n", docs, tokens, total)
		}
	}}
	results, err := evaluate(ctx, data, eo, ps, o.predictions)
	if err != nil {
		return err
	}
	if seen != "" {
		results.Warnings = append(results.Warnings, seen)
	}
	if results.Costs, err = speculate.MeasureCosts(ctx, data, o.hs, set.Costs, ps...); err != nil {
		return err
	}
	if o.json != "" {
		if err := cli.WriteFile(o.json, results.WriteJSON); err != nil {
			return err
		}
	}
	if err := results.WriteTable(s.Out); err != nil {
		return err
	}
	fmt.Fprintln(s.Out)
	return results.WriteMeasures(s.Out, cmp.Or(o.by, "all"))
}

// evaluate is speculate.Evaluate, with every prediction written to a file, if any.
func evaluate(ctx context.Context, data speculate.Data, eo speculate.EvaluateOptions, ps []speculate.Predictor, file string) (results *speculate.Results, err error) {
	if file == "" {
		return speculate.Evaluate(ctx, data, eo, ps...)
	}
	written := cli.WriteFile(file, func(f io.Writer) error {
		b := bufio.NewWriterSize(f, 1<<20)
		w := speculate.NewPredictionWriter(b)
		eo.Each = w.Write
		if results, err = speculate.Evaluate(ctx, data, eo, ps...); err != nil {
			return err
		}
		return errors.Join(w.Close(), b.Flush())
	})
	return results, cmp.Or(err, written)
}

// choose returns the predictors of the given names, or all without names.
func choose(ps []speculate.Predictor, names []string) ([]speculate.Predictor, error) {
	if names == nil {
		return ps, nil
	}
	var chosen []speculate.Predictor
	for _, name := range names {
		i := slices.IndexFunc(ps, func(p speculate.Predictor) bool { return p.Name() == name })
		if i < 0 {
			return nil, fmt.Errorf("no predictor %q%s", name, cli.RequirementOf(name))
		}
		chosen = append(chosen, ps[i])
	}
	return chosen, nil
}
