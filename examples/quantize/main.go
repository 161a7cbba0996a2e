// Command quantize writes a checkpoint with attention and expert matrices in 8 bits, in the form of bitsandbytes:
//
//	$ go run ./examples/quantize -model DIR -out DIR-int8
//	$ go run ./examples/forward -model DIR-int8 -in documents.jsonl -out outputs.safetensors
//
// Killed and run again it resumes where it was.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
)

const help = `
quantize writes a Mixtral checkpoint whose attention and expert matrices are 8-bit integers with one scale per row, as
bitsandbytes and transformers 4 store them (load_in_8bit). Router, norms, embeddings and head keep their type. The
tokenizer's files are copied. Programs here load the result as it is.`

type options struct {
	model, out   string
	done, shards int
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "quantize", Help: help, Flags: o.flags, Check: o.check, Run: o.run, Interrupted: func() string {
		return fmt.Sprintf("%d of %d shards in %s are kept; run the same command to resume", o.done, o.shards, o.out)
	}}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.model, "model", "mini", "`folder` of a checkpoint (config.json, safetensors), or mini for the embedded model")
	f.StringVar(&o.out, "out", "", "`folder` to write (required)")
}

func (o *options) check(*flag.FlagSet) error {
	if o.out == "" {
		return errors.New("-out is required")
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	files, err := cli.Files(o.model)
	if err != nil {
		return err
	}
	err = mixtral.WriteInt8(ctx, files, o.out, func(done, shards int) {
		o.done, o.shards = done, shards
		fmt.Fprintf(s.Err, "quantize: %d of %d shards\n", done, shards)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%s: %d shards\n", o.out, o.shards)
	return nil
}
