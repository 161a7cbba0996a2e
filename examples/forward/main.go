// Command forward runs Mixtral on documents and writes what it computed:
//
//	$ go run ./examples/forward -model mini -in documents.jsonl -out outputs.safetensors -greedy 8
//
// A line of documents.jsonl is {"id": "a", "text": "Once upon"} or {"id": "b", "ids": [1, 17, 4]}. For each the output
// holds <id>.input_ids [T], <id>.logits [T,V], <id>.router_logits [L,T,E], <id>.experts [T,L,K], <id>.weights [T,L,K] and,
// with -greedy N, <id>.greedy_ids [N].
package main

import (
	"context"
	"flag"

	"github.com/expertspec/expertspec/examples/internal/cli"
)

const help = `
forward runs Mixtral on the documents of a JSON lines file and writes logits and routing as safetensors.

A line is {"id": "...", "text": "..."} (the tokenizer puts <s> before it) or {"id": "...", "ids": [..]}. An invalid
line is named on standard error by its number (from 1) and omitted; the others are processed.`

type options struct {
	model   cli.Model
	outputs cli.Outputs
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "forward", Help: help, Flags: o.flags, Run: o.run,
		Check:       func(*flag.FlagSet) error { return o.outputs.Check() },
		Interrupted: func() string { return "nothing was written; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	o.model.Flags(f)
	o.outputs.Flags(f)
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	model, free, err := o.model.Load(ctx)
	if err != nil {
		return err
	}
	defer free()
	made, bad, err := o.outputs.Compute(ctx, "forward", &o.model, model, nil, s.Err)
	if err != nil {
		return err
	}
	return o.outputs.Write(made, bad)
}
