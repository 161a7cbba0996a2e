package comparison

import "math"

// chance computes the mutual information that two variables of given counts have on
// average over all permutations of the one among the other, in bits (Vinh, Epps and
// Bailey 2010, equation 24a).
type chance struct {
	counts []float64 // of the one, those above 0
	n      float64
	memo   map[float64]float64
}

func newChance(counts []float64) *chance {
	c := &chance{memo: map[float64]float64{}}
	for _, x := range counts {
		if x > 0 {
			c.counts = append(c.counts, x)
		}
		c.n += x
	}
	return c
}

// of returns what a value of the other variable that occurs a times adds.
func (c *chance) of(a float64) float64 {
	if v, ok := c.memo[a]; ok {
		return v
	}
	total := 0.0
	for _, b := range c.counts {
		total += c.pair(a, b)
	}
	c.memo[a] = total
	return total
}

// pair returns the sum over x of P(x) x/n log2(n x / (a b)), where x, of the a the
// number that falls on b of n, is hypergeometric.
func (c *chance) pair(a, b float64) float64 {
	n := c.n
	low, high := math.Max(0, a+b-n), math.Min(a, b)
	mode := math.Min(math.Max(math.Floor((a+1)*(b+1)/(n+2)), low), high)
	p := math.Exp(logChoose(b, mode) + logChoose(n-b, a-mode) - logChoose(n, a))
	term := func(x, p float64) float64 {
		if x == 0 {
			return 0
		}
		return p * x / n * math.Log2(n*x/(a*b))
	}
	const negligible = 1e-18
	total := term(mode, p)
	for x, q := mode, p; x < high && q > negligible; x++ {
		q *= (a - x) * (b - x) / ((x + 1) * (n - a - b + x + 1))
		total += term(x+1, q)
	}
	for x, q := mode, p; x > low && q > negligible; x-- {
		q *= x * (n - a - b + x) / ((a - x + 1) * (b - x + 1))
		total += term(x-1, q)
	}
	return total
}

// logChoose returns ln C(n, k).
func logChoose(n, k float64) float64 {
	a, _ := math.Lgamma(n + 1)
	b, _ := math.Lgamma(k + 1)
	c, _ := math.Lgamma(n - k + 1)
	return a - b - c
}
