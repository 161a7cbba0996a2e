package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/collect/hub"
	"github.com/expertspec/expertspec/trace"
)

const help = `
collect chooses documents at random, runs a Mixtral or a Switch Transformer over them, and writes its routing as a trace: a folder
of Parquet shards. Of a document the encoder of a Switch Transformer reads the first half, and its decoder the rest.

Killed at any moment and run again with the same flags, it resumes, and the folder ends up as if it had never stopped. With
other flags or another model it refuses to. With -part, several processes share the work without communicating; together they
write the same files. examples/convert -missing names the parts that have not finished.

Documents and files that cannot be read, documents without tokens and shards that cannot be written are named on standard
error, and the others are processed.`

type options struct {
	collect.Options
	model                    cli.Model
	limits                   cli.Limits
	out                      string
	data                     list
	sets                     string
	hub                      hub.Client
	tokenFile                string
	files                    collect.FileOptions
	quiet                    bool
	logitLayers, inputLayers string
	part, float              string
	kept                     int // shards
}

// setDocuments is the number of documents that are chosen of a public data set.
const setDocuments = 150

// list is a flag that may be given several times.
type list []string

// String is for package flag.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set is for package flag.
func (l *list) Set(v string) error {
	*l = append(*l, v)
	return nil
}

func (o *options) flags(fs *flag.FlagSet) {
	o.model.Flags(fs)
	o.limits.Flags(fs)
	fs.StringVar(&o.model.Tokenizer, "tokenizer", "", "`file` of the tokenizer (default: tokenizer.json of the model)")
	fs.Var(&o.data, "data", "`file or folder` of texts, may be given several times: "+strings.Join(collect.Formats(), ", ")+
		",\nalso compressed as .gz, .bz2 or .zst; a folder means all such files in it; mini for the\nembedded documents (default mini with -model mini and mini-switch)")
	fs.StringVar(&o.sets, "sets", "", "named public data `sets`, separated by commas, or all: "+strings.Join(hub.Names(), ", "))
	fs.StringVar(&o.hub.Cache, "hub-cache", defaultCache(), "`folder` of the hub's cache, where -sets are")
	fs.BoolVar(&o.hub.Download, "download", false, "download what the cache lacks of -sets (default false: no network access)")
	fs.StringVar(&o.hub.Endpoint, "hub-endpoint", hub.DefaultEndpoint, "`address` to download from")
	fs.StringVar(&o.tokenFile, "hub-token-file", "", "`file` with the token to send there (default: none)")
	fs.DurationVar(&o.hub.Stall, "hub-stall", hub.DefaultStall, "`time` after which a stalled transfer is retried, four times in all")
	fs.StringVar(&o.files.Format, "format", "", "read all of -data as jsonl, csv, tsv, parquet or text (default: by extension)")
	fs.StringVar(&o.files.Text, "text-field", "text", "`field` of the text in JSON, CSV and Parquet; several, separated by commas, are joined by empty lines")
	fs.StringVar(&o.files.ID, "id-field", "", "`field` of the document's id (default: id, where present; else file and line)")
	fs.StringVar(&o.files.Dataset, "dataset-field", "", "`field` of the data set's name (default: dataset or domain, where present; else by file)")
	fs.StringVar(&o.files.Name, "dataset", "", "`name` of the data set of documents that do not name one (default: the file's or folder's)")
	fs.StringVar(&o.out, "out", "", "`folder` of the trace, created if it does not exist (required)")
	fs.IntVar(&o.DocumentsPerDataset, "docs", 0, "`number` of documents of each data set, chosen at random; 0 for all (default 150 with -sets, else all)")
	fs.IntVar(&o.MaxTokens, "tokens", collect.DefaultMaxTokens, "maximum number of tokens of a document, including the begin-of-text token; the rest is cut")
	fs.Uint64Var(&o.Seed, "seed", 1, "seed of the choice of documents")
	fs.BoolVar(&o.Logits, "logits", false, "record router logits [T,L,E] too (default false)")
	fs.StringVar(&o.logitLayers, "logit-layers", "", "`layers` of the router logits, from 0, separated by commas, for example 0,8,15 (default all); implies -logits")
	fs.BoolVar(&o.RouterInput, "router-input", false, "record the routers' inputs [T,L,D] too (default false); large: 2 or 4 bytes times L times D a token")
	fs.StringVar(&o.inputLayers, "input-layers", "", "`layers` of the router input (default all); implies -router-input")
	fs.BoolVar(&o.Dropped, "dropped", false, "record which tokens a Switch Transformer's experts dropped (default false)")
	fs.StringVar(&o.float, "float", "float32", "`type` of router logits and router input in the trace: float32 or float16")
	fs.IntVar(&o.BatchTokens, "batch", 0, fmt.Sprintf("maximum number of tokens computed at once, including padding (default %d; with -device-memory on a device\nwith memory of its own, as many as fit beside the weights, at most %d)", collect.DefaultBatchTokens, mostTokens))
	fs.IntVar(&o.Concurrency, "at-once", 1, "batches that the model computes at once; with 2, an accelerator does not wait for the host")
	fs.IntVar(&o.DocumentsPerShard, "shard", 0, "`number` of documents in a shard, and at most in a batch; an interrupted run loses at most two shards\n(default an eighth of all documents, at least 4 and at most 64)")
	fs.StringVar(&o.part, "part", "", "`i/n`: process the i-th of n parts of the work, i from 0 to n-1 or from 1 to n (default all of it)")
	fs.BoolVar(&o.quiet, "quiet", false, "no progress on standard error (default false)")
}

