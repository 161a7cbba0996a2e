package mixtral

import "math"

// Routing is one MoE layer's decision about a step's tokens. The T rows are in
// document order and, within a document, by position; padding is left out. Its
// slices are valid during the hook's call only.
type Routing struct {
	Layer int // 0-based MoE layer
	// Document is, for each row, the index of its document in the request, [T].
	Document []int
	// Position is, for each row, its 0-based position in its document, [T].
	Position []int32
	// Logits are the router logits, float32, [T,E].
	Logits []float32
	// Experts are the chosen experts, first choice first, [T,K].
	Experts []int32
	// Weights are the routing weights, the softmax over the chosen, [T,K].
	Weights []float32
	// Input is the router's input, the normalised hidden state, [T,D]; nil
	// unless Request.RouterInput asks for it.
	Input []float32
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

// softmax replaces x, largest first, by its softmax.
func softmax(x []float32) {
	first, sum := x[0], 1.0
	for i := range x[1:] {
		e := math.Exp(float64(x[i+1] - first))
		x[i+1] = float32(e)
		sum += e
	}
	x[0] = 1
	for i := range x {
		x[i] = float32(float64(x[i]) / sum)
	}
}
