// Command offload runs Mixtral with a part of its experts in device memory and the others elsewhere:
//
//	$ go run ./examples/offload -model mini -in documents.jsonl -out outputs.safetensors -greedy 32 -device-memory 24MB -policy prefetch -predictor "gate reuse"
//
// Documents and outputs are those of examples/forward, bit for bit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace/safetensors"
)

const help = `
offload runs Mixtral on documents, as forward does and with the same outputs, in less memory than its experts need: a part of
them is in device memory, and the others are read when the routing chooses them, or before.

It prints what that cost: how many experts were resident when they were needed, prefetched in time, still on their way (late)
or missing, and how long computing waited for them. Policies:

	on-demand  an expert is held while its layer computes
	lru        the least recently used expert makes room
	lfu        the least frequently used one, older uses counting less
	static     experts stay that are most frequent in the trace -pin, or else the first that are used; lru for the rest
	reuse      the one least likely to be used by the next tokens makes room: by how often it was used, and by what
	           -predictor says of the next token, if one is given
	prefetch   lfu, and the experts that -predictor says are read ahead
	adaptive   prefetch, but fewer are read ahead, down to none, where that makes layers wait less
	reuse-prefetch  reuse and adaptive together
	host       lfu, but what is in -host-memory only is computed by the processor's cores; the likeliest expert that
	           -predictor says is read ahead, if one is given
	opt        the one that is needed last makes room, which only -simulate knows

-compare runs several policies, one after the other, and compares their outputs. -simulate says for a trace what they would
do, token by token, if reading and computing took the times of -costs, a file that -json wrote for a run, or else as long as
the model takes for a few tokens. A decision takes as long as in that run, or else as is measured on the trace, on one core.

With several -load or -resident, -compare prints milliseconds a token by policy, predictor, time to read and share of experts
that are resident, and says which to take:

	$ go run ./examples/offload -simulate trace -compare lfu,prefetch,adaptive,opt -predictor "predictors,gate reuse,oracle" -compute 656us -load 3.25ms,59ms -resident 25,50,75

-plan prints how much memory the limits leave for what, and where.

With -model mini, -predictor mini and mini:NAME name the embedded predictors, as a folder would; the first, without -compare, is
the hidden transformer.`

type options struct {
	model     cli.Model
	outputs   cli.Outputs
	limits    cli.Limits
	plan      cli.Plan
	policy    string
	compare   string
	predictor string
	distance  int
	json      string
	simulate  string
	costs     string
	pin       string
	figures   string
	load      string
	resident  string
	compute   time.Duration
	split     speculate.Fractions
	seed      uint64
	runs      []variant
	grid      grid
	fitted    []fitted
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "offload", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "nothing was written; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	o.model.Flags(f)
	o.outputs.Flags(f)
	o.limits.Flags(f)
	o.plan.Flags(f)
	f.StringVar(&o.policy, "policy", "lru", "`policy` by which experts are held: "+policyNames())
	f.StringVar(&o.compare, "compare", "", "`policies` to run, separated by commas, instead of -policy; those that predict are run with each -predictor")
	f.StringVar(&o.predictor, "predictor", "", "`predictor` of the policies that predict: gate reuse, a folder that train wrote, or FOLDER:NAME of one of its predictors;\nseveral, separated by commas, with -compare, where FOLDER is all of its predictors; oracle with -simulate (default gate reuse, and for\nthose of reuse none)")
	f.IntVar(&o.distance, "distance", 1, "`layers` that are predicted ahead, and nearer ones if the predictor knows them")
	f.StringVar(&o.pin, "pin", "", "`trace` whose most frequent experts policy static holds, a folder or a file (default the first that are used)")
	f.StringVar(&o.json, "json", "", "`file` for all figures")
	f.StringVar(&o.figures, "figures", "", "`folder` for report.html and its figures as PNG, SVG and CSV")
	f.StringVar(&o.simulate, "simulate", "", "`trace` to simulate the policies on, a folder or a file, instead of running the model")
	f.TextVar(&o.split, "split", speculate.Fractions{}, "`shares` of validation and test documents, as .15,.15, when train ran with the same -split, -seed and -trace: simulate on the\ntest documents only")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of -split")
	f.StringVar(&o.costs, "costs", "", "`file` that -json wrote for a run without -simulate, for its times of reading and computing")
	f.StringVar(&o.load, "load", "", "with -simulate, `time` to read an expert, instead of that of -costs; several, separated by commas: of several links")
	f.StringVar(&o.resident, "resident", "", "with -simulate, `percent` of the experts that device memory holds, instead of -device-memory and -slots; several, separated\nby commas")
	f.DurationVar(&o.compute, "compute", 0, "with -simulate, `time` to compute a layer, instead of that of -costs")
}

