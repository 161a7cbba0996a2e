// Command offload runs Mixtral with a part of its experts in device memory and the others elsewhere:
//
//	$ go run ./examples/offload -model mini -in documents.jsonl -out outputs.safetensors -greedy 32 -device-memory 24MB -policy prefetch -predictor "gate reuse"
//
// Documents and outputs are those of examples/forward, bit for bit.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
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
	prefetch   lru, and the experts that -predictor says are read ahead

-compare runs several policies, one after the other, and compares their outputs.`

type options struct {
	model     cli.Model
	outputs   cli.Outputs
	limits    cli.Limits
	policy    string
	compare   string
	predictor string
	distance  int
	json      string
	runs      []variant
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
	f.StringVar(&o.policy, "policy", "lru", "`policy` by which experts are held: "+policyNames())
	f.StringVar(&o.compare, "compare", "", "`policies` to run, separated by commas, instead of -policy; prefetch is run with each -predictor")
	f.StringVar(&o.predictor, "predictor", "gate reuse", "`predictor` of policy prefetch: gate reuse, or a folder that train wrote, or FOLDER:NAME of one of its predictors;\nseveral, separated by commas, with -compare")
	f.IntVar(&o.distance, "distance", 1, "`layers` that are predicted ahead")
	f.StringVar(&o.json, "json", "", "`file` for all figures")
}

func (o *options) check(*flag.FlagSet) error {
	if err := o.outputs.Check(); err != nil {
		return err
	}
	if err := o.limits.Check(); err != nil {
		return err
	}
	if o.distance < 1 {
		return fmt.Errorf("-distance is %d layers; must be at least 1", o.distance)
	}
	var err error
	o.runs, err = variants(o)
	return err
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	ps, err := o.predictors()
	if err != nil {
		return err
	}
	var all []*cli.Telemetry
	var first []output
	var tensors []safetensors.Tensor // of first
	bad, errs := 0, s.Err
	for i, v := range o.runs {
		made, n, t, err := o.measure(ctx, v, ps[v.predictor], errs)
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
			if err := equal(first, outputs); err != nil {
				return fmt.Errorf("-compare: outputs of %s and %s differ: %w", o.runs[0], v, err)
			}
		}
		all = append(all, t)
	}
	if err := o.report(s.Out, all); err != nil {
		return err
	}
	return o.outputs.Write(tensors, bad)
}

// measure runs one variant.
func (o *options) measure(ctx context.Context, v variant, p speculate.Predictor, errs io.Writer) ([]safetensors.Tensor, int, *cli.Telemetry, error) {
	store, model, free, err := o.model.LoadStore(ctx, func(src mixtral.ExpertSource) (offload.Options, error) {
		so, err := o.limits.Options(src)
		so.Policy = v.policy.evict
		return so, err
	})
	if err != nil {
		return nil, 0, nil, err
	}
	defer free()
	ahead, err := v.ahead(p, model.Config())
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

// report prints and writes what was measured.
func (o *options) report(out io.Writer, all []*cli.Telemetry) error {
	if err := cli.WriteTable(out, all); err != nil {
		return err
	}
	if len(all) == 1 {
		fmt.Fprintln(out)
		if err := all[0].Write(out); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(out, "outputs are equal")
	}
	if o.json == "" {
		return nil
	}
	return cli.WriteFile(o.json, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(map[string]any{"model": o.model.Name(), "backend": o.model.Backend, "runs": all})
	})
}

// output is a tensor's bytes.
type output struct {
	name  string
	bytes []byte
}

// read returns the bytes of tensors, and tensors of them: those of made can be read once.
func read(made []safetensors.Tensor) (outputs []output, again []safetensors.Tensor, err error) {
	for _, t := range made {
		var b bytes.Buffer
		if err := t.Data(&b); err != nil {
			return nil, nil, err
		}
		outputs, again = append(outputs, output{t.Name, b.Bytes()}), append(again, safetensors.Bytes(t.Name, t.DType, t.Shape, b.Bytes()))
	}
	return outputs, again, nil
}

// equal compares the outputs of two runs.
func equal(a, b []output) error {
	if len(a) != len(b) {
		return errors.New("not the same documents were computed")
	}
	for i := range a {
		if a[i].name != b[i].name || !bytes.Equal(a[i].bytes, b[i].bytes) {
			return fmt.Errorf("tensor %s", a[i].name)
		}
	}
	return nil
}
