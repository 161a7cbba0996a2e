// Command forward runs Mixtral or a Switch Transformer on documents and writes what it
// computed:
//
//	$ go run ./examples/forward -model mini -in documents.jsonl -out outputs.safetensors -greedy 8
//
// A line of documents.jsonl is {"id": "a", "text": "Once upon"} or {"id": "b", "ids": [1, 17, 4]}. For each the output
// holds <id>.input_ids [T], <id>.logits [T,V], <id>.router_logits [L,T,E], <id>.experts [T,L,K], <id>.weights [T,L,K] and,
// with -greedy N, <id>.greedy_ids [N].
//
// With a Switch Transformer a line may have decoder_ids too, and the output holds <id>.input_ids [T], <id>.decoder_input_ids [U],
// <id>.encoder_router_logits [L,T,E], <id>.encoder_experts [L,T], <id>.encoder_dropped [L,T], the same of the decoder [L,U,E] and
// [L,U], <id>.logits [U,V] and <id>.greedy_ids [N].
package main

import (
	"context"
	"errors"
	"flag"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/trace/safetensors"
)

const help = `
forward runs Mixtral, or a Switch Transformer if the model's config.json says so, on the documents of a JSON lines file and writes
logits and routing as safetensors.

A line is {"id": "...", "text": "..."} (the tokenizer adds its special tokens) or {"id": "...", "ids": [..]}; for a Switch
Transformer these are the encoder's, and "decoder_ids": [..] are the decoder's (default: its start token alone), whose logits
and routing are those of computing them at once. -greedy continues the start token alone. An invalid line is named on standard
error by its number (from 1) and omitted; the others are processed.

-plan prints how much memory Mixtral needs: of its weights, of the cache of -tokens and those that -greedy adds, and about how
much for a while, in the memory of what computes (device), in the host's besides, and what remains in the checkpoint.`

type options struct {
	model   cli.Model
	outputs cli.Outputs
	plan    cli.Plan
	memory  cli.Bytes
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "forward", Help: help, Flags: o.flags, Run: o.run, Check: o.check,
		Interrupted: func() string { return "nothing was written; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	o.model.Flags(f)
	o.outputs.Flags(f)
	o.plan.Flags(f)
	f.TextVar(&o.memory, "device-memory", cli.Bytes(0), "`size` into which Mixtral's weights must fit, in bytes or as 24GB or 22.5GiB; otherwise the program fails\nbefore it reads them (default the device's, or the host's, where it is known)")
}

func (o *options) check(*flag.FlagSet) error {
	if err := o.plan.Check(); err != nil || o.plan.Asked() {
		return err
	}
	return o.outputs.Check()
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	compute := o.mixtral
	isSwitch, err := o.model.IsSwitch()
	if err != nil {
		return err
	}
	switch {
	case isSwitch && (o.plan.Asked() || o.memory > 0):
		return errors.New("-plan and -device-memory are for Mixtral, not for a Switch Transformer")
	case isSwitch:
		compute = o.switchTransformer
	case o.plan.Asked():
		if err := o.plan.Print(s.Out, &o.model, o.outputs.Greedy, nil); err != nil {
			return err
		}
	}
	if o.memory > 0 {
		if err := o.model.Fit(o.memory); err != nil {
			return err
		}
	}
	if o.plan.Asked() {
		return nil
	}
	made, bad, err := compute(ctx, s)
	if err != nil {
		return err
	}
	return o.outputs.Write(made, bad)
}

func (o *options) mixtral(ctx context.Context, s cli.Streams) ([]safetensors.Tensor, int, error) {
	model, free, err := o.model.Load(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer free()
	return o.outputs.Compute(ctx, "forward", &o.model, model, nil, s.Err)
}

func (o *options) switchTransformer(ctx context.Context, s cli.Streams) ([]safetensors.Tensor, int, error) {
	model, free, err := o.model.LoadSwitch(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer free()
	return o.outputs.ComputeSwitch(ctx, "forward", &o.model, model, s.Err)
}
