// Command train fits predictors of expert routing on a trace:
//
//	$ go run ./examples/train -trace trace -valid valid -model mini -out predictors
//
// Without -valid, the trace is split by document: evaluate with the same -split
// and -seed scores on the test documents.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/trace"
)

const help = `
train fits predictors of expert routing on a trace and saves them: those that count, gate reuse where the model is given and
router inputs are recorded, the networks that the trace has signals for, and their ensemble.

With -leave-out NAME they learn nothing of that data set, and evaluate -by dataset shows their recall there. With -leave-out each
they are fitted once on all data sets and once without each, and scored on that data set's documents of -test: a table is
printed, and leave-out.json is written instead of predictors.`

type options struct {
	trace, valid, test, leaveOut, model, out, only, backend, horizons string
	split                                                             speculate.Fractions
	transformer, resume, with, datasets                               string
	width, batch, accumulate, devices, checks, patience               int
	validTokens                                                       int
	tokens, memory, deviceMemory                                      int64
	seed                                                              uint64
	rate                                                              float64
	limit                                                             time.Duration
	quantize                                                          mixtral.QuantizeMode
	hs                                                                []speculate.Horizon
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "train", Help: help, Flags: o.flags, Check: o.check, Run: o.run, Interrupted: func() string {
		if o.resume != "" {
			return "the state of the training is in " + o.resume + "; run it again with the same flags to resume"
		}
		return "nothing was kept; with -resume FOLDER a training can be resumed"
	}}
}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.trace, "trace", "", "`folder` of the trace to fit on (required)")
	f.StringVar(&o.valid, "valid", "", "`folder` of the trace to choose and calibrate on; empty: a part of -trace")
	f.TextVar(&o.split, "split", speculate.Fractions{Valid: .15, Test: .15}, "without -valid, `shares` of documents to choose on, and to keep for evaluate -split; documents with equal token ids stay together")
	f.StringVar(&o.datasets, "datasets", "", "`names` of the data sets of -trace to read, separated by commas; empty: all")
	f.StringVar(&o.test, "test", "", "with -leave-out each, `folder` of the trace to score on; empty: a part of -trace")
	f.StringVar(&o.leaveOut, "leave-out", "", "`name` of a data set to learn nothing of, or each; empty: none")
	f.StringVar(&o.model, "model", "", "`folder` of the checkpoint that the gates are read from, or mini; empty: no gates")
	f.StringVar(&o.out, "out", "predictors", "`folder` to write")
	f.StringVar(&o.only, "only", "", "`names` of the predictors to fit, separated by commas; empty: all")
	f.StringVar(&o.horizons, "horizons", "", "`horizons`: distances in layers, token+id (one token earlier, its id known) or token, separated by commas"+cli.HorizonsUsage)
	f.IntVar(&o.width, "width", 64, "hidden `units` of the networks")
	f.Int64Var(&o.tokens, "tokens", 0, "`tokens` to train each network on, repeats included; 0: 4 passes, and at least 64 steps")
	f.DurationVar(&o.limit, "limit", 0, "`time` for each network, for example 90s or 10m, by which its learning rate has fallen to its end unless its tokens end earlier; 0: none")
	f.StringVar(&o.transformer, "transformer", "2,128,512", "`blocks,width,window` of the transformers, which are trained where -only names them: routing transformer,\nrouter-logit transformer with router logits, and hidden transformer with router inputs and -model; window in tokens, at most a document's")
	f.IntVar(&o.batch, "batch", 0, "`tokens` in a step of training; of transformers, as many whole windows as fit, at least one; 0: 128, of transformers 256")
	f.IntVar(&o.accumulate, "accumulate", 1, "`parts` of a step that are computed one after the other, in less memory")
	f.IntVar(&o.devices, "devices", 1, "`number` of the backend's devices that train, each on its share of a step; -batch must be a multiple of it")
	f.Float64Var(&o.rate, "rate", 0, "largest learning `rate`; 0: .004, of transformers .002")
	f.Int64Var(&o.memory, "memory", 512, "`MiB` of documents held while training; a larger trace is streamed through them")
	f.Int64Var(&o.deviceMemory, "device-memory", 0, "`MiB` of documents that a transformer's training holds on each accelerator, in 16 bits; a larger trace is transferred as it trains; 0: 8192")
	f.IntVar(&o.checks, "checks", 0, "`times` that a network is tried on validation documents while it trains; 0: 5")
	f.IntVar(&o.patience, "patience", 0, "`checks` in a row without improvement that end a training; 0: 3")
	f.IntVar(&o.validTokens, "valid-tokens", 0, "validation `tokens` of a check; 0: 1024")
	f.StringVar(&o.with, "with", "", "`folders` that train wrote, or mini for the embedded predictors, separated by commas: their networks join those trained now, except a transformer that -only\nnames, which is trained further; a router-logit transformer starts from a routing transformer of its size among them")
	f.TextVar(&o.quantize, "quantize", mixtral.AsStored, "`form` in which the networks' matrices are saved, those of -with too: int8, or none for float32")
	f.StringVar(&o.resume, "resume", "", "`folder` for the state of training, from which the same command resumes after an interruption; empty: none")
	f.Uint64Var(&o.seed, "seed", 1, "`seed` of splits and of training")
	cli.BackendFlag(f, &o.backend)
}

