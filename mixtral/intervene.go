package mixtral

import (
	"context"
	"fmt"
	"slices"
)

// AblateMode is what becomes of a token's other experts when [Ablate] removes
// one of them.
type AblateMode int

const (
	// ZeroWeight sets the expert's weight to 0. The other weights stay as they
	// are and no longer add up to 1, so that the layer's output is smaller.
	ZeroWeight AblateMode = iota
	// Renormalize sets the expert's weight to 0 and divides the others by their
	// sum, so that they add up to 1. If they are all 0, as with top-k 1, there is
	// nothing to renormalize: an error.
	Renormalize
	// NextBest replaces the expert as [MaskExperts] does: by the expert with the
	// largest router logit of those not selected, with new weights.
	NextBest
)

// Ablate returns a hook that removes an expert from a layer, for all tokens. A
// token that did not select it is unchanged. With ZeroWeight and Renormalize the
// expert stays in Routing.Experts, which holds K experts for each token, with a
// weight of 0: it is not computed.
func Ablate(layer, expert int, mode AblateMode) Hook {
	if mode == NextBest {
		return mask("Ablate", layer, []int{expert})
	}
	return at("Ablate", layer, []int{expert}, func(r *Routing, e, k int) error {
		if mode != ZeroWeight && mode != Renormalize {
			return fmt.Errorf("Ablate: unknown mode %d", mode)
		}
		for t := range r.Position {
			i := slices.Index(r.Experts[t*k:][:k], int32(expert))
			if i < 0 {
				continue
			}
			weights := r.Weights[t*k:][:k]
			weights[i] = 0
			if mode == Renormalize && !normalize(weights) {
				return r.errorf(t, "Ablate: no weight is left to renormalize without expert %d", expert)
			}
		}
		return nil
	})
}

// MaskExperts returns a hook that routes a layer as if the router logits of some
// experts were -Inf. In a token that selected some of them, each is replaced by
// the expert with the largest logit of those not selected (on ties the lower
// index); its weights are recomputed as the softmax of the logits of the
// selected. Other tokens are unchanged. Routing.Logits stay as they are.
//
// After other hooks in a [Chain], an expert that one of them ablated or masked is
// not selected, and a weight of 0 stays 0.
func MaskExperts(layer int, experts ...int) Hook { return mask("MaskExperts", layer, experts) }

func mask(name string, layer int, experts []int) Hook {
	return at(name, layer, experts, func(r *Routing, e, k int) error {
		masked := make([]bool, e)
		left := e
		for _, x := range experts {
			if !masked[x] {
				masked[x], left = true, left-1
			}
		}
		if left < k {
			return fmt.Errorf("%s: %d of %d experts are left at layer %d; a token requires %d", name, left, e, layer, k)
		}
		for t := range r.Position {
			if err := r.replace(t, masked, e, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// replace replaces row t's selected experts that are masked.
func (r *Routing) replace(t int, masked []bool, e, k int) error {
	chosen, weights, logits := r.Experts[t*k:][:k], r.Weights[t*k:][:k], r.Logits[t*e:][:e]
	kept := 0 // moved to the front
	for i, x := range chosen {
		if !masked[x] {
			chosen[kept], weights[kept] = x, weights[i]
			kept++
		}
	}
	if kept == k {
		return nil
	}
	for i := kept; i < k; i++ {
		best := int32(-1)
		for x := range int32(e) {
			if !r.gone[x] && !slices.Contains(chosen[:i], x) && (best < 0 || logits[x] > logits[best]) {
				best = x
			}
		}
		if best < 0 {
			return r.errorf(t, "too few experts are left to replace those masked; a token requires %d", k)
		}
		chosen[i], weights[i] = best, 1
	}
	r.weigh(t, e, k)
	return nil
}

// Force returns a hook that sets the experts of all tokens at a layer: [K]
// different ones, first choice first. The weights are [K] numbers of at least 0,
// used as they are; nil: the softmax of the router logits of the experts.
func Force(layer int, experts []int, weights []float32) Hook {
	return at("Force", layer, experts, func(r *Routing, e, k int) error {
		switch {
		case len(experts) != k:
			return fmt.Errorf("Force: got %d experts, expected %d", len(experts), k)
		case weights != nil && len(weights) != k:
			return fmt.Errorf("Force: got %d weights, expected %d", len(weights), k)
		}
		for t := range r.Position {
			for i, x := range experts {
				r.Experts[t*k+i], r.Weights[t*k+i] = int32(x), 1
			}
			if weights != nil {
				copy(r.Weights[t*k:], weights)
			} else {
				r.weigh(t, e, k)
			}
		}
		return nil
	})
}

// Chain returns a hook that calls hooks in order, each with what the one before
// left, until one returns an error; nil is skipped. Weights are never renormalized
// in between.
func Chain(hooks ...Hook) Hook {
	return func(ctx context.Context, r *Routing) error {
		for _, h := range hooks {
			if h == nil {
				continue
			}
			if err := h(ctx, r); err != nil {
				return err
			}
		}
		return nil
	}
}

// at returns a hook that calls f at one layer, with E and K, once layer and
// experts are known to exist.
func at(name string, layer int, experts []int, f func(r *Routing, e, k int) error) Hook {
	return func(_ context.Context, r *Routing) error {
		if layer < 0 || layer >= r.Layers {
			return fmt.Errorf("%s: layer %d of %d", name, layer, r.Layers)
		}
		n := len(r.Position)
		if r.Layer != layer || n == 0 {
			return nil
		}
		e, k := len(r.Logits)/n, len(r.Experts)/n
		for _, x := range experts {
			if x < 0 || x >= e {
				return fmt.Errorf("%s: expert %d of %d", name, x, e)
			}
		}
		if r.gone == nil {
			r.gone = make([]bool, e)
		}
		for _, x := range experts {
			r.gone[x] = name != "Force"
		}
		return f(r, e, k)
	}
}

// weigh sets the weights of row t to the softmax of the selected experts' logits,
// without those whose weight is 0.
func (r *Routing) weigh(t, e, k int) {
	weights := r.Weights[t*k:][:k]
	var which []int
	var logits []float32
	for i, w := range weights {
		if w != 0 {
			which, logits = append(which, i), append(logits, r.Logits[t*e+int(r.Experts[t*k+i])])
		}
	}
	softmax(logits)
	for j, i := range which {
		weights[i] = logits[j]
	}
}

// normalize divides weights by their sum, and reports whether that is positive.
func normalize(weights []float32) bool {
	var sum float64
	for _, w := range weights {
		sum += float64(w)
	}
	for i, w := range weights {
		weights[i] = float32(float64(w) / sum)
	}
	return sum > 0
}
