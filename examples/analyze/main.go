// Command analyze reads a trace, or two, and writes statistics, figures and a
// report:
//
//	$ go run ./examples/analyze -trace trace -out analysis
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
)

type options struct {
	trace, against               string
	datasets, againstDatasets    string
	phase, againstPhase          string
	part, againstPart            string
	name, againstName            string
	shards, sums, merge          string
	results, out, json, tokenize string
	baselines, cache             int
	load, compute                time.Duration
	figures                      bool
	seed                         uint64
}

const help = `
analyze reads a trace, or two, and writes statistics, figures and a report.

	analyze -trace DIR -out DIR
	analyze -trace DIR -against DIR -out DIR
	analyze -trace DIR -phase prefill -against DIR -against-phase decode -out DIR
	analyze -trace DIR -part 1/2 -against DIR -against-part 2/2 -out DIR
	analyze -trace DIR -json FILE

Several processes can share a large trace: each writes the sums of its shards, and one merges them.

	analyze -trace DIR -shards I/N -sums sums/I.json
	analyze -merge 'sums/*.json' -out DIR`

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "analyze", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "the output is incomplete; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.trace, "trace", "", "`folder` of the trace (required, or -merge)")
	f.StringVar(&o.against, "against", "", "`folder` of a second trace to compare with; may be the first again")
	f.StringVar(&o.datasets, "datasets", "", "`names` of the first trace's data sets to read, separated by commas (default all)")
	f.StringVar(&o.againstDatasets, "against-datasets", "", "`names` of the second trace's data sets to read, separated by commas (default all)")
	f.StringVar(&o.phase, "phase", "", "tokens of the first trace to read: prefill, decode or encode (default all)")
	f.StringVar(&o.againstPhase, "against-phase", "", "tokens of the second trace to read: prefill, decode or encode (default all)")
	f.StringVar(&o.part, "part", "", "documents of the first trace to read: `i/n`, the i-th (from 1) of every n, for example 1/2 (default all)")
	f.StringVar(&o.againstPart, "against-part", "", "documents of the second trace to read: `i/n` (default all)")
	f.StringVar(&o.name, "name", "", "`name` of the first trace in the report (default its model)")
	f.StringVar(&o.againstName, "against-name", "", "`name` of the second trace in the report (default its model)")
	f.StringVar(&o.shards, "shards", "", "shards of the first trace to read: `i/n`, every n-th, i from 0 to n-1 or from 1 to n (default all)")
	f.StringVar(&o.sums, "sums", "", "`file` for the sums from which -merge makes statistics")
	f.StringVar(&o.merge, "merge", "", "`files` that -sums wrote of all parts of a trace, separated by commas or as a pattern, instead of -trace. There\nare no tokens to show then, and no simulation of a cache")
	f.StringVar(&o.results, "results", "", "`file` of an evaluation of the first trace, as evaluate -json writes it")
	f.StringVar(&o.out, "out", "", "`folder` for report.html, figures/ and statistics.json")
	f.StringVar(&o.json, "json", "", "`file` for the first trace's statistics only")
	f.StringVar(&o.tokenize, "tokenizer", "", "tokenizer.json `file` for the texts of tokens; mini: the embedded model's (default: token ids are shown)")
	f.BoolVar(&o.figures, "figures", true, "write every figure as PNG, SVG and CSV beside the report")
	f.IntVar(&o.baselines, "baselines", 200000, "`tokens` of each trace, at most, on which counting predictors are fitted and scored; 0: none. Omitted with -results, for that trace")
	f.IntVar(&o.cache, "cache", 8000, "`tokens` of each trace, at most, on half of which a cache of experts is simulated; 0: none")
	f.DurationVar(&o.load, "load", time.Millisecond, "`time` to copy one expert into device memory, in that simulation")
	f.DurationVar(&o.compute, "compute", time.Millisecond, "`time` to compute one layer, in that simulation")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of the choice of documents for fitting and scoring")
}

