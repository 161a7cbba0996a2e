// Command convert turns other programs' routing traces into trace files, and back:
//
//	$ go run ./examples/convert -from bigmoe -in testdata/traces/bigmoeonedge/gptoss-cut.route.csv -out /tmp/trace
//	$ go run ./examples/convert -to vllm -in /tmp/trace -out /tmp/experts
//	$ go run ./examples/convert -validate /tmp/trace
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
)

const help = `
convert reads a routing trace of another program and writes a trace (-from FORMAT -in PATH -out DIR), writes a trace in
another format where that can hold it (-to FORMAT -in DIR -out PATH), or checks a trace (-validate DIR, -missing DIR).

What a format does not say is inferred from all the data or given by flags, and is printed. A malformed line or document,
and what is not a regular file in a folder, is named on standard error with its place and omitted. The output appears complete or
not at all.

A trace that is valid but not complete, because shards or documents are missing, is named with them, and the exit status is 3.

Formats:
`

type options struct {
	from, to, in, out, validate, missing string
	convert                              convert.Options
	float16                              bool
	shardMiB                             int64
	quiet                                bool
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	text := help
	names, about := convert.Formats()
	for _, name := range names {
		text += fmt.Sprintf("  %-13s %s\n", name, about[name])
	}
	return cli.Program{Name: "convert", Help: text, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "no output was written; run again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.from, "from", "", "`format` to read")
	f.StringVar(&o.to, "to", "", "`format` to write")
	f.StringVar(&o.in, "in", "", "`path` to read: a file or folder of the format, or with -to a trace")
	f.StringVar(&o.out, "out", "", "`path` to write: the folder of the trace, or with -to a file or folder of the format")
	f.StringVar(&o.validate, "validate", "", "`folder` of a trace to check: shapes, experts, weights, page checksums, documents that occur twice,\nshards and documents that are missing")
	f.StringVar(&o.missing, "missing", "", "`folder` of a trace that parts of collect write: print the numbers of the parts whose shards are missing,\nfor example 3,17-19, without reading the shards")
	f.StringVar(&o.convert.Name, "name", "", "`name` of the model (default: the source's, or unknown)")
	f.StringVar(&o.convert.Dataset, "dataset", "", "`name` of the data set (default: the source's, or the file's name)")
	f.IntVar(&o.convert.Experts, "experts", 0, "`number` of experts of a layer (default: the source's, or the largest id plus one)")
	f.IntVar(&o.convert.TopK, "top-k", 0, "`number` of experts of a token (default: the source's, or inferred; transformers: 2)")
	f.IntVar(&o.convert.Vocabulary, "vocabulary", 0, "`number` of token ids (default: unknown)")
	f.IntVar(&o.convert.Cut, "cut", 0, "cut documents into pieces of at most this many `tokens`, so that a trace of few documents can be split; 0: no")
	f.BoolVar(&o.float16, "float16", false, "store router logits as float16 (default false: float32)")
	f.Int64Var(&o.shardMiB, "shard-mib", 256, "size of a shard, in `MiB`")
	f.BoolVar(&o.quiet, "quiet", false, "no statistics at the end")
}

func (o *options) check(*flag.FlagSet) error {
	formats, _ := convert.Formats()
	switch {
	case o.validate != "" && o.missing != "":
		return errors.New("-validate and -missing exclude each other")
	case o.validate+o.missing != "" && o.from+o.to+o.in+o.out != "":
		return errors.New("-validate and -missing take none of -from, -to, -in and -out")
	case o.validate+o.missing != "":
		return nil
	case o.from == "" && o.to == "":
		return errors.New("one of -from, -to, -validate and -missing is required")
	case o.from != "" && o.to != "":
		return errors.New("-from and -to exclude each other")
	case !slices.Contains(formats, o.from+o.to):
		return fmt.Errorf("no format %q; the formats are %v", o.from+o.to, formats)
	case o.in == "" || o.out == "":
		return errors.New("-in and -out are required")
	case o.shardMiB < 1:
		return fmt.Errorf("-shard-mib is %d; must be positive", o.shardMiB)
	}
	return o.convert.Validate()
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	switch {
	case o.validate != "":
		return validate(ctx, o.validate, s)
	case o.missing != "":
		return missing(o.missing, s)
	}
	report, err := o.convertTrace(ctx, s.Out)
	if report != nil {
		for _, e := range report.Omitted {
			fmt.Fprintf(s.Err, "convert: omitted: %v\n", e)
		}
	}
	switch {
	case err != nil:
		return err
	case len(report.Omitted) > 0:
		return &cli.Incomplete{Omitted: len(report.Omitted), What: "documents or lines of " + o.in}
	}
	return nil
}

func (o *options) convertTrace(ctx context.Context, out io.Writer) (*convert.Report, error) {
	start := time.Now()
	if o.to != "" {
		report, err := convert.Write(ctx, o.to, o.in, o.out)
		if err == nil {
			summary(out, report, o.out, start)
		}
		return report, err
	}
	w := trace.WriterOptions{ShardBytes: o.shardMiB << 20}
	if o.float16 {
		w.Float = trace.Float16
	}
	var s *trace.Statistics
	report, err := convert.Read(ctx, o.from, o.in, o.out, o.convert, w)
	if err != nil {
		return report, err
	}
	summary(out, report, o.out, start)
	if o.quiet || report.Documents == 0 {
		return report, nil
	}
	if s, err = statistics(ctx, o.out); err != nil {
		return report, err
	}
	table(out, s.Summary())
	return report, nil
}

func summary(out io.Writer, r *convert.Report, path string, start time.Time) {
	m := r.Header.Model
	fmt.Fprintf(out, "%s: %d documents, %d tokens in %.1f s\n", path, r.Documents, r.Tokens, time.Since(start).Seconds())
	fmt.Fprintf(out, "model %s: %d layers, %d experts, top-k %d\n", m.Name, m.Layers, m.Experts, m.TopK)
	for _, n := range r.Notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
}

// statistics reads the trace that was written, which shows that it can be read.
func statistics(ctx context.Context, dir string) (*trace.Statistics, error) {
	r, err := trace.Open(dir)
	if err != nil {
		return nil, err
	}
	s, err := trace.NewStatistics(r.Header(), trace.StatisticsOptions{Segments: []int{16}})
	if err != nil {
		return nil, err
	}
	return s, s.AddAll(func(yield func(*trace.Document, error) bool) {
		for d, err := range r.Select(trace.Filter{NoInput: true}).Documents() {
			if !yield(d, cmp.Or(err, ctx.Err())) {
				return
			}
		}
	})
}

// table prints a line for each layer.
func table(out io.Writer, r *trace.Summary) {
	fmt.Fprintf(out, "\n%5s %7s %7s %7s %7s %9s %9s %7s\n", "layer", "active", "entropy", "Gini", "CV", "repeat 1", "repeat any", "SRP16")
	for _, l := range r.Overall.Layers {
		fmt.Fprintf(out, "%5d %7d %7.3f %7.3f %7.3f %8.1f%% %9.1f%% %7.3f\n", l.Layer, l.Usage.Active, l.Usage.Normalized,
			l.Usage.Gini, l.Usage.CV, 100*l.RepeatedFirst, 100*l.RepeatedAny, l.Local[0].SRP)
	}
	l := r.Overall.Layers[0]
	fmt.Fprintf(out, "entropy is a fraction of the maximum; a random router repeats %.1f%% and %.1f%%\n",
		100*l.RandomRepeatedFirst, 100*l.RandomRepeatedAny)
}
