// Package generate chooses tokens by their logits.
package generate

import (
	"math"
	"math/rand/v2"
	"sort"
)

// Sampler chooses tokens.
type Sampler struct {
	temperature, topP float64
	rng               *rand.Rand
	order             []int
	probs             []float64
}

// NewSampler returns a sampler of logits that are divided by temperature (0: always
// the largest), among the most probable tokens whose probabilities add up to topP (0
// and 1: all).
func NewSampler(temperature, topP float64, seed uint64) *Sampler {
	return &Sampler{temperature: temperature, topP: topP, rng: rand.New(rand.NewPCG(seed, 0x6578706572747370))}
}

// Choose returns the next token's id. logits: [V].
func (s *Sampler) Choose(logits []float32) int32 {
	best := 0
	for i, x := range logits {
		if x > logits[best] {
			best = i
		}
	}
	if s.temperature == 0 {
		return int32(best)
	}
	if s.order == nil {
		s.order, s.probs = make([]int, len(logits)), make([]float64, len(logits))
	}
	var sum float64
	for i, x := range logits {
		s.order[i] = i
		s.probs[i] = math.Exp((float64(x) - float64(logits[best])) / s.temperature)
		sum += s.probs[i]
	}
	keep := s.order
	if s.topP > 0 && s.topP < 1 {
		sort.SliceStable(s.order, func(i, j int) bool { return s.probs[s.order[i]] > s.probs[s.order[j]] })
		var mass float64
		for i, id := range s.order {
			if mass += s.probs[id]; mass >= s.topP*sum {
				keep, sum = s.order[:i+1], mass
				break
			}
		}
	}
	at := s.rng.Float64() * sum
	for _, id := range keep {
		if at -= s.probs[id]; at < 0 {
			return int32(id)
		}
	}
	return int32(keep[len(keep)-1])
}
