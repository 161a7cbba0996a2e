package collect

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"github.com/expertspec/expertspec/trace"
)

// Values of [Options] that are used where a field is zero.
const (
	DefaultMaxTokens   = 512
	DefaultBatchTokens = 4096
)

// maxParts bounds Options.Parts.
const maxParts = 1 << 20

// maxRecord bounds the routing that a batch records, in bytes. Batches of models
// that record more have fewer tokens.
const maxRecord = 512 << 20

// Options are the settings of [Run]. With the zero value all documents are
// collected in one process, up to DefaultMaxTokens of each, without router logits.
type Options struct {
	// DocumentsPerDataset is how many documents of each data set are chosen, at
	// random; 0 chooses all.
	DocumentsPerDataset int
	// MaxTokens is the maximum number of tokens of a document, including special
	// tokens. Longer documents are cut.
	MaxTokens int
	// Seed of the random choice.
	Seed uint64
	// Logits records the router logits of LogitLayers, in ascending order; nil
	// means all layers. RouterInput and InputLayers likewise.
	Logits      bool
	LogitLayers []int
	RouterInput bool
	InputLayers []int
	// Dropped records which tokens an expert did not compute because it was full, for
	// models whose experts have a capacity.
	Dropped bool
	// Float is the type of router logits and router input in the trace.
	Float trace.Float
	// BatchTokens is the maximum number of tokens, including padding, that are
	// computed at once. A batch has at least one document, records at most 512 MiB
	// unless it has only one, and never spans shards or data sets.
	BatchTokens int
	// Concurrency is how many batches the model computes at the same time; 0 means
	// one. With 2, an accelerator does not wait while the host prepares and stores
	// batches. The trace does not depend on it.
	Concurrency int
	// DocumentsPerShard is the number of documents in a shard. 0 means an eighth of
	// all documents, but at least 4 and at most 64, so that an interrupted small run
	// loses little, or what makes trace.MaxShards shards if that is more.
	DocumentsPerShard int
	// Parts is the number of processes that share the work, the same for all of a
	// folder; 0 means one, which completes a folder of any number. This run writes the
	// shards whose number modulo Parts is Part.
	Part, Parts int
	// ModelName is the model's name in the trace; if empty, that of the model's
	// TraceHeader.
	ModelName string
	// Program is the program's name and version in the trace; if empty, "expertspec".
	Program string
	// Extra is added to the trace's header. A trace is not continued with other
	// values, so it should hold what else decides the content, for example a backend.
	Extra map[string]string
	// Progress, if set, is called at most ten times a second and after each shard.
	Progress func(Progress)
	// Problem, if set, is called for each document, file or shard that is omitted.
	Problem func(Problem)

	createShard func(dir string, h trace.Header, o trace.WriterOptions) (shardWriter, error)
}

// Validate reports values that are out of range.
func (o *Options) Validate() error {
	switch {
	case o.DocumentsPerDataset < 0:
		return fmt.Errorf("collect: DocumentsPerDataset is %d; must not be negative", o.DocumentsPerDataset)
	case o.MaxTokens < 0 || o.MaxTokens > 1<<24:
		return fmt.Errorf("collect: MaxTokens is %d; must be 1 to %d", o.MaxTokens, 1<<24)
	case o.BatchTokens < 0:
		return fmt.Errorf("collect: BatchTokens is %d; must not be negative", o.BatchTokens)
	case o.Concurrency < 0 || o.Concurrency > 64:
		return fmt.Errorf("collect: Concurrency is %d; must be 1 to 64", o.Concurrency)
	case o.DocumentsPerShard < 0:
		return fmt.Errorf("collect: DocumentsPerShard is %d; must not be negative", o.DocumentsPerShard)
	case o.Part < 0 || o.Part >= max(o.Parts, 1) || o.Parts < 0 || o.Parts > maxParts:
		return fmt.Errorf("collect: Part is %d of %d; must be 0 to Parts-1", o.Part, o.Parts)
	case o.LogitLayers != nil && !o.Logits:
		return fmt.Errorf("collect: LogitLayers are set, but Logits is not")
	case o.InputLayers != nil && !o.RouterInput:
		return fmt.Errorf("collect: InputLayers are set, but RouterInput is not")
	case o.Float != trace.Float32 && o.Float != trace.Float16:
		return fmt.Errorf("collect: unknown float type %d", o.Float)
	}
	return nil
}

// withDefaults replaces zero values, except DocumentsPerShard, by the defaults.
func (o Options) withDefaults() Options {
	o.MaxTokens = cmp.Or(o.MaxTokens, DefaultMaxTokens)
	o.BatchTokens = cmp.Or(o.BatchTokens, DefaultBatchTokens)
	o.Concurrency = cmp.Or(o.Concurrency, 1)
	o.Parts = cmp.Or(o.Parts, 1)
	o.Program = cmp.Or(o.Program, "expertspec")
	if o.createShard == nil {
		o.createShard = createShard
	}
	return o
}

// documentsPerShard returns the number that is used where the options have none,
// for n documents.
func documentsPerShard(n int) int {
	return max(min(max((n+7)/8, 4), 64), (n+trace.MaxShards-1)/trace.MaxShards)
}

// header returns the trace's header, except for what depends on the choice.
func (o *Options) header(m Model) trace.Header {
	h := m.TraceHeader()
	h.Model.Name = cmp.Or(o.ModelName, h.Model.Name)
	h.Source.Program, h.Source.Seed = o.Program, o.Seed
	h.Source.Extra = make(map[string]string)
	maps.Copy(h.Source.Extra, o.Extra)
	if o.Logits {
		if h.LogitLayers = o.LogitLayers; h.LogitLayers == nil {
			h.LogitLayers = h.Model.AllLayers()
		}
	}
	h.Dropped = o.Dropped
	if o.RouterInput {
		if h.InputLayers = o.InputLayers; h.InputLayers == nil {
			h.InputLayers = h.Model.AllLayers()
		}
	}
	return h
}

// Progress is how far a run is.
type Progress struct {
	// Stage is "choosing" while the sources are read to choose documents,
	// "verifying" while existing shards are checked, "reading" while the sources
	// are read for the chosen texts, and "collecting" while the model runs.
	Stage string
	// Documents is how many documents were seen, read or collected in this stage.
	// DocumentsTotal and TokensTotal are what this run has to read or collect, 0
	// while unknown.
	Documents, DocumentsTotal int64
	Tokens, TokensTotal       int64
	// Shards is how many shards were verified or written in this stage.
	Shards, ShardsTotal int
	// Rate is in tokens per second, Remaining an estimate; 0 while unknown.
	Rate      float64
	Elapsed   time.Duration
	Remaining time.Duration
	Peak      int64 // memory of the process, in bytes; 0: unknown
}

// Problem is a document, a file or a shard that was omitted.
type Problem struct {
	Dataset, Document string // empty if Err names it
	Err               error
}

// Error returns data set, document and cause.
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

// Report is the result of a run.
type Report struct {
	// Found is the number of documents in the sources, Chosen how many of them were
	// chosen, for all parts.
	Found, Chosen int64
	// Documents, Tokens and Shards were written in this run. Existing is the number
	// of shards of this part that an earlier run wrote.
	Documents, Tokens int64
	Shards, Existing  int
	// Damaged are the names of shards of an earlier run that were damaged. They are
	// rewritten, and not in Existing.
	Damaged []string
	// Problems are the first 1,000 of ProblemCount.
	Problems     []Problem
	ProblemCount int
	Elapsed      time.Duration
	Peak         int64 // memory of the process, in bytes; 0: unknown
}
