package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/trace"
)

// record runs both embedded models over the same texts, and makes o read their traces.
// It returns the number of omitted documents.
func (o *options) record(ctx context.Context, errs io.Writer) (problems int, err error) {
	docs, err := mini.Documents()
	if err != nil {
		return 0, err
	}
	var texts []collect.Document
	for _, d := range docs {
		texts = append(texts, collect.Document{Dataset: d.Domain, ID: d.ID, Text: d.Text})
	}
	for _, x := range []struct {
		folder, name        string
		trace, model, shown *string
	}{
		{"mini", "Mixtral", &o.trace, &o.model, &o.name},
		{"mini-switch", "Switch", &o.against, &o.againstModel, &o.againstName},
	} {
		*x.trace, *x.model = filepath.Join(o.out, "trace-"+x.folder), x.folder
		if *x.shown == "" {
			*x.shown = x.name
		}
		n, err := o.recordOne(ctx, x.folder, *x.trace, texts, errs)
		if err != nil {
			return problems, err
		}
		problems += n
	}
	return problems, nil
}

// recordOne records one model into dir, or what is missing there.
func (o *options) recordOne(ctx context.Context, folder, dir string, texts []collect.Document, errs io.Writer) (problems int, err error) {
	files := &cli.Model{Folder: folder, Backend: o.backend}
	tok, err := files.LoadTokenizer()
	if err != nil {
		return 0, err
	}
	model, free, dropped, err := load(ctx, files)
	if err != nil {
		return 0, err
	}
	defer free()
	last := time.Now()
	_, err = collect.Run(ctx, model, tok, []collect.Source{collect.Slice("mini", texts)}, dir, collect.Options{
		DocumentsPerDataset: o.docs, MaxTokens: o.tokens, Seed: o.seed, ModelName: folder, Program: "expertspec compare",
		Logits: true, RouterInput: true, Dropped: dropped, Float: trace.Float16,
		Progress: func(p collect.Progress) {
			if !o.quiet && (p.Documents == p.DocumentsTotal || time.Since(last) > 2*time.Second) {
				last = time.Now()
				fmt.Fprintf(errs, "%s, %s: %d of %d documents\n", folder, p.Stage, p.Documents, p.DocumentsTotal)
			}
		},
		Problem: func(p collect.Problem) {
			problems++
			fmt.Fprintf(errs, "compare: omitted: %v\n", p.Error())
		},
	})
	return problems, err
}

// load loads a model. dropped says whether its experts drop tokens.
func load(ctx context.Context, files *cli.Model) (model collect.Model, free func(), dropped bool, err error) {
	if dropped, err = files.IsSwitch(); err != nil {
		return nil, nil, false, err
	}
	if dropped {
		m, free, err := files.LoadSwitch(ctx)
		return collect.SwitchTransformer(m), free, true, err
	}
	m, free, err := files.Load(ctx)
	return collect.Mixtral(m), free, false, err
}
