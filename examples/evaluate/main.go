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
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/trace"
)

const usage = `evaluate asks saved predictors about every token and layer of a trace and prints recall by predictor and distance, with
95 % intervals from resampled documents; then what each predictor costs, with its other measures. The time of a decision is
measured here, on one core, asking step by step as decoding does. The JSON holds all figures: by layer, data set and phase too.
The predictions file holds one row a (document, position, layer, distance, predictor), from which recompute.py beside this
program makes the figures again.

Exit status: 0 done, 1 failed, 2 wrong usage.

Flags:
`

type options struct {
	trace, split, predictors, model, json, predictions, only, horizons, by string
	seed, resamples                                                        int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var o options
	fs := flag.NewFlagSet("evaluate", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.Usage = func() { fmt.Fprint(errs, usage); fs.PrintDefaults() }
	fs.StringVar(&o.trace, "trace", "", "`folder` of the trace to score on")
	fs.StringVar(&o.split, "split", "", "`shares` of validation and test documents, as .15,.15, when train was run with the same -split, -seed and -trace: score\non the test documents alone; empty: on all")
	fs.StringVar(&o.predictors, "predictors", "predictors", "`folder` that train wrote")
	fs.StringVar(&o.model, "model", "", "`folder` of the checkpoint that the gates are read from, or mini; needed for gate reuse")
	fs.StringVar(&o.json, "json", "", "`file` for all figures")
	fs.StringVar(&o.predictions, "predictions", "", "`file` for the predictions, Parquet; large: E numbers a row")
	fs.StringVar(&o.only, "only", "", "`names` of the predictors to score, separated by commas; empty: all, and the oracle")
	fs.StringVar(&o.horizons, "horizons", "1,2,4", "`horizons`: distances in layers, token+id or token, separated by commas")
	fs.StringVar(&o.by, "by", "", "print the measures by layer, dataset or phase; empty: over all, with what each predictor costs")
	fs.IntVar(&o.seed, "seed", 1, "`seed` of the resampling and of -split")
	fs.IntVar(&o.resamples, "resamples", 1000, "`times` that the documents are resampled; at least 100")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0 || o.trace == "" || o.seed < 0 || o.resamples < 100 || o.by == "all" || o.by != "" && !slices.Contains(speculate.By, o.by):
		fmt.Fprintln(errs, "evaluate: want -trace FOLDER, no other arguments, at least 100 resamples, and -by layer, dataset or phase")
		fs.Usage()
		return 2
	}
	var hs []speculate.Horizon
	for s := range strings.SplitSeq(o.horizons, ",") {
		h, err := speculate.ParseHorizon(strings.TrimSpace(s))
		if err != nil {
			fmt.Fprintln(errs, "evaluate:", err)
			return 2
		}
		hs = append(hs, h)
	}
	if err := evaluate(ctx, &o, hs, out, errs); err != nil {
		fmt.Fprintln(errs, "evaluate:", err)
		return 1
	}
	return 0
}

func evaluate(ctx context.Context, o *options, hs []speculate.Horizon, out, errs io.Writer) error {
	r, err := trace.Open(o.trace)
	if err != nil {
		return err
	}
	data, total := speculate.FromReader(r), fmt.Sprintf("of %d ", r.Tokens())
	if o.split != "" {
		f, err := speculate.ParseFractions(o.split)
		if err != nil {
			return err
		}
		parts, err := speculate.Split(data, f, uint64(o.seed))
		if err != nil {
			return err
		}
		data, total = parts.Test, ""
	}
	gates, err := readGates(o.model)
	if err != nil {
		return err
	}
	ps, costs, err := neural.LoadAll(os.DirFS(o.predictors), gates)
	if err != nil {
		return fmt.Errorf("%s: %w", o.predictors, err)
	}
	ps = append(ps, speculate.Oracle{})
	if ps, err = choose(ps, o.only); err != nil {
		return err
	}
	last := time.Now()
	eo := speculate.EvaluateOptions{Horizons: hs, Seed: uint64(o.seed), Resamples: o.resamples, Progress: func(docs, tokens int) {
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			fmt.Fprintf(errs, "%d documents, %d %stokens\n", docs, tokens, total)
		}
	}}
	closeRows := func() error { return nil }
	if o.predictions != "" {
		f, err := os.Create(o.predictions)
		if err != nil {
			return err
		}
		defer f.Close()
		b := bufio.NewWriterSize(f, 1<<20)
		w := speculate.NewPredictionWriter(b)
		eo.Each = w.Write
		closeRows = func() error { return errors.Join(w.Close(), b.Flush(), f.Close()) }
	}
	results, err := speculate.Evaluate(ctx, data, eo, ps...)
	if err != nil {
		return err
	}
	if err := closeRows(); err != nil {
		return err
	}
	if results.Costs, err = speculate.MeasureCosts(ctx, data, hs, costs, ps...); err != nil {
		return err
	}
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		if err := errors.Join(results.WriteJSON(f), f.Close()); err != nil {
			return err
		}
	}
	if err := results.WriteTable(out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return results.WriteMeasures(out, cmp.Or(o.by, "all"))
}

// choose returns the predictors that only names, or all.
func choose(ps []speculate.Predictor, only string) ([]speculate.Predictor, error) {
	if only == "" {
		return ps, nil
	}
	var out []speculate.Predictor
	for name := range strings.SplitSeq(only, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(ps, func(p speculate.Predictor) bool { return p.Name() == name })
		if i < 0 {
			return nil, fmt.Errorf("no predictor %q among those saved", name)
		}
		out = append(out, ps[i])
	}
	return out, nil
}

// readGates reads the routers of a checkpoint; none of none.
func readGates(model string) (*speculate.Gates, error) {
	if model == "" {
		return nil, nil
	}
	open := mini.Open
	if model != "mini" {
		open = func() (*mixtral.Checkpoint, error) { return mixtral.OpenCheckpointDir(model) }
	}
	c, err := open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	w, err := c.Routers()
	if err != nil {
		return nil, err
	}
	cfg := c.Config()
	return &speculate.Gates{Layers: cfg.Layers, Experts: cfg.Experts, Hidden: cfg.HiddenSize, Weights: w}, nil
}
