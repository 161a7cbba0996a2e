package switchtransformer

import (
	"context"

	"github.com/expertspec/expertspec/trace"
)

// executor computes the model's stacks; a Model has one. There are two: the host
// executor (host.go) with products of this module's own, and the graph executor
// (graph.go) with GoMLX.
//
// The Model's driver (forward.go, hook.go) divides a request into groups of documents
// and each into steps, keeps lengths, routes with hooks, and hands out logits. What it
// asks of an executor is the arithmetic in between: encode or decode runs the blocks of
// a stack on a step, and calls route at each MoE layer, in order, between the router's
// product and the experts. An executor may so compute all blocks up to the next router
// in one go.
//
// All methods may be called concurrently, of a memory only one at a time. They return
// ctx's error if it ends, at the latest after a block.
type executor interface {
	// groups divides documents by their numbers of encoder tokens, [B], into those that
	// are computed together: lists of indices, each ascending, each document in one.
	groups(lens []int) [][]int
	// concurrency is how many groups run at a time.
	concurrency() int
	// memory returns empty memory for n documents.
	memory(n int) memory
	// encode computes the encoder. If m is not nil, it keeps in it what the decoder's
	// cross-attention needs: the keys and values of each decoder block, of the
	// encoder's output after its final norm. If m is nil, only routing is wanted, and
	// what follows the last MoE layer's routing need not be computed.
	encode(ctx context.Context, s *step, m memory, route routeFunc) error
	// decode computes the decoder on m's texts, in which it keeps the step's keys and
	// values if s.keep; s.first says how many tokens of each document m has so far.
	// Afterwards it calls emit for each of rows, ascending indices into the step's rows,
	// with its next-token logits [V], valid during the call. If rows is empty and
	// s.keep is false, only routing is wanted.
	decode(ctx context.Context, s *step, m memory, route routeFunc, rows []int, emit func(i int, logits []float32)) error
	// close frees the weights. No other method is being called.
	close()
}

// memory is what an executor keeps of a group of documents: of the encoder's output
// what cross-attention reads, and the decoder's keys and values.
type memory interface {
	free()
}

// routeFunc returns the expert of each of the step's rows, [N], and the weight by which
// its output is multiplied before it is added, [N]; 0 for rows that no expert computes.
// logits are the router's, [N,E]; input is the router's input, [N,D], nil unless
// step.input. The rows are without padding, in order of document and position. The
// arguments belong to the caller, the results to the executor.
type routeFunc func(layer int, logits, input []float32) (experts []int32, weights []float32, err error)

// step is one computation of a stack: the next tokens of a group's documents.
type step struct {
	stack  Stack
	docs   []int     // the documents' indices in the request, [B]
	tokens [][]int32 // [B] of [T_b]; T_b may be 0, but not of all
	first  []int     // positions of the documents' first tokens, [B]; 0 in the encoder
	keep   bool      // the decoder's keys and values are used by a later step
	input  bool      // route requires the router's input
	lanes  int       // parts of the step that run concurrently
	// capacity is C, or -1 where nothing is dropped. Executors do not need it.
	capacity int
	// For each of N rows, as in Routing:
	document []int
	position []int32
	token    []int32
	phase    []trace.Phase
}
