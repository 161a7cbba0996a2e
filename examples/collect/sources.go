package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
)

// texts returns the sources that -data names.
func (o *options) texts(ctx context.Context) ([]collect.Source, error) {
	var paths []string
	var sources []collect.Source
	for _, p := range o.data {
		if p != "mini" {
			paths = append(paths, p)
			continue
		}
		s, err := embedded()
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	files, err := collect.Files(ctx, paths, o.files)
	if err != nil {
		return nil, fmt.Errorf("-data: %w", err)
	}
	return append(sources, files...), nil
}

// datasets returns those that -sets names. One that cannot be opened is an error,
// because the others would make another trace.
func (o *options) datasets(ctx context.Context, show *display) ([]collect.Source, error) {
	var sources []collect.Source
	if o.tokenFile != "" {
		token, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return nil, err
		}
		o.hub.Token = strings.TrimSpace(string(token))
	}
	o.hub.Progress = show.download
	for _, name := range cli.List(o.sets) {
		s, err := o.hub.Source(ctx, name)
		if err != nil && !o.hub.Download {
			return nil, fmt.Errorf("%w; -download fetches it", err)
		}
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// embedded are the documents that come with the embedded model.
func embedded() (collect.Source, error) {
	docs, err := mini.Documents()
	if err != nil {
		return collect.Source{}, err
	}
	texts := make([]collect.Document, len(docs))
	for i, d := range docs {
		texts[i] = collect.Document{Dataset: d.Domain, ID: d.ID, Text: d.Text}
	}
	return collect.Slice("mini", texts), nil
}

// download reports the progress of a file.
func (d *display) download(file string, done, total int64) {
	if d.quiet || time.Since(d.last) < lineEvery && (done < total || total == 0) {
		return
	}
	d.last = time.Now()
	if total > 0 {
		fmt.Fprintf(d.w, "collect: downloading %s: %d of %d MiB\n", file, done>>20, total>>20)
		return
	}
	fmt.Fprintf(d.w, "collect: downloading %s: %d MiB\n", file, done>>20)
}
