package comparison

import (
	"math"
	"slices"
)

// Kind names a measure of a layer, or of a stack as the mean over its layers.
type Kind string

// The measures, f_e being an expert's share of all choices at a layer.
const (
	// Entropy is -sum f_e log f_e / log E, 1 for an even load.
	Entropy Kind = "entropy"
	// MaxOverMean is E max f_e, the load of the busiest expert by the mean load.
	MaxOverMean Kind = "max_over_mean"
	// Gini is the Gini coefficient of the load, 0 for an even one.
	Gini Kind = "gini"
	// Auxiliary is E sum f_e P_e, with P_e the mean of softmax(router logits), 1 for an
	// even load (Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, equation 4, without
	// its factor). For K > 1 f_e adds up to 1 over all choices.
	Auxiliary Kind = "auxiliary_loss"
	// TopProbability is the mean over tokens of the largest of softmax(router logits).
	TopProbability Kind = "top_probability"
	// Dropped is the share of tokens whose expert was full.
	Dropped Kind = "dropped"
	// Overflow1, Overflow125 and Overflow2 are the shares of choices that would be
	// dropped if each expert took at most 1, 1.25 or 2 times the mean load of the text,
	// and Overflow1Chance and so on what independent tokens would drop, more where a text
	// has few tokens an expert.
	Overflow1         Kind = "overflow_1"
	Overflow125       Kind = "overflow_1.25"
	Overflow2         Kind = "overflow_2"
	Overflow1Chance   Kind = "overflow_1_chance"
	Overflow125Chance Kind = "overflow_1.25_chance"
	Overflow2Chance   Kind = "overflow_2_chance"
	// Repetition is the share of tokens with the first choice of the token before;
	// RepetitionChance is sum f_e^2 of first choices, what independent tokens have, and
	// RepetitionLift the one by the other.
	Repetition       Kind = "repetition"
	RepetitionChance Kind = "repetition_chance"
	RepetitionLift   Kind = "repetition_lift"
	// WorkingSet is the number of experts that a text uses, WorkingShare its share of E,
	// and WorkingRelative the number by what as many independent choices would use.
	WorkingSet      Kind = "working_set"
	WorkingShare    Kind = "working_set_share"
	WorkingRelative Kind = "working_set_relative"
	// PrefixShare and PrefixRelative are the same of the first 32 tokens of texts that
	// have as many, so that their length does not matter.
	PrefixShare    Kind = "prefix_set_share"
	PrefixRelative Kind = "prefix_set_relative"

	// ExpertBits is H, the entropy of first choices, in bits.
	ExpertBits Kind = "expert_bits"
	// DomainBits, TokenBits and PreviousBits are the mutual information, in bits, of the
	// first choice with the document's data set, the token's id, and the first choice at
	// the layer before, less what chance gives, which is DomainChance and so on.
	// DomainShare and so on are the information by H.
	DomainBits     Kind = "domain_bits"
	DomainChance   Kind = "domain_chance_bits"
	DomainShare    Kind = "domain_share"
	TokenBits      Kind = "token_bits"
	TokenChance    Kind = "token_chance_bits"
	TokenShare     Kind = "token_share"
	PreviousBits   Kind = "previous_layer_bits"
	PreviousChance Kind = "previous_layer_chance_bits"
	PreviousShare  Kind = "previous_layer_share"
)

// sumKinds are the measures of a layerSums, in the order of its measures method.
var sumKinds = []Kind{Entropy, MaxOverMean, Gini, Auxiliary, TopProbability, Dropped, Overflow1, Overflow125, Overflow2,
	Overflow1Chance, Overflow125Chance, Overflow2Chance, Repetition, RepetitionChance, RepetitionLift, WorkingSet, WorkingShare, WorkingRelative, PrefixShare, PrefixRelative, ExpertBits}

// prefix is the number of tokens of PrefixShare.
const prefix = 32

// factors are the capacity factors of Overflow1 and its like.
var factors = [...]float64{1, 1.25, 2}

// absent is why a measure has no value.
func (k Kind) absent() string {
	switch k {
	case PrefixShare, PrefixRelative:
		return "shorter texts"
	case PreviousBits, PreviousChance, PreviousShare:
		return "no layer before"
	case Repetition, RepetitionLift:
		return "no token before"
	}
	return notRecorded
}