func (o *options) check(*flag.FlagSet) error {
	if err := o.plan.Check(); err != nil {
		return err
	}
	if o.simulate == "" && !o.plan.Asked() {
		if err := o.outputs.Check(); err != nil {
			return err
		}
	}
	if err := o.limits.Check(); err != nil {
		return err
	}
	var err error
	if o.grid, err = newGrid(o.load, o.resident); err != nil {
		return err
	}
	switch {
	case o.distance < 1:
		return fmt.Errorf("-distance is %d layers; must be at least 1", o.distance)
	case o.compute < 0:
		return fmt.Errorf("-compute is %v; must not be negative", o.compute)
	case o.simulate == "" && (o.costs != "" || o.load != "" || o.resident != "" || o.compute > 0 || o.split != speculate.Fractions{}):
		return errors.New("-costs, -load, -resident, -compute and -split require -simulate")
	case o.costs == "" && (o.load == "") != (o.compute == 0):
		return errors.New("-load and -compute require each other, or -costs")
	case o.resident != "" && o.limits.Given():
		return errors.New("-resident excludes -device-memory and -slots")
	}
	o.runs, err = variants(o)
	return err
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	if o.plan.Asked() {
		return o.plan.Print(s.Out, &o.model, o.outputs.Greedy, o.limits.Options)
	}
	ps, err := o.predictors(s.Err)
	if err != nil {
		return err
	}
	pinned, err := o.pinned(ctx)
	if err != nil {
		return err
	}
	if o.simulate != "" {
		all, err := o.simulation(ctx, ps, pinned, s.Err)
		if err != nil {
			return err
		}
		return o.report(s.Out, all)
	}
	var all []*cli.Telemetry
	var first []output
	var tensors []safetensors.Tensor // of first
	bad, errs := 0, s.Err
	for i, v := range o.runs {
		made, n, t, err := o.measure(ctx, v, ps[v.predictor], pinned, errs)
		if err != nil {
			return err
		}
		outputs, made, err := read(made)
		switch {
		case err != nil:
			return err
		case i == 0:
			first, tensors, bad, errs = outputs, made, n, io.Discard // the same lines are invalid
		default:
			if err := equal(first, outputs, o.runs[0].host || v.host); err != nil {
				return fmt.Errorf("-compare: outputs of %s and %s differ: %w", o.runs[0], v, err)
			}
		}
		all = append(all, t)
	}
	if err := o.report(s.Out, all); err != nil {
		return err
	}
	if len(all) > 1 {
		fmt.Fprintln(s.Out, "outputs are equal")
	}
	return o.outputs.Write(tensors, bad)
}

// measure runs one variant.
func (o *options) measure(ctx context.Context, v variant, p speculate.Predictor, pinned []int32, errs io.Writer) ([]safetensors.Tensor, int, *cli.Telemetry, error) {
	store, model, free, err := o.model.LoadStore(ctx, func(src mixtral.ExpertSource) (offload.Options, error) {
		so, err := o.limits.Options(src)
		so.Policy, so.Host, so.Adaptive = v.evict, v.host, v.adapt
		if v.evict == prefetch.Static {
			so.Static = pinned
		}
		return so, err
	})
	if err != nil {
		return nil, 0, nil, err
	}
	defer free()
	ahead, err := v.ahead(p, model.Config().TraceModel(o.model.Name()))
	if err != nil {
		return nil, 0, nil, err
	}
	meter := cli.NewMeter(v.String(), model, store, ahead)
	made, bad, err := o.outputs.Compute(ctx, "offload", &o.model, model, meter.Generate, errs)
	if err != nil {
		return nil, 0, nil, err
	}
	return made, bad, meter.Telemetry(), nil
}