func (o *options) check(*flag.FlagSet) error {
	phase := func(s string) bool {
		return s == "" || slices.Contains([]trace.Phase{trace.Prefill, trace.Decode, trace.Encode}, trace.Phase(s))
	}
	switch {
	case (o.trace == "") == (o.merge == ""):
		return errors.New("-trace is required, or -merge")
	case o.merge != "" && o.datasets+o.phase+o.part+o.shards+o.sums != "":
		return errors.New("-merge reads all of what -sums wrote: -datasets, -phase, -part, -shards and -sums require -trace")
	case o.out == "" && o.json == "" && o.sums == "":
		return errors.New("-out, -json or -sums is required")
	case !validShards(o.shards):
		return errors.New("-shards is i/n with i from 0 to n-1 or from 1 to n, for example 1/4")
	case !phase(o.phase) || !phase(o.againstPhase):
		return errors.New("a phase is prefill, decode or encode")
	case !validPart(o.part) || !validPart(o.againstPart):
		return errors.New("a part is i/n with 1 <= i <= n, for example 1/2")
	case o.baselines < 0:
		return fmt.Errorf("-baselines is %d tokens", o.baselines)
	case o.cache < 0:
		return fmt.Errorf("-cache is %d tokens", o.cache)
	case !validTimes(*o):
		return fmt.Errorf("-load is %v and -compute %v; must be 1µs to 1h", o.load, o.compute)
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	pieces, err := loadPieces(o.tokenize)
	if err != nil {
		return err
	}
	var a *side
	if o.merge != "" {
		a, err = merged(o.merge, o.name)
	} else {
		a, err = read(ctx, source{o.trace, o.datasets, o.phase, o.part, o.shards, o.name}, pieces, s.Err)
	}
	if err != nil {
		return err
	}
	if o.sums != "" {
		if err := a.writeSums(o.sums); err != nil {
			return err
		}
		fmt.Fprintln(s.Out, "sums:", o.sums)
	}
	if o.json != "" {
		if err := writeJSON(o.json, a.stats); err != nil {
			return err
		}
		fmt.Fprintln(s.Out, "statistics:", o.json)
	}
	if o.out == "" {
		return nil
	}
	if a.stats.Tokens == 0 {
		return fmt.Errorf("%s: no tokens in shards %s", o.trace, o.shards)
	}
	if a.results, err = evaluation(ctx, *o, a, o.results); err != nil {
		return err
	}
	if err := a.cacheStudy(ctx, *o); err != nil {
		return err
	}
	var b *side
	if o.against != "" {
		if b, err = read(ctx, source{o.against, o.againstDatasets, o.againstPhase, o.againstPart, "", o.againstName}, pieces, s.Err); err != nil {
			return err
		}
		if b.results, err = evaluation(ctx, *o, b, ""); err != nil {
			return err
		}
		if err := b.cacheStudy(ctx, *o); err != nil {
			return err
		}
	}
	return write(*o, a, b, s.Out)
}

// loadPieces returns the function that gives tokens their text, or nil.
func loadPieces(file string) (func([]int32) []string, error) {
	if file == "" {
		return nil, nil
	}
	t, err := cli.LoadTokenizer(file)
	if err != nil {
		return nil, err
	}
	return t.Pieces, nil
}

// evaluation reads results, or scores the counting predictors.
func evaluation(ctx context.Context, o options, s *side, file string) (*speculate.Results, error) {
	if file == "" {
		return s.baselines(ctx, o.baselines, o.seed)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(speculate.Results)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m := s.stats.Model
	if r.Shape.Layers != m.Layers || r.Shape.Experts != m.Experts || r.Shape.TopK != m.TopK {
		return nil, fmt.Errorf("%s: results of %d layers, %d experts, top-%d; the trace has %d, %d, top-%d",
			file, r.Shape.Layers, r.Shape.Experts, r.Shape.TopK, m.Layers, m.Experts, m.TopK)
	}
	return r, nil
}

// write makes the folder of reports, figures and statistics.
func write(o options, a, b *side, stdout io.Writer) error {
	if b == nil {
		r, err := viz.NewReport(a.study())
		if err != nil {
			return err
		}
		return save(o, "", r, a, stdout)
	}
	if a.name == b.name {
		a.name, b.name = a.name+" (first)", b.name+" (second)"
	}
	r, err := viz.NewReport(b.study())
	if err != nil {
		return err
	}
	if err := save(o, "against", r, b, stdout); err != nil {
		return err
	}
	if r, err = viz.Compare(a.study(), b.study()); err != nil {
		return err
	}
	return save(o, "", r, a, stdout)
}

func save(o options, prefix string, r viz.Report, s *side, stdout io.Writer) error {
	at := func(name string) string {
		if prefix == "" {
			return filepath.Join(o.out, name)
		}
		return filepath.Join(o.out, prefix+"-"+name)
	}
	figures, made := at("figures"), at("figures")
	if !o.figures {
		figures, made = "", o.out
	}
	if err := os.MkdirAll(made, 0o777); err != nil {
		return err
	}
	if err := r.Save(at("report.html"), figures); err != nil {
		return err
	}
	if err := writeJSON(at("statistics.json"), s.stats); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s:\n  report      %s\n  statistics  %s\n", s.name, at("report.html"), at("statistics.json"))
	if figures != "" {
		fmt.Fprintf(stdout, "  figures     %s\n", figures)
	}
	return nil
}

func writeJSON(file string, v any) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, append(raw, '\n'), 0o666)
}
