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
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/trace"
)

const usage = `train fits predictors of expert routing on a trace and saves them: those that count, gate reuse where the model is
given and router inputs are recorded, the networks that the trace can feed, and their ensemble.

With -leave-out NAME they learn nothing of that data set, and evaluate -by dataset shows how they do there. With -leave-out
each they are fitted once on all data sets and once without each, and scored on that data set's documents of -test: a table
is printed, and leave-out.json is written in place of predictors.

Exit status: 0 done, 1 failed, 2 wrong usage.

Flags:
`

type options struct {
	trace, valid, test, split, leaveOut, model, out, only, backend, horizons string
	transformer, resume, with, datasets                                      string
	width, batch, accumulate, seed                                           int
	tokens, memory                                                           int64
	rate                                                                     float64
	limit                                                                    time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var o options
	fs := flag.NewFlagSet("train", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.Usage = func() { fmt.Fprint(errs, usage); fs.PrintDefaults() }
	fs.StringVar(&o.trace, "trace", "", "`folder` of the trace to fit on")
	fs.StringVar(&o.valid, "valid", "", "`folder` of the trace to choose and calibrate on; empty: a part of -trace")
	fs.StringVar(&o.split, "split", ".15,.15", "without -valid, `shares` of documents to choose on, and to leave for evaluate -split")
	fs.StringVar(&o.datasets, "datasets", "", "`names` of the data sets of -trace to read, separated by commas; empty: all")
	fs.StringVar(&o.test, "test", "", "with -leave-out each, `folder` of the trace to score on; empty: a part of -trace")
	fs.StringVar(&o.leaveOut, "leave-out", "", "`name` of a data set to learn nothing of, or each; empty: none")
	fs.StringVar(&o.model, "model", "", "`folder` of the checkpoint that the gates are read from, or mini; empty: no gates")
	fs.StringVar(&o.out, "out", "predictors", "`folder` to write")
	fs.StringVar(&o.only, "only", "", "`names` of the predictors to fit, separated by commas; empty: all")
	fs.StringVar(&o.horizons, "horizons", "1,2,4", "`horizons`: distances in layers, token+id (one token earlier, its id known) or token, separated by commas")
	fs.IntVar(&o.width, "width", 64, "hidden `units` of the networks")
	fs.Int64Var(&o.tokens, "tokens", 0, "`tokens` to train each network on, repeats included; 0: 4 passes")
	fs.DurationVar(&o.limit, "limit", 0, "`time` for each network, as 90s or 10m, by which its learning rate has fallen, if its tokens are not trained on before; 0: none")
	fs.StringVar(&o.transformer, "transformer", "2,128,512", "`blocks,width,window` of the transformers, which are trained where -only names them: routing transformer,\nrouter-logit transformer with router logits, and hidden transformer with router inputs and -model; window in tokens, a document's or less")
	fs.IntVar(&o.batch, "batch", 256, "`tokens` in a step of training; of transformers, as many whole windows as fit, at least one")
	fs.IntVar(&o.accumulate, "accumulate", 1, "`parts` of a step that are computed one after the other, in less memory")
	fs.Float64Var(&o.rate, "rate", .002, "largest learning `rate`")
	fs.Int64Var(&o.memory, "memory", 512, "`MiB` of documents held while training; a larger trace is streamed through them")
	fs.StringVar(&o.with, "with", "", "`folders` that train wrote, separated by commas: their networks join those trained now, except a transformer that -only\nnames, which is trained further; a router-logit transformer starts from a routing transformer of its size among them")
	fs.StringVar(&o.resume, "resume", "", "`folder` to keep the state of training in, to go on from when run again after an interruption; empty: none")
	fs.IntVar(&o.seed, "seed", 1, "`seed` of splits and of training")
	fs.StringVar(&o.backend, "backend", "go", "`backend` that trains: go, xla:cpu, xla:cuda or xla:/path/to/plugin.so")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0 || o.trace == "" || o.seed < 0 || o.memory < 1 || (o.leaveOut == "each") != (o.test != "") && (o.valid != "" || o.test != ""):
		fmt.Fprintln(errs, "train: want -trace FOLDER, no other arguments, sizes above 0, and -test with -leave-out each, when there is -valid")
		fs.Usage()
		return 2
	}
	hs, err := parseHorizons(o.horizons)
	if err != nil {
		fmt.Fprintln(errs, "train:", err)
		return 2
	}
	if err := train(ctx, &o, hs, out, errs); err != nil {
		fmt.Fprintln(errs, "train:", err)
		return 1
	}
	return 0
}

