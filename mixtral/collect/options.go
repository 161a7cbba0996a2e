package collect

import (
	"fmt"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
)

// Defaults of Options.
const (
	DefaultTokens = 512  // per document
	DefaultBatch  = 4096 // tokens
	DefaultShard  = 64   // documents
)

// maxRecord bounds the routing that a batch records, in bytes; batches of models
// that record more are smaller. One more than Options.AtOnce are in
// memory, the one that is written.
const maxRecord = 512 << 20

// Options say what to collect and how. The zero value collects all documents,
// up to 512 tokens of each, in one process, without logits.
type Options struct {
	// Docs is how many documents of each data set to choose, at random; 0: all.
	Docs int
	// Tokens is the most tokens of a document, the begin-of-text token included;
	// 0: DefaultTokens. What is longer is cut.
	Tokens int
	// Seed of the choice.
	Seed uint64
	// Logits records the router logits, of LogitLayers (ascending) or, where
	// that is nil, all layers. RouterInput and InputLayers likewise.
	Logits      bool
	LogitLayers []int
	RouterInput bool
	InputLayers []int
	// Float is the type of router logits and router input in the trace.
	Float trace.Float
	// Batch is the most tokens, padding included, that are computed at once;
	// 0: DefaultBatch. It holds one document at least. Where a batch would record
	// more than 512 MiB it is smaller; one batch more than AtOnce is in memory. A batch holds
	// documents of one shard and data set, so that large ones need a large Shard.
	Batch int
	// AtOnce is how many batches the model computes at once; 0: 1. With 2 an
	// accelerator need not wait for what the host does with the batch before. It
	// changes nothing in the trace.
	AtOnce int
	// Shard is how many documents a shard holds; 0: DefaultShard. Twice as
	// many are what a killed process loses at most. Parts divide shards.
	Shard int
	// Part and Parts: of the shards, this run makes those whose number is Part
	// modulo Parts. Part is 0..Parts-1, or 1..Parts; 0 and 0: all.
	Part, Parts int
	// ModelName is the model's name in the trace; "": "mixtral".
	ModelName string
	// Program is the program's name and version in the trace; "": "expertspec".
	Program string
	// Extra is put into the trace's header. It decides the content: what differs
	// here (a backend, say) is not joined in one trace.
	Extra map[string]string
	// Progress, if set, is told from time to time how far the run is.
	Progress func(Progress)
	// Problem, if set, is told of each document that is left out.
	Problem func(Problem)

	createShard func(dir string, h trace.Header, o trace.WriterOptions) (shardWriter, error)
}

// Validate checks that numbers are in range.
func (o *Options) Validate() error {
	switch {
	case o.Docs < 0:
		return fmt.Errorf("collect options: %d documents", o.Docs)
	case o.Tokens < 0 || o.Tokens > 1<<24:
		return fmt.Errorf("collect options: %d tokens of a document, want 1 to %d", o.Tokens, 1<<24)
	case o.Batch < 0:
		return fmt.Errorf("collect options: a batch of %d tokens", o.Batch)
	case o.AtOnce < 0 || o.AtOnce > 64:
		return fmt.Errorf("collect options: %d batches at once, want 1 to 64", o.AtOnce)
	case o.Shard < 0:
		return fmt.Errorf("collect options: shards of %d documents", o.Shard)
	case o.Part < 0 || o.Parts < 0 || o.Part > o.Parts || o.Parts > 1<<20:
		return fmt.Errorf("collect options: part %d of %d", o.Part, o.Parts)
	case o.LogitLayers != nil && !o.Logits:
		return fmt.Errorf("collect options: layers of router logits, but no logits asked for")
	case o.InputLayers != nil && !o.RouterInput:
		return fmt.Errorf("collect options: layers of router input, but no router input asked for")
	case o.Float != trace.Float32 && o.Float != trace.Float16:
		return fmt.Errorf("collect options: float type %d", o.Float)
	}
	return nil
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	set := func(v *int, otherwise int) {
		if *v == 0 {
			*v = otherwise
		}
	}
	set(&o.Tokens, DefaultTokens)
	set(&o.Batch, DefaultBatch)
	set(&o.Shard, DefaultShard)
	set(&o.AtOnce, 1)
	set(&o.Parts, 1)
	o.Part %= o.Parts
	if o.ModelName == "" {
		o.ModelName = "mixtral"
	}
	if o.Program == "" {
		o.Program = "expertspec"
	}
	if o.createShard == nil {
		o.createShard = createShard
	}
	return o
}

// header is what the trace says about the model and its making.
func (o *Options) header(m *mixtral.Model) trace.Header {
	c := m.Config()
	h := trace.Header{
		Model: trace.Model{
			Name: o.ModelName, Layers: c.Layers, Stacks: []trace.Stack{{Name: "decoder", Layers: c.Layers}},
			Experts: c.Experts, TopK: c.TopK, Hidden: c.HiddenSize, Vocabulary: c.VocabSize,
		},
		Source: trace.Source{
			Program: o.Program, Checkpoint: m.CheckpointHash(), DType: m.DType().String(), Seed: o.Seed,
			Extra: map[string]string{},
		},
	}
	for k, v := range o.Extra {
		h.Source.Extra[k] = v
	}
	if o.Logits {
		if h.LogitLayers = o.LogitLayers; h.LogitLayers == nil {
			h.LogitLayers = h.Model.AllLayers()
		}
	}
	if o.RouterInput {
		if h.InputLayers = o.InputLayers; h.InputLayers == nil {
			h.InputLayers = h.Model.AllLayers()
		}
	}
	return h
}

// Stage is what a run is doing.
type Stage string

const (
	// Choosing: the sources are read to choose documents.
	Choosing Stage = "choosing"
	// Reading: the sources are read for the chosen texts.
	Reading Stage = "reading"
	// Collecting: the model runs.
	Collecting Stage = "collecting"
)

// Progress is how far a run is.
type Progress struct {
	Stage Stage
	// Documents is how many were seen (Choosing), or are done in this run;
	// DocumentsTotal is how many this run has to do, 0 while unknown. Documents of
	// shards that stood before are not counted.
	Documents, DocumentsTotal int64
	Tokens, TokensTotal       int64
	// Shards are those finished in this run.
	Shards, ShardsTotal int
	// Rate is in tokens a second, Left the time that the rest will take; 0 while
	// unknown.
	Rate    float64
	Elapsed time.Duration
	Left    time.Duration
	Peak    int64 // of the process's memory, in bytes; 0: unknown
}

// Problem is a document, a file or a shard that was left out.
type Problem struct {
	Dataset, Document string // "" where Err names it
	Err               error
}

// Error gives data set, document and cause.
func (p Problem) Error() string {
	if p.Document == "" {
		return p.Err.Error()
	}
	return fmt.Sprintf("%s: document %s: %v", p.Dataset, p.Document, p.Err)
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Err }

// maxProblems bounds Report.Problems.
const maxProblems = 1000

// Report is what a run did.
type Report struct {
	Header trace.Header
	// Documents, Tokens and Shards were written in this run; Standing are the
	// shards of this part that stood before.
	Documents, Tokens int64
	Shards, Standing  int
	// Chosen is the number of documents chosen, in all parts.
	Chosen int64
	// Problems are what was left out, the first 1,000; ProblemCount counts all.
	Problems     []Problem
	ProblemCount int
	Elapsed      time.Duration
	Peak         int64 // of the process's memory, in bytes; 0: unknown
}