// check reads what the flags' types do not.
func (o *options) check(fs *flag.FlagSet) (err error) {
	if o.out == "" {
		return errors.New("-out is required: the folder of the trace")
	}
	if len(o.data) == 0 && o.sets == "" {
		if o.model.Folder != "mini" && o.model.Folder != "mini-switch" {
			return errors.New("-data or -sets is required: files or folders of texts, or public data sets")
		}
		o.data = list{"mini"}
	}
	switch o.float {
	case "float32":
	case "float16":
		o.Float = trace.Float16
	default:
		return fmt.Errorf("-float is %q; must be float32 or float16", o.float)
	}
	for _, f := range []struct {
		name     string
		n, least int
	}{{"docs", o.DocumentsPerDataset, 0}, {"tokens", o.MaxTokens, 1}, {"batch", o.BatchTokens, 0}, {"shard", o.DocumentsPerShard, 0}, {"at-once", o.Concurrency, 1}} {
		if f.n < f.least {
			return fmt.Errorf("-%s is %d; must be at least %d", f.name, f.n, f.least)
		}
	}
	if err := o.limits.Check(); err != nil {
		return err
	}
	if o.LogitLayers, err = layers(o.logitLayers); err != nil {
		return fmt.Errorf("-logit-layers: %w", err)
	}
	if o.InputLayers, err = layers(o.inputLayers); err != nil {
		return fmt.Errorf("-input-layers: %w", err)
	}
	o.Logits = o.Logits || o.LogitLayers != nil
	o.RouterInput = o.RouterInput || o.InputLayers != nil
	if o.part != "" {
		i, n, ok := cli.Part(o.part)
		if !ok {
			return fmt.Errorf("-part is %q; must be i/n, for example 1/4", o.part)
		}
		o.Part, o.Parts = i%n, n
	}
	given := false
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == "docs" })
	if o.sets != "" && !given {
		o.DocumentsPerDataset = setDocuments
	}
	if o.sets == "all" {
		o.sets = strings.Join(hub.Names(), ",")
	}
	for _, name := range cli.List(o.sets) {
		if !slices.Contains(hub.Names(), name) {
			return fmt.Errorf("-sets: no data set %q; the sets are %s", name, strings.Join(hub.Names(), ", "))
		}
	}
	if o.hub.Stall <= 0 {
		return fmt.Errorf("-hub-stall is %v; must be positive", o.hub.Stall)
	}
	if err := o.files.Validate(); err != nil {
		return fmt.Errorf("-format: %w", err)
	}
	return o.Options.Validate()
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
			return nil, fmt.Errorf("%q: must be ascending numbers from 0, separated by commas", s)
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