func (o *options) check(*flag.FlagSet) (err error) {
	switch {
	case o.trace == "":
		return errors.New("-trace is required")
	case o.memory < 1:
		return fmt.Errorf("-memory is %d MiB; must be positive", o.memory)
	case o.test != "" && o.leaveOut != "each":
		return errors.New("-test requires -leave-out each")
	case o.valid != "" && o.leaveOut == "each" && o.test == "":
		return errors.New("-leave-out each with -valid requires -test")
	}
	o.hs, err = cli.Horizons(o.horizons)
	return err
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	parts, err := data(ctx, o)
	if err == nil {
		// Documents are read several times: hold them if they fit.
		parts.Train, err = parts.Train.InMemory(ctx, o.memory<<20)
	}
	if err != nil {
		return err
	}
	gates, err := cli.ReadGates(o.model)
	if err != nil {
		return err
	}
	backend, err := mixtral.OpenBackend(o.backend)
	if err != nil {
		return err
	}
	defer backend.Finalize()
	h := parts.Train.Header
	o.hs = cli.HorizonsOf(o.hs, h.Model)
	c := neural.CompareOptions{
		MLPs: neural.MLPConfigs(o.width, h, gates),
		Train: neural.TrainOptions{Backend: backend, Horizons: o.hs, Seed: o.seed, Tokens: o.tokens, Limit: o.limit, Batch: o.batch, Accumulate: o.accumulate, Devices: o.devices, Rate: o.rate,
			Checks: o.checks, Patience: o.patience, ValidTokens: o.validTokens, PoolBytes: o.memory << 20, DeviceBytes: o.deviceMemory << 20, Gates: gates, Resume: o.resume,
			Progress: func(p neural.Progress) {
				fmt.Fprintf(s.Err, "%s: step %d of %d, loss %.4f, validation loss %.4f, recall %.4f, %.0f tokens/s\n", p.Name, p.Step, p.Steps, p.Loss, p.ValidLoss, p.ValidRecallK, p.TokensPerSec)
			}},
		Int8:     o.quantize == mixtral.Int8,
		Evaluate: speculate.EvaluateOptions{Seed: o.seed},
		Stage:    func(what string) { fmt.Fprintln(s.Err, what) },
	}
	if c.Only = cli.List(o.only); c.Only != nil {
		if err := available(c.Only, h, gates != nil); err != nil {
			return err
		}
	}
	provenance, err := speculate.NewProvenance(ctx, parts)
	if err != nil {
		return err
	}
	if c.Trained, err = trained(o.with, gates, provenance); err != nil {
		return err
	}
	if c.Transformers, err = transformers(o.transformer, h, gates); err != nil {
		return err
	}
	began := time.Now()
	if o.leaveOut == "each" {
		return leaveOut(ctx, o, parts, c, s.Out)
	}
	made, err := neural.Fit(ctx, parts.Train, parts.Valid, c)
	if err != nil {
		return err
	}
	if err := speculate.SaveAll(o.out, &speculate.Set{Predictors: made.Predictors, Costs: made.Costs, Provenance: provenance}); err != nil {
		return err
	}
	for _, n := range made.Networks {
		i := n.Info()
		fmt.Fprintf(s.Out, "%s: %d parameters, %d tokens in %.0f s on %s, validation recall@%d %.4f\n", n.Name(), i.Parameters, i.Tokens, i.Seconds, i.Backend, h.Model.TopK, i.RecallK)
	}
	fmt.Fprintf(s.Out, "%s: %d predictors, %.0f s\n", o.out, len(made.Predictors), time.Since(began).Seconds())
	return nil
}

