package switchtransformer

import (
	"math"
	"runtime"
	"slices"

	"github.com/expertspec/expertspec/trace"
	"golang.org/x/sync/errgroup"
)

// Routing is the decision of one MoE layer about the T tokens of a step, of all
// documents that the step computes, without padding. The rows are in order of
// document and, within one, of position. A hook must not keep the slices, and may
// change Experts and Weights alone.
type Routing struct {
	Stack Stack
	// Layer is the 0-based MoE layer of the stack, of Layers, L; Block is its block.
	Layer, Layers, Block int
	// Document is the index in the request of each row's document, [T].
	Document []int
	// Position is each row's 0-based position in its document, counted within the
	// stack, [T].
	Position []int32
	// Token is each row's token id, [T].
	Token []int32
	// Phase is each row's phase, [T]: Encode in the encoder; in the decoder Prefill
	// where tokens of a sequence are computed at once with a capacity, and Decode
	// where they are routed as in decoding one at a time (see Request.Uncapped).
	Phase []trace.Phase
	// Logits are the router logits, [T,E].
	Logits []float32
	// Experts are the selected experts, [T,1].
	Experts []int32
	// Weights are the routing weights, [T,1]: the selected expert's probability in the
	// softmax over all experts, which is not renormalized.
	Weights []float32
	// Dropped is true for rows whose expert is full, which no expert computes, [T].
	// In Request.Intervene it is what the router's own choice leads to, and is
	// determined again afterwards.
	Dropped []bool
	// Input is the router's input, the normalized hidden state, [T,D]; nil unless
	// Request.RouterInput is set.
	Input []float32
}

// choose sets experts [N] to the most probable of each row, on ties the lowest, and
// weights [N] to its probability in the softmax over all. logits: [N,E].
func choose(logits []float32, numExperts int, experts []int32, weights []float32) {
	const some = 1 << 14 // logits for which a goroutine pays
	rows := max(1, some/numExperts)
	if len(experts) < 2*rows {
		chooseRows(logits, numExperts, experts, weights)
		return
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(experts); from += rows {
		to := min(from+rows, len(experts))
		g.Go(func() error {
			chooseRows(logits[from*numExperts:to*numExperts], numExperts, experts[from:to], weights[from:to])
			return nil
		})
	}
	_ = g.Wait() // there are no errors
}

func chooseRows(logits []float32, numExperts int, experts []int32, weights []float32) {
	p := make([]float64, numExperts)
	for t := range experts {
		row := logits[t*numExperts:][:numExperts]
		top, sum := slices.Max(row), 0.0
		for e, x := range row {
			p[e] = math.Exp(float64(x - top))
			sum += p[e]
		}
		// transformers compares probabilities of float32: logits that differ by less
		// than they show are a tie.
		best := float32(-1)
		for e, v := range p {
			if w := float32(v / sum); w > best {
				experts[t], best = int32(e), w
			}
		}
		weights[t] = best
	}
}

// drop sets dropped [N] for rows after the capacity-th of their document that have the
// same expert. Documents are runs of equal numbers in document [N]. With a negative
// capacity no row is dropped.
func drop(dropped []bool, document []int, experts []int32, numExperts, capacity int) {
	clear(dropped)
	if capacity < 0 {
		return
	}
	count := make([]int, numExperts)
	for t, e := range experts {
		if t > 0 && document[t] != document[t-1] {
			clear(count)
		}
		count[e]++
		dropped[t] = count[e] > capacity
	}
}