func parseHorizons(text string) ([]speculate.Horizon, error) {
	var hs []speculate.Horizon
	for s := range strings.SplitSeq(text, ",") {
		h, err := speculate.ParseHorizon(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		hs = append(hs, h)
	}
	return hs, nil
}

func train(ctx context.Context, o *options, hs []speculate.Horizon, out, errs io.Writer) error {
	parts, err := data(o)
	if err == nil {
		// What is read more than once is held, where it may be.
		parts.Train, err = speculate.InMemory(ctx, parts.Train, o.memory<<20)
	}
	if err != nil {
		return err
	}
	gates, err := readGates(o.model)
	if err != nil {
		return err
	}
	backend, err := mixtral.OpenBackend(o.backend)
	if err != nil {
		return err
	}
	defer backend.Finalize()
	h := parts.Train.Header
	c := neural.CompareOptions{
		Configs: neural.Configs(o.width, len(h.LogitLayers) == h.Model.Layers, len(h.InputLayers) == h.Model.Layers, gates != nil),
		Train: neural.Options{Backend: backend, Horizons: hs, Seed: uint64(o.seed), Tokens: o.tokens, Limit: o.limit, Batch: o.batch, Accumulate: o.accumulate, Rate: o.rate,
			PoolBytes: o.memory << 20, Gates: gates, Resume: o.resume,
			Progress: func(p neural.Progress) {
				fmt.Fprintf(errs, "%s: step %d of %d, loss %.4f, validation loss %.4f, recall %.4f, %.0f tokens/s\n", p.Name, p.Step, p.Steps, p.Loss, p.ValidLoss, p.ValidRecallK, p.TokensPerSec)
			}},
		Evaluate: speculate.EvaluateOptions{Seed: uint64(o.seed)},
		Stage:    func(what string) { fmt.Fprintln(errs, what) },
	}
	if o.only != "" {
		for name := range strings.SplitSeq(o.only, ",") {
			c.Only = append(c.Only, strings.TrimSpace(name))
		}
	}
	if c.Trained, err = trained(o.with, gates); err != nil {
		return err
	}
	if c.Transformers, err = transformers(o.transformer, len(h.LogitLayers) == h.Model.Layers, len(h.InputLayers) == h.Model.Layers && gates != nil); err != nil {
		return err
	}
	began := time.Now()
	if o.leaveOut == "each" {
		return leaveOut(ctx, o, parts, c, out)
	}
	made, err := neural.Fit(ctx, parts.Train, parts.Valid, c)
	if err != nil {
		return err
	}
	if err := speculate.SaveAll(o.out, made.Costs, made.Predictors...); err != nil {
		return err
	}
	for _, n := range made.Networks {
		i := n.Info()
		fmt.Fprintf(out, "%s: %d parameters, %d tokens in %.0f s on %s, validation recall@%d %.4f\n", n.Name(), i.Parameters, i.Tokens, i.Seconds, i.Backend, h.Model.TopK, i.RecallK)
	}
	fmt.Fprintf(out, "%s: %d predictors, %.0f s\n", o.out, len(made.Predictors), time.Since(began).Seconds())
	return nil
}

// transformers reads -transformer.
func transformers(text string, logits, inputs bool) ([]neural.TransformerConfig, error) {
	var n [3]int
	parts := strings.Split(text, ",")
	for i, p := range parts {
		x, err := strconv.Atoi(strings.TrimSpace(p))
		if err != nil || len(parts) != 3 || x < 1 {
			return nil, fmt.Errorf("-transformer %q: want three numbers above 0", text)
		}
		n[i] = x
	}
	if n[1]%32 != 0 {
		return nil, fmt.Errorf("-transformer %q: want a width that is a multiple of 32", text)
	}
	return neural.Transformers(n[0], n[1], n[2], logits, inputs, inputs), nil
}

// trained reads the networks of other folders.
func trained(folders string, gates *speculate.Gates) (ns []neural.Network, err error) {
	if folders == "" {
		return nil, nil
	}
	for dir := range strings.SplitSeq(folders, ",") {
		ps, _, err := neural.LoadAll(os.DirFS(dir), gates)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		for _, p := range ps {
			if n, ok := speculate.Base(p).(neural.Network); ok {
				ns = append(ns, n)
			}
		}
	}
	return ns, nil
}

// data opens the traces, and splits -trace where there is no -valid.
func data(o *options) (p speculate.Parts, err error) {
	// Only networks that start as the model's gates read router inputs, the most
	// of a trace: without a model or such a network they are passed over.
	f := trace.Filter{NoInput: o.model == "" && o.with == ""}
	of := f
	if of.Datasets, err = datasets(o.trace, o.datasets); err != nil {
		return p, err
	}
	if p.Train, err = open(o.trace, of); err != nil {
		return p, err
	}
	if o.valid != "" {
		p.Valid, err = open(o.valid, f)
	} else {
		var f speculate.Fractions
		if f, err = speculate.ParseFractions(o.split); err == nil {
			p, err = speculate.Split(p.Train, f, uint64(o.seed))
		}
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
	sets, err := speculate.Datasets(p.Train)
	if err != nil {
		return p, err
	}
	if !slices.Contains(sets, o.leaveOut) {
		return p, fmt.Errorf("-leave-out %q: the data sets of %s are %q", o.leaveOut, o.trace, sets)
	}
	return speculate.LeaveOut(p, o.leaveOut), nil
}

// datasets reads -datasets, names that must be in the trace; none of "".
func datasets(dir, names string) ([]string, error) {
	if names == "" {
		return nil, nil
	}
	d, err := open(dir, trace.Filter{NoInput: true, NoLogits: true})
	if err != nil {
		return nil, err
	}
	sets, err := speculate.Datasets(d)
	if err != nil {
		return nil, err
	}
	var wanted []string
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); !slices.Contains(sets, name) {
			return nil, fmt.Errorf("-datasets %q: those of -trace are %q", name, sets)
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

// leaveOut does what -leave-out each says.
func leaveOut(ctx context.Context, o *options, parts speculate.Parts, c neural.CompareOptions, out io.Writer) error {
	r, err := neural.LeaveOut(ctx, parts, c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o777); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.out, "leave-out.json"))
	if err != nil {
		return err
	}
	if err := errors.Join(r.WriteJSON(f), f.Close()); err != nil {
		return err
	}
	return r.WriteTable(out)
}

// readGates reads the routers of a checkpoint; none of none.
func readGates(model string) (*speculate.Gates, error) {
	if model == "" {
		return nil, nil
	}
	open := mini.Open
	if model != "mini" {
		open = func() (*mixtral.Checkpoint, error) { return mixtral.OpenCheckpointDir(model) }
	}
	c, err := open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	w, err := c.Routers()
	if err != nil {
		return nil, err
	}
	cfg := c.Config()
	return &speculate.Gates{Layers: cfg.Layers, Experts: cfg.Experts, Hidden: cfg.HiddenSize, Weights: w}, nil
}
