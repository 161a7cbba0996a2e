package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/collect"
)

const usage = `collect chooses documents at random, runs a Mixtral over them, and writes its routing as
a trace: a folder of Parquet shards.

Killed at any moment and run again with the same flags it goes on, and the folder ends up
as if it had never stopped. With other flags or another model it refuses to. With -part,
several processes share the work without talking; together they write the same files.

Documents and files that cannot be read, documents without tokens and shards that cannot
be written are named on standard error, and the rest goes on.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but for what was named.

Flags:
`

type options struct {
	collect.Options
	model, tokenizer, out    string
	data                     list
	sets                     string
	hub                      collect.Hub
	tokenFile                string
	files                    collect.FileOptions
	backend, dtype           string
	executor                 mixtral.Executor
	quiet                    bool
	logitLayers, inputLayers string
}

// list is a flag that may be given several times.
type list []string

// String is for package flag.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set is for package flag.
func (l *list) Set(v string) error {
	*l = append(*l, v)
	return nil
}

// parse reads the flags.
func parse(args []string, errs io.Writer) (*options, error) {
	o := &options{}
	var part, executor, float string
	fs := flag.NewFlagSet("collect", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	fs.StringVar(&o.model, "model", "mini", "`folder` of the checkpoint (config.json, safetensors, tokenizer.json), or mini for the embedded model")
	fs.StringVar(&o.tokenizer, "tokenizer", "", "`file` of the tokenizer (default: tokenizer.json of the model)")
	fs.Var(&o.data, "data", "`file or folder` of texts, may be given several times: "+strings.Join(collect.Formats(), ", ")+
		",\nalso with .gz, .bz2 or .zst behind; a folder stands for all such files in it; mini for the\nembedded documents (default mini with -model mini)")
	fs.StringVar(&o.sets, "sets", "", "named public data `sets` with commas, or all: "+strings.Join(collect.HubSets(), ", "))
	fs.StringVar(&o.hub.Cache, "hub-cache", defaultCache(), "`folder` of the hub's cache, where -sets are")
	fs.BoolVar(&o.hub.Download, "download", false, "download what the cache has not of -sets (default false: the network is not touched)")
	fs.StringVar(&o.hub.Endpoint, "hub-endpoint", "https://huggingface.co", "`address` to download from")
	fs.StringVar(&o.tokenFile, "hub-token-file", "", "`file` with the token to send there (default: none)")
	fs.DurationVar(&o.hub.Stall, "hub-stall", 30*time.Second, "`time` after which a silent transfer is tried anew, four times in all")
	fs.StringVar(&o.files.Format, "format", "", "read all of -data as jsonl, csv, tsv, parquet or text (default: by extension)")
	fs.StringVar(&o.files.Text, "text-field", "text", "`field` of the text in JSON, CSV and Parquet; several with commas are joined by empty lines")
	fs.StringVar(&o.files.ID, "id-field", "", "`field` of the document's id (default: id, where present; else file and line)")
	fs.StringVar(&o.files.Dataset, "dataset-field", "", "`field` of the data set's name (default: dataset or domain, where present; else by file)")
	fs.StringVar(&o.files.Name, "dataset", "", "`name` of the data set of documents that do not name one (default: the file's or folder's)")
	fs.StringVar(&o.out, "out", "", "`folder` of the trace, made if need be; needed")
	fs.IntVar(&o.Docs, "docs", 150, "documents of each data set, chosen at random; 0 for all")
	fs.IntVar(&o.Tokens, "tokens", collect.DefaultTokens, "most tokens of a document, the begin-of-text token included; the rest is cut")
	fs.Int64Var(&o.Seed, "seed", 1, "seed of the choice of documents")
	fs.BoolVar(&o.Logits, "logits", false, "record router logits [T,L,E] too (default false)")
	fs.StringVar(&o.logitLayers, "logit-layers", "", "`layers` of the router logits, from 0, with commas, as 0,8,15 (default all); implies -logits")
	fs.BoolVar(&o.RouterInput, "router-input", false, "record the routers' inputs [T,L,D] too (default false); large: 2 or 4 bytes times L times D a token")
	fs.StringVar(&o.inputLayers, "input-layers", "", "`layers` of the router input (default all); implies -router-input")
	fs.StringVar(&float, "float", "float32", "`type` of router logits and router input in the trace: float32 or float16")
	fs.IntVar(&o.Batch, "batch", collect.DefaultBatch, "most tokens computed at once, padding included")
	fs.IntVar(&o.AtOnce, "at-once", 1, "batches that the model computes at once; 2 for an accelerator, which then need not wait for the host")
	fs.IntVar(&o.Shard, "shard", collect.DefaultShard, "documents of a shard, the most of a batch; twice as many are computed again after a kill, at most")
	fs.StringVar(&part, "part", "", "`i/n`: do the i-th of n parts of the work, i from 0 to n-1 or from 1 to n (default all of it)")
	fs.StringVar(&o.backend, "backend", "go", "`backend`: go, xla:cpu, xla:cuda, or xla:/path/of/plugin.so")
	fs.StringVar(&executor, "executor", "auto", "executor: auto, stepped or whole")
	fs.StringVar(&o.dtype, "dtype", "float32", "`type` the model computes in: float32 or bfloat16")
	fs.BoolVar(&o.quiet, "quiet", false, "no progress on standard error (default false)")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: all is said by flags", fs.Arg(0))
	}
	return o, o.check(part, executor, float)
}

