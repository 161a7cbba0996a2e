// Command compare measures how two models route the same texts, for example Mixtral
// and a Switch Transformer. Without traces it records the embedded ones:
//
//	$ go run ./examples/compare -out comparison
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

	compare -out DIR
	compare -trace DIR -model DIR -against DIR -against-model DIR -out DIR

Without traces it records both embedded models over the same texts into the folder, and resumes there when it runs again: Mixtral reads
a text from left to right; of the Switch Transformer the encoder reads the first half and the decoder the rest.

Only documents that both traces have are compared, by data set and id. Without the models' folders, what a trace does not say is
"not recorded": parameters, capacity, gate reuse and everything at equal bytes.`

type options struct {
	trace, against, model, againstModel, name, againstName, json, out, backend string
	docs, tokens                                                               int
	quiet, short                                                               bool
	seed                                                                       uint64
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "compare", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "complete parts of traces that it recorded are kept; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.trace, "trace", "", "`folder` of the first model's trace")
	f.StringVar(&o.against, "against", "", "`folder` of the second model's trace")
	f.StringVar(&o.model, "model", "", "`folder` of the first model's checkpoint, or mini")
	f.StringVar(&o.againstModel, "against-model", "", "`folder` of the second model's checkpoint, or mini")
	f.StringVar(&o.name, "name", "", "`name` of the first model (default: the trace's)")
	f.StringVar(&o.againstName, "against-name", "", "`name` of the second model (default: the trace's)")
	f.StringVar(&o.out, "out", "", "`folder` for report.html, and figures as PNG, SVG and CSV in figures/")
	f.StringVar(&o.json, "json", "", "`file` for all figures")
	f.BoolVar(&o.short, "short", false, "omit the sentences below the table")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	f.IntVar(&o.docs, "docs", 30, "without traces: `documents` of each data set, chosen at random")
	f.IntVar(&o.tokens, "tokens", 256, "without traces: `tokens` of a document, at most")
	cli.BackendFlag(f, &o.backend)
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of the choice of documents to fit and to score predictors on, and of permutations")
}

func (o *options) check(*flag.FlagSet) error {
	switch none := o.trace == "" && o.against == ""; {
	case none && o.out == "":
		return errors.New("-out is required, for the traces that are recorded, or -trace and -against")
	case none && (o.model != "" || o.againstModel != ""):
		return errors.New("-model and -against-model are of the models of -trace and -against")
	case !none && (o.trace == "" || o.against == ""):
		return errors.New("-trace and -against are required together")
	case o.docs < 2 || o.tokens < 8:
		return fmt.Errorf("-docs is %d and -tokens %d; must be at least 2 and 8", o.docs, o.tokens)
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	problems := 0
	if o.trace == "" {
		var err error
		if problems, err = o.record(ctx, s.Err); err != nil {
			return err
		}
	}
	err := o.compare(ctx, s)
	if err == nil && problems > 0 {
		return &cli.Incomplete{Omitted: problems, What: "documents"}
	}
	return err
}

// compare compares the traces.
func (o *options) compare(ctx context.Context, s cli.Streams) error {
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
