// Package trace records the routing of a mixture-of-experts model: for each token
// of a document, at each MoE layer, the chosen experts and their routing weights.
//
// A trace on disk is a directory of Parquet shards, with one row for each token,
// that other programs can read too; SCHEMA.md describes it field by field. Create writes
// one, Open reads it document by document in bounded memory, Validate checks it,
// NewStatistics measures it in one pass. Package convert reads and writes the
// formats of other programs, package tracetest makes traces for tests.
//
// Axis letters, used throughout: B batch, T tokens, L MoE layers, E experts,
// K experts per token, D hidden size, V vocabulary.
package trace

// schemaVersion is the version of the Parquet schema that this package writes.
const schemaVersion = 1

// NoToken is a token id in Document.Tokens that the source of a trace did not
// record.
const NoToken int32 = -1

// NoExpert fills Document.Experts where a token has fewer than K experts at a
// layer (a stack with a smaller top-k), and where it has none: at the layers of a
// stack that does not compute it. Its weight is 0.
const NoExpert int32 = -1

// Phase is how a token was computed.
type Phase string

const (
	// Prefill marks tokens of the prompt, computed together.
	Prefill Phase = "prefill"
	// Decode marks tokens computed one at a time.
	Decode Phase = "decode"
	// Encode marks tokens of an encoder, all computed together, each of which
	// attends to those after it too. Prefill and Decode are of the decoder then.
	Encode Phase = "encode"
)

// Names of stacks.
const (
	Encoder = "encoder"
	Decoder = "decoder"
)

// Model describes the model that routed.
type Model struct {
	Name       string  `json:"name"`
	Layers     int     `json:"layers"` // L, over all stacks
	Stacks     []Stack `json:"stacks"` // in layer order; their Layers add up to L
	Experts    int     `json:"experts"`
	TopK       int     `json:"top_k"`      // K, the largest of all stacks
	Hidden     int     `json:"hidden"`     // D; 0: unknown
	Vocabulary int     `json:"vocabulary"` // V; 0: unknown
}

// Stack is a run of MoE layers of one kind: [Decoder], or [Encoder] before it.
type Stack struct {
	Name   string `json:"name"`
	Layers int    `json:"layers"`
	TopK   int    `json:"top_k,omitempty"` // 0: the model's
	// Blocks are the 0-based transformer blocks of the stack's layers, where some
	// blocks have no experts; nil: layer i is block i.
	Blocks []int `json:"blocks,omitempty"`
}

// Source is the origin of a trace.
type Source struct {
	Program    string `json:"program"` // name and version
	Checkpoint string `json:"checkpoint,omitempty"`
	DType      string `json:"dtype,omitempty"`
	Seed       uint64 `json:"seed"`
	// Shards is how many shards the complete trace has, 00000 to Shards-1, which may
	// be written by several programs; 0: unknown. See [ValidationReport.Missing].
	Shards int               `json:"shards,omitempty"`
	Extra  map[string]string `json:"extra,omitempty"`
}

// Header is what all documents of a trace share.
type Header struct {
	Model  Model
	Source Source
	// LogitLayers and InputLayers are the layers whose router logits and router
	// inputs are recorded, ascending.
	LogitLayers []int
	InputLayers []int
	// NoWeights is set where the source did not record routing weights. The trace
	// has no column of them and Document.Weights is nil.
	NoWeights bool
	// Dropped is set where Document.Dropped is recorded, in a column of its own.
	Dropped bool
}

// Document is the routing of one sequence of T tokens: those of the decoder, or
// of the encoder and then the decoder, with positions that continue.
type Document struct {
	Dataset string
	ID      string
	// Tokens are token ids, [T]; NoToken where unknown.
	Tokens []int32
	// Positions are 0-based and ascending, [T]; nil: 0..T-1.
	Positions []int32
	// Phases is [T]; nil: all Prefill. Tokens of phase Encode come first.
	Phases []Phase
	// Experts is [T,L,K], row-major, first choice first; see NoExpert.
	Experts []int32
	// Weights is [T,L,K], the routing weights of Experts; nil where
	// Header.NoWeights is set.
	Weights []float32
	// Dropped is [T,L], true where the chosen experts were full and none computed
	// the token; nil: not recorded. Experts and Weights are the router's choice.
	Dropped []bool
	// RouterLogits is [T,len(LogitLayers),E]; nil: not recorded. Those of layers
	// without experts for the token mean nothing, and are 0 by convention.
	RouterLogits []float32
	// RouterInput is [T,len(InputLayers),D]; as RouterLogits.
	RouterInput []float32
}
