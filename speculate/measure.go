package speculate

import "math"

// MaxRank is the largest k of recall@k and precision@k.
const MaxRank = 8

// eceBins is the number of equal-width confidence bins of the ECE.
const eceBins = 15

// The sums that a tally keeps, by index; recall and hits follow each other.
const (
	sumTop1 = iota
	sumTopAny
	sumExact
	sumAny
	sumBits                         // -log2 of the first choice's share of the scores
	sumRecall                       // MaxRank sums of |top-k and chosen| / |chosen|
	sumHits   = sumRecall + MaxRank // MaxRank sums of |top-k and chosen|
	sums      = sumHits + MaxRank
)

// tally sums the measures over (token, layer) pairs.
type tally struct {
	n   float64
	sum [sums]float64
	// budget sums |top-k and chosen| / |chosen| for the k of budgets.
	budget [4]float64
	// bins of confidence in each of the K named experts: how many, the sum of
	// confidence, and how many were chosen.
	bin [eceBins][3]float64
}

func (a *tally) add(b *tally) {
	a.n += b.n
	for i, x := range b.sum {
		a.sum[i] += x
	}
	for i, x := range b.budget {
		a.budget[i] += x
	}
	for i := range b.bin {
		for j, x := range b.bin[i] {
			a.bin[i][j] += x
		}
	}
}

// observe adds one prediction: scores [E], their order [E], and the experts
// chosen, [K]. A pair without chosen experts is omitted.
func (a *tally) observe(scores []float32, order, actual []int32) {
	k := 0
	for _, e := range actual {
		if e >= 0 {
			k++
		}
	}
	if k == 0 {
		return
	}
	a.n++
	if f := first(actual); f >= 0 {
		total := 0.0
		for _, p := range scores {
			total += float64(p)
		}
		share := 1e-6
		if total > 0 {
			share = max(float64(scores[f])/total, share)
		}
		a.sum[sumBits] -= math.Log2(share)
	}
	if order[0] == actual[0] {
		a.sum[sumTop1]++
	}
	hits, named := 0, 0
	for i := range max(MaxRank, k) {
		if i < len(order) {
			hit := place(actual, order[i]) < len(actual)
			if hit {
				hits++
			}
			if i == 0 && hit {
				a.sum[sumTopAny]++
			}
			if i < k {
				b := &a.bin[min(max(int(scores[order[i]]*eceBins), 0), eceBins-1)]
				b[0]++
				b[1] += float64(scores[order[i]])
				if hit {
					b[2]++
					named++
				}
			}
		}
		if i < MaxRank {
			a.sum[sumRecall+i] += float64(hits) / float64(k)
			a.sum[sumHits+i] += float64(hits)
		}
	}
	if named == k {
		a.sum[sumExact]++
	}
	if named > 0 {
		a.sum[sumAny]++
	}
	for i, n := range budgets(len(order)) {
		hits := 0
		for _, e := range order[:n] {
			if place(actual, e) < len(actual) {
				hits++
			}
		}
		a.budget[i] += float64(hits) / float64(k)
	}
}

// budgets are a sixteenth, an eighth, a quarter and half of the experts, rounded
// up; nil where half of them are among the ranks of Metrics.Recall.
func budgets(experts int) []int {
	if experts <= 2*MaxRank {
		return nil
	}
	return []int{(experts + 15) / 16, (experts + 7) / 8, (experts + 3) / 4, (experts + 1) / 2}
}

// Budget is the recall at a number of experts.
type Budget struct {
	Experts int     `json:"experts"`
	Recall  float64 `json:"recall"`
}

// Metrics are means over pairs of token and layer, each in [0,1] except Bits.
type Metrics struct {
	// Pairs is the number of pairs.
	Pairs int64 `json:"pairs"`
	// Top1 is the share of pairs where the likeliest expert is the first choice;
	// TopAny, where it is among those chosen.
	Top1   float64 `json:"top1"`
	TopAny float64 `json:"top_any"`
	// Recall at k = 1..8 is the share of the chosen experts that are among the k
	// likeliest; Precision, the share of the k likeliest that are chosen.
	Recall    [MaxRank]float64 `json:"recall"`
	Precision [MaxRank]float64 `json:"precision"`
	// Exact is the share of pairs where the K likeliest are those chosen;
	// AtLeastOne, where at least one of them is.
	Exact      float64 `json:"exact"`
	AtLeastOne float64 `json:"at_least_one"`
	// ECE is the expected calibration error of the confidence in each of the K
	// likeliest (Naeini, Cooper and Hauskrecht 2015), 15 bins of equal width.
	ECE float64 `json:"ece"`
	// Bits is the cross-entropy, in bits, of the first choice under the confidences
	// scaled to a sum of 1; at most 20 a pair. TopBound is the top-1 accuracy that
	// it allows by Fano's inequality (Cover and Thomas 2006, theorem 2.10.1).
	Bits     float64 `json:"bits"`
	TopBound float64 `json:"top1_bound"`
	// Budgets are the recall at a sixteenth, an eighth, a quarter and half of more
	// than 16 experts, rounded up; see [Metrics.RecallAt].
	Budgets []Budget `json:"budgets,omitempty"`
}

// RecallAt returns the recall at k experts, and false for a k that is neither one of
// Recall's nor of Budgets.
func (m *Metrics) RecallAt(k int) (float64, bool) {
	if k >= 1 && k <= MaxRank {
		return m.Recall[k-1], true
	}
	for _, b := range m.Budgets {
		if b.Experts == k {
			return b.Recall, true
		}
	}
	return 0, false
}

func (a *tally) metrics(experts int) Metrics {
	m := Metrics{Pairs: int64(a.n)}
	if a.n == 0 {
		return m
	}
	m.Top1, m.TopAny, m.Exact, m.AtLeastOne = a.sum[sumTop1]/a.n, a.sum[sumTopAny]/a.n, a.sum[sumExact]/a.n, a.sum[sumAny]/a.n
	for k := range MaxRank {
		m.Recall[k] = a.sum[sumRecall+k] / a.n
		m.Precision[k] = a.sum[sumHits+k] / a.n / float64(k+1)
	}
	var all, gap float64
	for _, b := range a.bin {
		all += b[0]
		gap += max(b[1]-b[2], b[2]-b[1])
	}
	for i, n := range budgets(experts) {
		m.Budgets = append(m.Budgets, Budget{n, a.budget[i] / a.n})
	}
	m.ECE = gap / all
	m.Bits = a.sum[sumBits] / a.n
	m.TopBound = fanoAccuracy(m.Bits, experts)
	return m
}
