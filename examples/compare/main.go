// Command compare measures how two models route the same texts, for example Mixtral
// and a Switch Transformer:
//
//	$ go run ./examples/compare -trace mixtral -model mini -against switch -against-model switch-base-8 -out comparison
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
)

const help = `
compare reads a trace of each of two models and prints a table of how they route, with a column for each stack: load balance, dropped
tokens, repetition, what says something about the expert, recall of predictors and hits of caches at equal shares of the experts and at
equal bytes. Below it is a sentence about each row.

	compare -trace DIR -model DIR -against DIR -against-model DIR -out DIR

Only documents that both traces have are compared, by data set and id. Without the models' folders, what a trace does not say is
"not recorded": parameters, capacity, gate reuse and everything at equal bytes.`

type options struct {
	trace, against, model, againstModel, name, againstName, json, out string
	quiet, short                                                      bool
	seed                                                              uint64
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "compare", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "nothing was kept; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.trace, "trace", "", "`folder` of the first model's trace (required)")
	f.StringVar(&o.against, "against", "", "`folder` of the second model's trace (required)")
	f.StringVar(&o.model, "model", "", "`folder` of the first model's checkpoint, or mini")
	f.StringVar(&o.againstModel, "against-model", "", "`folder` of the second model's checkpoint, or mini")
	f.StringVar(&o.name, "name", "", "`name` of the first model (default: the trace's)")
	f.StringVar(&o.againstName, "against-name", "", "`name` of the second model (default: the trace's)")
	f.StringVar(&o.out, "out", "", "`folder` for report.html, and figures as PNG, SVG and CSV in figures/")
	f.StringVar(&o.json, "json", "", "`file` for all figures")
	f.BoolVar(&o.short, "short", false, "omit the sentences below the table")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of the choice of documents to fit and to score predictors on, and of permutations")
}

func (o *options) check(*flag.FlagSet) error {
	if o.trace == "" || o.against == "" {
		return errors.New("-trace and -against are required")
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	a, err := subject(o.trace, o.model, o.name)
	if err != nil {
		return err
	}
	b, err := subject(o.against, o.againstModel, o.againstName)
	if err != nil {
		return err
	}
	co := comparison.Options{Seed: o.seed, Progress: func(what string) {
		if !o.quiet {
			fmt.Fprintln(s.Err, what)
		}
	}}
	r, err := comparison.Compare(ctx, co, a, b)
	if err != nil {
		return err
	}
	if o.json != "" {
		if err := cli.WriteFile(o.json, r.WriteJSON); err != nil {
			return err
		}
	}
	if err := r.WriteTable(s.Out, !o.short); err != nil || o.out == "" {
		return err
	}
	report, err := viz.ComparisonReport(r)
	if err != nil {
		return err
	}
	figures := filepath.Join(o.out, "figures")
	if err := os.MkdirAll(figures, 0o777); err != nil {
		return err
	}
	file := filepath.Join(o.out, "report.html")
	if err := report.Save(file, figures); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nreport   %s\nfigures  %s\n", file, figures)
	return nil
}

// subject opens a trace, and reads the checkpoint of its model if there is one.
func subject(folder, model, name string) (comparison.Subject, error) {
	r, err := trace.Open(folder)
	if err != nil {
		return comparison.Subject{}, err
	}
	s := comparison.Subject{Name: name, Data: speculate.FromReader(r)}
	if model == "" {
		return s, nil
	}
	files, err := cli.Files(model)
	if err == nil {
		s.Model, err = comparison.ReadCheckpoint(files)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", model, err)
	}
	return s, nil
}