// bounds of a measure: its interval ends there.
func (k Kind) bounds() (low, high float64) {
	switch k {
	case Entropy, Gini, TopProbability, Dropped, Overflow1, Overflow125, Overflow2, Overflow1Chance, Overflow125Chance, Overflow2Chance, Repetition, RepetitionChance, WorkingShare, PrefixShare:
		return 0, 1
	case DomainBits, DomainShare, TokenBits, TokenShare, PreviousBits, PreviousShare:
		return math.Inf(-1), math.Inf(1) // chance is subtracted
	}
	return 0, math.Inf(1)
}

// Measure is a measure of each layer, [L], and its mean over those layers that have it.
type Measure struct {
	Mean   Value   `json:"mean"`
	Layers []Value `json:"layers"`
}

// layerSums are what documents add up to at one layer: a part of an array.
type layerSums struct {
	choices []float64 // [E] how often each was chosen, by any choice
	firsts  []float64 // [E] the same as the first choice
	probs   []float64 // [E] softmax(router logits), summed over tokens
	scalars []float64
}

// The scalars, by index.
const (
	sumTokens      = iota // with a choice
	sumLogits             // tokens with router logits
	sumTop                // the largest probabilities
	sumDropped            // dropped tokens
	sumPairs              // tokens after another
	sumRepeats            // of those, with its first choice
	sumTexts              // texts
	sumDistinct           // experts used, over texts
	sumExpected           // what independent choices would use
	sumPrefixTexts        // the same three of first tokens
	sumPrefixDistinct
	sumPrefixExpected
	sumOverflow       // of each of factors
	sumOverflowChance = sumOverflow + len(factors)
	scalars           = sumOverflowChance + len(factors)
)

// width is the length of a layer's sums.
func width(experts int) int { return 3*experts + scalars }

// at returns the sums of layer l in x, [L,width].
func at(x []float64, l, experts int) layerSums {
	x = x[l*width(experts):][:width(experts)]
	return layerSums{x[:experts], x[experts : 2*experts], x[2*experts : 3*experts], x[3*experts:]}
}

// measures appends the values of sumKinds. drops says whether they are recorded.
func (s layerSums) measures(out []float64, drops bool, scratch []float64) []float64 {
	n := float64(len(s.choices))
	choices, firsts := sum(s.choices), sum(s.firsts)
	largest, auxiliary, chance := 0.0, 0.0, 0.0
	for e, c := range s.choices {
		largest = math.Max(largest, c)
		auxiliary += c * s.probs[e]
		chance += s.firsts[e] * s.firsts[e]
	}
	x := s.scalars
	tokens := x[sumTokens]
	bits := entropy(s.choices)
	even := math.Log2(n)
	if n == 1 {
		bits, even = 1, 1
	}
	dropped := math.NaN()
	if drops {
		dropped = x[sumDropped] / tokens
	}
	chance /= firsts * firsts
	repeats := x[sumRepeats] / x[sumPairs]
	out = append(out, bits/even, n*largest/choices, gini(s.choices, scratch), n*auxiliary/choices/x[sumLogits], x[sumTop]/x[sumLogits], dropped)
	for i := range 2 * len(factors) {
		out = append(out, x[sumOverflow+i]/choices)
	}
	return append(out, repeats, chance, repeats/chance,
		x[sumDistinct]/x[sumTexts], x[sumDistinct]/x[sumTexts]/n, x[sumDistinct]/x[sumExpected],
		x[sumPrefixDistinct]/x[sumPrefixTexts]/n, x[sumPrefixDistinct]/x[sumPrefixExpected], entropy(s.firsts))
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// entropy returns the entropy in bits of what counts are proportional to, NaN for none.
func entropy(counts []float64) float64 {
	total := sum(counts)
	if total <= 0 {
		return math.NaN()
	}
	h := 0.0
	for _, c := range counts {
		if c > 0 {
			h -= c / total * math.Log2(c/total)
		}
	}
	return h
}

// gini returns the Gini coefficient of counts; see package trace.
func gini(counts, scratch []float64) float64 {
	scratch = append(scratch[:0], counts...)
	slices.Sort(scratch)
	n := float64(len(scratch))
	weighted, total := 0.0, 0.0
	for i, c := range scratch {
		weighted += (2*float64(i+1) - n - 1) * c
		total += c
	}
	return weighted / (n * total)
}