// available reports a predictor that lacks what it reads.
func available(names []string, h trace.Header, gates bool) error {
	inputs, logits := len(h.InputLayers) == h.Model.Layers, len(h.LogitLayers) == h.Model.Layers
	for _, name := range names {
		r := cli.RequirementOf(name)
		if r.Model && !gates || r.Inputs && !inputs || r.Logits && !logits {
			return fmt.Errorf("-only: predictor %q is not available%s", name, r)
		}
	}
	return nil
}

// transformers reads -transformer.
func transformers(text string, h trace.Header, gates *speculate.Gates) ([]neural.TransformerConfig, error) {
	var n [3]int
	parts := strings.Split(text, ",")
	for i, p := range parts {
		x, err := strconv.Atoi(strings.TrimSpace(p))
		if err != nil || len(parts) != 3 || x < 1 {
			return nil, fmt.Errorf("-transformer %q: must be three positive numbers", text)
		}
		n[i] = x
	}
	if n[1]%32 != 0 {
		return nil, fmt.Errorf("-transformer %q: the width must be a multiple of 32", text)
	}
	return neural.TransformerConfigs(n[0], n[1], n[2], h, gates), nil
}

// trained reads the networks of other folders, and adds what they were fitted on to p.
func trained(folders string, gates *speculate.Gates, p *speculate.Provenance) (ns []neural.Network, err error) {
	for _, dir := range cli.List(folders) {
		set, err := cli.LoadPredictors(dir, gates)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		p.Add(set.Provenance)
		for _, q := range set.Predictors {
			if n, ok := speculate.Base(q).(neural.Network); ok {
				ns = append(ns, n)
			}
		}
	}
	return ns, nil
}

// data opens the traces, and splits -trace where there is no -valid.
func data(ctx context.Context, o *options) (p speculate.Parts, err error) {
	// Only networks that start as the model's gates read router inputs, the most
	// of a trace: without a model or such a network they are skipped.
	f := trace.Filter{NoInput: o.model == "" && o.with == ""}
	of := f
	if of.Datasets, err = datasets(ctx, o.trace, o.datasets); err != nil {
		return p, err
	}
	if p.Train, err = open(o.trace, of); err != nil {
		return p, err
	}
	if o.valid != "" {
		p.Valid, err = open(o.valid, f)
	} else {
		p, err = speculate.Split(ctx, p.Train, o.split, o.seed)
	}
	if err == nil && o.test != "" {
		p.Test, err = open(o.test, f)
	}
	if err != nil {
		return p, err
	}
	if o.leaveOut == "" || o.leaveOut == "each" {
		return p, nil
	}
	sets, err := p.Train.Datasets(ctx)
	if err != nil {
		return p, err
	}
	if !slices.Contains(sets, o.leaveOut) {
		return p, fmt.Errorf("-leave-out %q: the data sets of %s are %q", o.leaveOut, o.trace, sets)
	}
	return p.HoldOut(o.leaveOut), nil
}

// datasets reads -datasets, names that must be in the trace.
func datasets(ctx context.Context, dir, names string) ([]string, error) {
	if names == "" {
		return nil, nil
	}
	d, err := open(dir, trace.Filter{NoInput: true, NoLogits: true})
	if err != nil {
		return nil, err
	}
	sets, err := d.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	var wanted []string
	for _, name := range cli.List(names) {
		if !slices.Contains(sets, name) {
			return nil, fmt.Errorf("-datasets %q: the data sets of -trace are %q", name, sets)
		}
		wanted = append(wanted, name)
	}
	return wanted, nil
}

// open opens what f selects of a trace.
func open(dir string, f trace.Filter) (speculate.Data, error) {
	r, err := trace.Open(dir)
	if err != nil {
		return speculate.Data{}, err
	}
	return speculate.FromReader(r.Select(f)), nil
}

// leaveOut fits with all data sets and without each, and scores both.
func leaveOut(ctx context.Context, o *options, parts speculate.Parts, c neural.CompareOptions, out io.Writer) error {
	r, err := neural.LeaveOneOut(ctx, parts, c)
	if err != nil {
		return err
	}
	if err := cli.WriteFile(filepath.Join(o.out, "leave-out.json"), r.WriteJSON); err != nil {
		return err
	}
	return r.WriteTable(out)
}
