package mixtral

import (
	"math"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// Routing is the decision of one MoE layer about the T tokens of a step, of all
// documents that the step computes, without padding. The rows are in order of
// document and, within one, of position. A hook must not keep the slices, and
// may change Experts and Weights alone.
type Routing struct {
	// Layer is the 0-based MoE layer, of Layers, L.
	Layer, Layers int
	// Document is the index in the request of each row's document, [T].
	Document []int
	// Position is each row's 0-based position in its document, [T].
	Position []int32
	// Token is each row's token id, [T].
	Token []int32
	// Phase is each row's phase, [T]: Decode for a document that has one token in
	// the request and earlier ones in its Cache, else Prefill.
	Phase []trace.Phase
	// Logits are the router logits, [T,E].
	Logits []float32
	// Experts are the selected experts, first choice first, [T,K].
	Experts []int32
	// Weights are the routing weights, the softmax over the selected, [T,K].
	Weights []float32
	// Input is the router's input, the normalized hidden state, [T,D]; nil unless
	// Request.RouterInput is set.
	Input []float32

	gone []bool // experts that interventions of this package removed, [E]; nil: none
}

// topK chooses the k largest logits of each row, largest first and on ties the
// lower index, and weighs them by the softmax over the chosen. This equals
// transformers' softmax over all, top-k and renormalisation
// (MixtralTopKRouter). logits: [T,E]; results: [T,K].
func topK(logits []float32, numExperts, k int, experts []int32, weights []float32) {
	for t := 0; t*numExperts < len(logits); t++ {
		row := logits[t*numExperts:][:numExperts]
		chosen, value := experts[t*k:][:0:k], weights[t*k:][:k]
		for e, x := range row {
			at := len(chosen)
			for at > 0 && x > value[at-1] {
				at--
			}
			if at == k {
				continue
			}
			if len(chosen) < k {
				chosen = chosen[:len(chosen)+1]
			}
			copy(chosen[at+1:], chosen[at:])
			copy(value[at+1:len(chosen)], value[at:])
			chosen[at], value[at] = int32(e), x
		}
		softmax(value)
	}
}

// softmax replaces x by its softmax.
func softmax(x []float32) {
	top, sum := slices.Max(x), 0.0
	for i, v := range x {
		e := math.Exp(float64(v - top))
		x[i] = float32(e)
		sum += e
	}
	for i := range x {
		x[i] = float32(float64(x[i]) / sum)
	}
}
