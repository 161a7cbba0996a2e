// Package prob converts between probabilities, log odds and router logits, and
// ranks experts, for package speculate and its subpackages.
package prob

import "math"

// Rank writes the experts 0..E-1 by descending score to order, [E]. Ties go to
// the lower number, and NaN is below all numbers.
func Rank(scores []float32, order []int32) {
	for i := range order {
		j := i
		s := scores[i]
		for j > 0 && less(scores[order[j-1]], s) {
			order[j] = order[j-1]
			j--
		}
		order[j] = int32(i)
	}
}

func less(a, b float32) bool { return a < b || a != a && b == b }

// Sigmoid is 1/(1+e^-x).
func Sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// Of returns the probability of log odds x. Beyond 8 in size these are bent, so
// that large ones keep their order in float32 instead of rounding to 1.
func Of(x float64) float32 {
	if a := math.Abs(x); a > 8 {
		x = math.Copysign(8+math.Log1p(a-8), x)
	}
	return float32(Sigmoid(x))
}

// LogOdds is log(p/(1-p)), for p bounded to [1e-7, 1-5e-8].
func LogOdds(p float32) float64 {
	q := min(max(float64(p), 1e-7), 1-5e-8)
	return math.Log(q / (1 - q))
}

// ToLogOdds writes the log odds of probs to odds, which may be the same slice.
func ToLogOdds(probs, odds []float32) {
	for i, p := range probs {
		odds[i] = float32(LogOdds(p))
	}
}

// FromLogOdds replaces log odds by their probabilities.
func FromLogOdds(z []float32) {
	for i, x := range z {
		z[i] = Of(float64(x))
	}
}

// FromLogits replaces router logits, [E], by probabilities of being among the k
// chosen: the logistic function of the logit less a threshold, such that the
// probabilities add up to k. The order remains.
func FromLogits(z []float32, k int) {
	if k >= len(z) {
		for i := range z {
			z[i] = 1
		}
		return
	}
	lo, hi := float64(z[0]), float64(z[0])
	for _, x := range z {
		lo, hi = min(lo, float64(x)), max(hi, float64(x))
	}
	lo, hi = lo-20, hi+20
	c := (lo + hi) / 2
	for range 30 { // Newton's method, within a bracket that shrinks
		sum, slope := -float64(k), 0.0
		for _, x := range z {
			q := Sigmoid(float64(x) - c)
			sum += q
			slope += q * (1 - q)
		}
		if math.Abs(sum) < 1e-6 {
			break
		}
		if sum > 0 {
			lo = c
		} else {
			hi = c
		}
		if c += sum / slope; !(c > lo && c < hi) {
			c = (lo + hi) / 2
		}
	}
	for i, x := range z {
		z[i] = Of(float64(x) - c)
	}
}