// check reads what the flags' types do not.
func (o *options) check(part, executor, float string) (err error) {
	if o.out == "" {
		return errors.New("-out is needed: the folder of the trace")
	}
	if len(o.data) == 0 && o.sets == "" {
		if o.model != "mini" {
			return errors.New("-data or -sets is needed: files or folders of texts, or public data sets")
		}
		o.data = list{"mini"}
	}
	if o.executor, err = mixtral.ParseExecutor(executor); err != nil {
		return fmt.Errorf("-executor: %w", err)
	}
	if o.dtype != "float32" && o.dtype != "bfloat16" {
		return fmt.Errorf("-dtype %q: want float32 or bfloat16", o.dtype)
	}
	switch float {
	case "float32":
	case "float16":
		o.Float = trace.Float16
	default:
		return fmt.Errorf("-float %q: want float32 or float16", float)
	}
	for flag, n := range map[string]int{"-tokens": o.Tokens, "-batch": o.Batch, "-shard": o.Shard, "-at-once": o.AtOnce} {
		if n < 1 {
			return fmt.Errorf("%s %d: want 1 or more", flag, n)
		}
	}
	if o.LogitLayers, err = layers(o.logitLayers); err != nil {
		return fmt.Errorf("-logit-layers: %w", err)
	}
	if o.InputLayers, err = layers(o.inputLayers); err != nil {
		return fmt.Errorf("-input-layers: %w", err)
	}
	o.Logits = o.Logits || o.LogitLayers != nil
	o.RouterInput = o.RouterInput || o.InputLayers != nil
	if part != "" {
		i, n, ok := strings.Cut(part, "/")
		var e1, e2 error
		o.Part, e1 = strconv.Atoi(i)
		o.Parts, e2 = strconv.Atoi(n)
		if !ok || e1 != nil || e2 != nil || o.Parts < 1 || o.Part < 0 || o.Part > o.Parts {
			return fmt.Errorf("-part %q: want i/n, as 0/4", part)
		}
	}
	if o.sets == "all" {
		o.sets = strings.Join(collect.HubSets(), ",")
	}
	for _, name := range strings.Split(o.sets, ",") {
		if o.sets != "" && !slices.Contains(collect.HubSets(), name) {
			return fmt.Errorf("-sets: %q is none of %s", name, strings.Join(collect.HubSets(), ", "))
		}
	}
	if o.hub.Stall <= 0 {
		return fmt.Errorf("-hub-stall %v: want more than 0", o.hub.Stall)
	}
	return errors.Join(o.files.Validate(), o.Options.Validate())
}

// layers reads a list of layers.
func layers(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var list []int
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || len(list) > 0 && n <= list[len(list)-1] {
			return nil, fmt.Errorf("%q: want ascending numbers from 0, with commas", s)
		}
		list = append(list, n)
	}
	return list, nil
}

// defaultCache is where huggingface_hub keeps its cache.
func defaultCache() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".cache", "huggingface", "hub")
}
