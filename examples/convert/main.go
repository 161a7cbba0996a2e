// Command convert turns other programs' routing traces into trace files, and back:
//
//	$ go run ./examples/convert -from bigmoe -in testdata/traces/bigmoeonedge/gptoss-cut.route.csv -out /tmp/trace
//	$ go run ./examples/convert -to vllm -in /tmp/trace -out /tmp/experts
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
)

// Exit statuses.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
	statusPart   = 3 // some documents were left out, each named on standard error
)

const usage = `convert reads a routing trace of another program and writes a trace (-from FORMAT -in
PATH -out DIR), or writes a trace in another format where that can hold it (-to FORMAT
-in DIR -out PATH).

What a format does not say is inferred from all the data or given by flags, and is
printed. A malformed line or document is named on standard error with its place and left
out.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but for the documents named.

Formats:
`

type options struct {
	from, to, in, out string
	convert           convert.Options
	float16           bool
	shardMiB          int64
	quiet             bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var o options
	fs := flag.NewFlagSet("convert", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		names, about := convert.Formats()
		for _, name := range names {
			fmt.Fprintf(fs.Output(), "  %-13s %s\n", name, about[name])
		}
		fmt.Fprintln(fs.Output(), "\nFlags:")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.from, "from", "", "`format` to read")
	fs.StringVar(&o.to, "to", "", "`format` to write")
	fs.StringVar(&o.in, "in", "", "`path` to read: a file or folder of the format, or with -to a trace")
	fs.StringVar(&o.out, "out", "", "`path` to write: the folder of the trace, or with -to a file or folder of the format")
	fs.StringVar(&o.convert.Name, "name", "", "`name` of the model (default: the source's, or unknown)")
	fs.StringVar(&o.convert.Dataset, "dataset", "", "`name` of the data set (default: the source's, or the file's name)")
	fs.IntVar(&o.convert.Experts, "experts", 0, "`number` of experts of a layer (default: the source's, or the largest id and one)")
	fs.IntVar(&o.convert.TopK, "top-k", 0, "`number` of experts of a token (default: the source's, or inferred; transformers: 2)")
	fs.IntVar(&o.convert.Vocabulary, "vocabulary", 0, "`number` of token ids (default: unknown)")
	fs.BoolVar(&o.float16, "float16", false, "store router logits as float16 (default false: float32)")
	fs.Int64Var(&o.shardMiB, "shard-mib", 256, "size of a shard, in `MiB`")
	fs.BoolVar(&o.quiet, "quiet", false, "no statistics at the end")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return statusDone
	case err != nil:
		return statusUsage
	}
	if err := check(fs, o); err != nil {
		fmt.Fprintf(errs, "convert: %v (-h explains)\n", err)
		return statusUsage
	}
	report, err := convertTrace(ctx, o, out)
	if report != nil {
		for _, e := range report.LeftOut {
			fmt.Fprintf(errs, "convert: left out: %v\n", e)
		}
	}
	switch {
	case err != nil:
		fmt.Fprintf(errs, "convert: %v\n", err)
		return statusFailed
	case len(report.LeftOut) > 0 && report.Documents == 0:
		fmt.Fprintf(errs, "convert: no document of %s could be converted\n", o.in)
		return statusFailed
	case len(report.LeftOut) > 0:
		return statusPart
	}
	return statusDone
}

func check(fs *flag.FlagSet, o options) error {
	formats, _ := convert.Formats()
	known := func(name string) bool {
		for _, f := range formats {
			if f == name {
				return true
			}
		}
		return false
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case (o.from == "") == (o.to == ""):
		return errors.New("one of -from and -to is needed")
	case !known(o.from + o.to):
		return fmt.Errorf("no format %q; there are %v", o.from+o.to, formats)
	case o.in == "" || o.out == "":
		return errors.New("-in and -out are needed")
	case o.shardMiB < 1:
		return errors.New("-shard-mib must be positive")
	}
	return o.convert.Validate()
}

func convertTrace(ctx context.Context, o options, out io.Writer) (*convert.Report, error) {
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
	o.convert.Program = "expertspec convert -from " + o.from
	var s *trace.Statistics
	report, err := convert.Read(ctx, o.from, o.in, o.out, o.convert, w, nil)
	if err != nil {
		return report, err
	}
	summary(out, report, o.out, start)
	if o.quiet || report.Documents == 0 {
		return report, nil
	}
	if s, err = statistics(o.out); err != nil {
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

// statistics reads the trace that was written, which shows that it can be.
func statistics(dir string) (*trace.Statistics, error) {
	r, err := trace.Open(dir)
	if err != nil {
		return nil, err
	}
	s, err := trace.NewStatistics(r.Header(), trace.StatisticsOptions{Segments: []int{16}})
	if err != nil {
		return nil, err
	}
	for d, err := range r.Select(trace.Filter{NoInput: true}).Documents() {
		if err != nil {
			return nil, err
		}
		if err := s.Add(d); err != nil {
			return nil, err
		}
	}
	return s, nil
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
