package speculate

import "math"

// fanoAccuracy returns the largest top-1 accuracy that a conditional entropy of
// bits over n experts allows: 1-e for the smallest e with
// h2(e) + e log2(n-1) >= bits, by Fano's inequality (Cover and Thomas 2006,
// theorem 2.10.1). With a held-out cross-entropy in place of the entropy, which
// is at least as large, it bounds not every predictor but those that know no
// more than the one whose cross-entropy it is. (2^-bits bounds nothing: it is
// the geometric mean of the probability of what was chosen.)
func fanoAccuracy(bits float64, n int) float64 {
	if n < 2 || bits <= 0 {
		return 1
	}
	top := 1 - 1/float64(n)
	value := func(e float64) float64 {
		h := e * math.Log2(float64(n-1))
		for _, p := range []float64{e, 1 - e} {
			if p > 0 {
				h -= p * math.Log2(p)
			}
		}
		return h
	}
	if bits >= value(top) {
		return 1 - top
	}
	lo, hi := 0.0, top // value rises from 0 to log2(n)
	for range 60 {
		if e := (lo + hi) / 2; value(e) < bits {
			lo = e
		} else {
			hi = e
		}
	}
	return 1 - lo
}
