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
// layer (a stack with a smaller top-k, a dropped token). Its weight is 0.
const NoExpert int32 = -1

// Phase is how a token was computed.
type Phase string

const (
	// Prefill marks tokens of the prompt, computed together.
	Prefill Phase = "prefill"
	// Decode marks tokens computed one at a time.
	Decode Phase = "decode"
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

// Stack is a run of MoE layers of one kind: "decoder", or "encoder" before it.
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
	Program    string            `json:"program"` // name and version
	Checkpoint string            `json:"checkpoint,omitempty"`
	DType      string            `json:"dtype,omitempty"`
	Seed       uint64            `json:"seed"`
	Extra      map[string]string `json:"extra,omitempty"`
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
}

// Document is the routing of one sequence of T tokens.
type Document struct {
	Dataset string
	ID      string
	// Tokens are token ids, [T]; NoToken where unknown.
	Tokens []int32
	// Positions are 0-based and ascending, [T]; nil: 0..T-1.
	Positions []int32
	// Phases is [T]; nil: all Prefill.
	Phases []Phase
	// Experts is [T,L,K], row-major, first choice first; see NoExpert.
	Experts []int32
	// Weights is [T,L,K], the routing weights of Experts; nil where
	// Header.NoWeights is set.
	Weights []float32
	// RouterLogits is [T,len(LogitLayers),E]; nil: not recorded.
	RouterLogits []float32
	// RouterInput is [T,len(InputLayers),D]; nil: not recorded.
	RouterInput []float32
}
