// Command collect runs data sets of texts through a Mixtral or a Switch Transformer and
// records its routing as a trace:
//
//	$ go run ./examples/collect -model mini -docs 5 -tokens 64 -out trace
//	$ go run ./examples/collect -model DIR -data texts.jsonl -data folder -out trace -docs 150 -tokens 512 -seed 1
//
// Killed and run again it resumes where it was. README.md shows how several
// machines share the work.
package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/collect"
)

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "collect", Help: help, Flags: o.flags, Check: o.check, Run: o.run, Interrupted: func() string {
		return fmt.Sprintf("%d shards in %s are kept; run the same command to resume", o.kept, o.out)
	}}
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	report, err := o.collect(ctx, s.Err)
	if report != nil {
		o.kept = report.Existing + report.Shards
		if err == nil || report.Shards > 0 || len(report.Damaged) > 0 {
			print(s.Out, o, report)
		}
	}
	if err == nil && report.ProblemCount > 0 {
		return &cli.Incomplete{Omitted: report.ProblemCount, What: "items named above"}
	}
	return err
}

// collect does the work. What is missing is reported before the model, which may
// be large, is loaded, and the model before any input is read.
func (o *options) collect(ctx context.Context, errs io.Writer) (*collect.Report, error) {
	show := newDisplay(errs, o.quiet)
	defer show.end()
	tok, err := o.model.LoadTokenizer()
	if err != nil {
		return nil, err
	}
	sources, err := o.texts(ctx)
	if err != nil {
		return nil, err
	}
	model, free, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	public, err := o.datasets(ctx, show)
	if err != nil {
		return nil, err
	}
	sources = append(sources, public...)
	c := o.Options
	c.ModelName, c.Program = o.model.Name(), "expertspec collect"
	c.Extra = map[string]string{"backend": o.backendName(), "executor": o.model.Executor.String()}
	c.Progress, c.Problem = show.progress, show.problem
	return collect.Run(ctx, model, tok, sources, o.out, c)
}

// backendName is the backend's name, of a plugin's path the file name only: machines
// may keep it in different folders.
func (o *options) backendName() string {
	kind, rest, _ := strings.Cut(o.model.Backend, ":")
	if strings.ContainsAny(rest, `/\`) {
		return kind + ":" + filepath.Base(rest)
	}
	return o.model.Backend
}

// print reports what was done.
func print(out io.Writer, o *options, r *collect.Report) {
	fmt.Fprintf(out, "%s: %d documents, %d tokens in %d shards written", o.out, r.Documents, r.Tokens, r.Shards)
	if r.Existing > 0 {
		fmt.Fprintf(out, "; %d shards existed already", r.Existing)
	}
	if len(r.Damaged) > 0 {
		fmt.Fprintf(out, "; damaged shards, which are rewritten: %s", strings.Join(r.Damaged, ", "))
	}
	if o.Parts > 1 {
		fmt.Fprintf(out, "; part %d of %d", o.Part, o.Parts)
		if r.Shards+r.Existing == 0 {
			fmt.Fprint(out, ", which has no shards")
		}
	}
	if r.Chosen < r.Found {
		fmt.Fprintf(out, "\n%d of %d documents chosen (-docs)", r.Chosen, r.Found)
	}
	fmt.Fprintf(out, "\n%.1f s", r.Elapsed.Seconds())
	if s := r.Elapsed.Seconds(); r.Tokens > 0 && s > 0 {
		fmt.Fprintf(out, ", %.0f tokens/s reading included", float64(r.Tokens)/s)
	}
	if r.Peak > 0 {
		fmt.Fprintf(out, ", memory at most %d MiB", r.Peak>>20)
	}
	fmt.Fprintln(out)
}
