package speculate

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestResampled sums more documents than are resampled one by one. No sum is lost or
// of two data sets, their number is bounded, and the interval is about as wide as
// that of the documents.
func TestResampled(t *testing.T) {
	const n = 5*maxResampled + 17
	sets := []string{"a", "b", "c"}
	rng := rand.New(rand.NewPCG(1, 2))
	r := &resampled{}
	var all []docSum
	var want [3][2]float64
	for i := range n {
		set := i % 7 % 3
		tokens := float64(10 + rng.IntN(50))
		d := docSum{dataset: sets[set], docs: 1, n: []float64{tokens}, recall: []float64{tokens * rng.Float64()}, ln: []float64{tokens, 1}, lr: []float64{0, 2}}
		want[set][0], want[set][1] = want[set][0]+tokens, want[set][1]+d.recall[0]
		all = append(all, docSum{n: []float64{tokens}, recall: []float64{d.recall[0]}})
		r.add(d)
		require.LessOrEqual(t, len(r.sums), maxResampled)
		if i < maxResampled {
			require.Len(t, r.sums, i+1, "a document is a sum where there are few")
		}
	}
	var got [3][2]float64
	docs, last := 0, 0.0
	for _, d := range r.sums {
		set := int(d.dataset[0] - 'a')
		got[set][0], got[set][1] = got[set][0]+d.n[0], got[set][1]+d.recall[0]
		docs += d.docs
		last += d.lr[1]
	}
	assert.Equal(t, n, docs)
	assert.Equal(t, float64(2*n), last)
	for set := range want {
		assert.InEpsilonSlice(t, want[set][:], got[set][:], 1e-9)
	}
	width := func(sums []docSum) float64 {
		iv := interval(resample(len(sums), 400, 3), func(d int) float64 { return sums[d].recall[0] }, func(d int) float64 { return sums[d].n[0] })
		return iv.High - iv.Low
	}
	assert.InEpsilon(t, width(all), width(r.sums), .2)

	r = &resampled{}
	most := 0
	for i := range 100 * maxResampled {
		r.add(docSum{dataset: sets[i%2], docs: 1, n: []float64{1}})
		most = max(most, len(r.sums))
	}
	assert.LessOrEqual(t, most, maxResampled)
	assert.Greater(t, len(r.sums), maxResampled/3, "of alternating data sets")

	r = &resampled{} // of more data sets than sums
	for i := range maxResampled + 100 {
		r.add(docSum{dataset: string(rune('!' + i)), docs: 1, n: []float64{1}})
	}
	assert.Len(t, r.sums, maxResampled+100)
}
