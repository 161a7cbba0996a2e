// Command quickstart is the whole chain on the embedded model, offline: it runs texts of ten domains through a trained
// Mixtral, records which experts each token goes to, learns to predict that, measures how well on documents it has not
// seen, beside the embedded predictors, decodes with half of the experts in memory and those read ahead that are
// predicted, and writes a report.
//
//	$ GOEXPERIMENT=simd go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
)

const help = `
quickstart runs the embedded Mixtral on texts of ten domains, records its routing, trains predictors of it, measures them and
the embedded predictors, which were trained for longer on other texts, on unseen documents, decodes with half of the experts in
memory and prefetching by these predictions, and writes a folder with the trace, the figures' data and an HTML report.

Run again with the same flags, it resumes where it stopped, and produces the same figures.`

type options struct {
	out, backend string
	docs, tokens int
	seed         uint64
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "quickstart", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "the trace in " + o.out + " is kept; run it again to resume" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.out, "out", "expertspec-quickstart", "`folder` to write: trace, report and pictures")
	f.IntVar(&o.docs, "docs", 15, "`documents` per data set, chosen at random; at least 5")
	f.IntVar(&o.tokens, "tokens", 128, "`tokens` per document at most")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of the choice of documents, of the split and of training")
	cli.BackendFlag(f, &o.backend)
}

func (o *options) check(*flag.FlagSet) error {
	switch {
	case o.out == "":
		return errors.New("-out is empty")
	case o.docs < 5:
		return fmt.Errorf("-docs is %d documents per data set; a split into three parts requires at least 5", o.docs)
	case o.tokens < 8:
		return fmt.Errorf("-tokens is %d; must be at least 8", o.tokens)
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	problems, err := quickstart(ctx, o, s.Out, s.Err)
	if err == nil && problems > 0 {
		return &cli.Incomplete{Omitted: problems, What: "documents"}
	}
	return err
}

// quickstart returns the number of omitted documents.
func quickstart(ctx context.Context, o *options, out, errs io.Writer) (problems int, err error) {
	start := time.Now()
	backend, err := mixtral.OpenBackend(o.backend)
	if err != nil {
		return 0, err
	}
	defer backend.Finalize()
	tokenizer, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		return 0, err
	}
	p := &progress{to: errs}
	dir := filepath.Join(o.out, "trace")
	problems, err = record(ctx, o, backend, tokenizer, dir, p)
	if err != nil {
		return problems, err
	}
	reader, err := trace.Open(dir)
	if err != nil {
		return problems, err
	}
	studied, err := study(ctx, o, backend, reader, p)
	if err != nil {
		return problems, err
	}
	if err := report(o.out, reader, tokenizer, studied); err != nil {
		return problems, err
	}
	results := studied.results
	fmt.Fprintf(out, "\nRecall: the share of the %d experts chosen that are among the first %d predicted, with 95 %% intervals over documents.\nThe transformers are those of mixtral/mini/predictors, trained for longer on other texts.\n\n", results.Shape.TopK, results.Shape.TopK)
	if err := results.WriteTable(out); err != nil {
		return problems, err
	}
	if err := writeOffloading(out, studied.runs); err != nil {
		return problems, err
	}
	fmt.Fprintf(out, "\ntime:     %.0f s\n", time.Since(start).Seconds())
	fmt.Fprintf(out, "report:   %s\npictures: %s\nfigures:  %s\ntrace:    %s\n",
		filepath.Join(o.out, "report.html"), filepath.Join(o.out, "pictures"), filepath.Join(o.out, "results.json"), dir)
	return problems, nil
}

// record collects the routing of the chosen documents into dir.
func record(ctx context.Context, o *options, backend compute.Backend, tokenizer *tokenizer.Tokenizer, dir string, p *progress) (problems int, err error) {
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		return 0, err
	}
	defer model.Close()
	docs, err := mini.Documents()
	if err != nil {
		return 0, err
	}
	var texts []collect.Document
	for _, d := range docs {
		texts = append(texts, collect.Document{Dataset: d.Domain, ID: d.ID, Text: d.Text})
	}
	_, err = collect.Run(ctx, collect.Mixtral(model), tokenizer, []collect.Source{collect.Slice("mini", texts)}, dir, collect.Options{
		DocumentsPerDataset: o.docs, MaxTokens: o.tokens, DocumentsPerShard: 64, Seed: o.seed, ModelName: "mini-mixtral", Program: "expertspec quickstart",
		Logits: true, RouterInput: true, Float: trace.Float16, // the predictors on hidden states read them
		Progress: p.collected,
		Problem: func(c collect.Problem) {
			problems++
			p.stage("omitted: " + c.Error())
		},
	})
	return problems, err
}
