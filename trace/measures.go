package trace

import (
	"math"
	"slices"
)

// Entropy returns the Shannon entropy -sum p_i log2 p_i, in bits, of the
// distribution p that the weights are proportional to. It is at most log2 of
// their number, for equal weights, and 0 if all are 0.
func Entropy[N ~int | ~int64 | ~float32 | ~float64](weights []N) float64 {
	var total float64
	for _, w := range weights {
		total += float64(w)
	}
	var h float64
	for _, w := range weights {
		if p := float64(w) / total; p > 0 {
			h -= p * math.Log2(p)
		}
	}
	return h
}

// normalizedEntropy returns Entropy as a fraction of its maximum, from 0 (one
// expert has all) to 1 (all have the same). For fewer than two counts it is 1.
func normalizedEntropy(counts []int64) float64 {
	if len(counts) < 2 {
		return 1
	}
	return Entropy(counts) / math.Log2(float64(len(counts)))
}

// gini returns the Gini coefficient of n counts, half the relative mean absolute
// difference (Gini 1912): with x ascending, sum (2i-n-1) x_i / (n sum x_i) for
// i = 1..n. It is 0 for equal counts and (n-1)/n where one has all.
func gini(counts []int64) float64 {
	x := slices.Clone(counts)
	slices.Sort(x)
	n := float64(len(x))
	var weighted, total float64
	for i, c := range x {
		weighted += (2*float64(i+1) - n - 1) * float64(c)
		total += float64(c)
	}
	if total == 0 {
		return 0
	}
	return weighted / (n * total)
}

// cv returns the coefficient of variation: the standard deviation of the
// counts (of the population, over n) by their mean. Its square is the
// importance loss of Shazeer et al. 2017 (arXiv 1701.06538, equation 7). For n
// experts of which one has all it is sqrt(n-1).
func cv(counts []int64) float64 {
	var total float64
	for _, c := range counts {
		total += float64(c)
	}
	if total == 0 {
		return 0
	}
	mean := total / float64(len(counts))
	var square float64
	for _, c := range counts {
		square += (float64(c) - mean) * (float64(c) - mean)
	}
	return math.Sqrt(square/float64(len(counts))) / mean
}

// mutualInformation returns the mutual information of the two variables whose
// joint distribution the counts are proportional to, in bits:
// sum p_ij log2(p_ij / (p_i p_j)). counts is [rows,columns], row-major. It is
// the plug-in estimate, which for N independent observations is too large by
// about (rows-1)(columns-1)/(2 N ln 2) bits (Miller 1955).
func mutualInformation(counts []int64, columns int) float64 {
	if columns < 1 || len(counts) < columns {
		return 0
	}
	rows := make([]float64, len(counts)/columns)
	cols := make([]float64, columns)
	var total float64
	for i, c := range counts[:len(rows)*columns] {
		rows[i/columns] += float64(c)
		cols[i%columns] += float64(c)
		total += float64(c)
	}
	var mi float64
	for i, c := range counts[:len(rows)*columns] {
		if v := float64(c); v > 0 {
			mi += v / total * math.Log2(v*total/(rows[i/columns]*cols[i%columns]))
		}
	}
	return max(mi, 0) // rounding may fall just below
}

// randomRepeat returns the probability that two random choices of k among n
// experts have one in common, 1 - C(n-k,k)/C(n,k). For k = 1 it is 1/n: 12.5 %
// of 8 experts; for 2 of 8 it is 46.4 %, the baseline of Table 5 of the Mixtral
// paper (arXiv 2401.04088).
func randomRepeat(n, k int) float64 {
	if k < 1 || n < 1 {
		return 0
	}
	none := 1.0
	for i := range k {
		none *= max(0, float64(n-k-i)) / float64(n-i)
		if n-i <= 1 {
			break
		}
	}
	return 1 - none
}

// softmaxEntropy returns the entropy of softmax(logits) in bits.
func softmaxEntropy(logits []float32) float64 {
	if len(logits) == 0 {
		return 0
	}
	top := float64(slices.Max(logits))
	var z, weighted float64
	for _, x := range logits {
		d := float64(x) - top
		e := math.Exp(d)
		z += e
		weighted += e * d
	}
	// -sum p (d - ln z) with p = e^d/z
	return max(0, (math.Log(z)-weighted/z)/math.Ln2)
}
