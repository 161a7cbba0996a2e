package speculate

import (
	"math/rand/v2"
	"slices"
)

// maxResampled is the number of sums that are resampled. Of more documents, several
// of a data set are one sum, so that memory is bounded. The interval of one data set
// is about as wide; one over data sets of different recall is wider.
const maxResampled = 4096

// resampled are the sums of documents, in their order, or of groups of them.
type resampled struct {
	sums  []docSum
	group int            // documents of a sum, at most
	limit int            // sums
	last  map[string]int // by data set, the index of its last sum
}

// docSum is what the resampling needs of one document, or of several of a data set.
type docSum struct {
	dataset string
	docs    int
	n       []float64 // [H*P]
	recall  []float64 // [H*P], sum of recall@K
	ln, lr  []float64 // [H*P*L], the same by layer
}

func (r *resampled) add(d docSum) {
	if r.last == nil {
		r.group, r.limit, r.last = 1, maxResampled, map[string]int{}
	}
	if r.put(d); len(r.sums) <= r.limit {
		return
	}
	all := r.sums
	r.group *= 2
	r.sums = all[:0]
	clear(r.last)
	for _, x := range all {
		r.put(x)
	}
	clear(all[len(r.sums):])
	r.limit = max(maxResampled, len(r.sums)+maxResampled/4) // there may be as many data sets
}

// put adds d to the last sum of its data set, or as a sum of its own.
func (r *resampled) put(d docSum) {
	if i, ok := r.last[d.dataset]; ok && r.sums[i].takes(&d, r.group) {
		return
	}
	r.last[d.dataset] = len(r.sums)
	r.sums = append(r.sums, d)
}

// takes adds o to d, and reports false where d would be of more than group
// documents or of two data sets.
func (d *docSum) takes(o *docSum, group int) bool {
	if d.dataset != o.dataset || d.docs+o.docs > group {
		return false
	}
	d.docs += o.docs
	for i, dst := range [][]float64{d.n, d.recall, d.ln, d.lr} {
		for j, v := range [][]float64{o.n, o.recall, o.ln, o.lr}[i] {
			dst[j] += v
		}
	}
	return true
}

// resample returns n draws, each the number of times that each of docs
// documents is drawn in docs draws with replacement (Efron 1979).
func resample(docs, n int, seed uint64) [][]float64 {
	rng := rand.New(rand.NewPCG(seed, 0x5bd1e995))
	w := rows[float64](n, docs)
	for _, r := range w {
		for range docs {
			r[rng.IntN(docs)]++
		}
	}
	return w
}

// interval returns the percentiles of sum(w*num)/sum(w*den) over draws w.
func interval(draws [][]float64, num, den func(doc int) float64) *Interval {
	vals := make([]float64, 0, len(draws))
	for _, w := range draws {
		var a, b float64
		for i, x := range w {
			if x != 0 {
				a += x * num(i)
				b += x * den(i)
			}
		}
		if b > 0 {
			vals = append(vals, a/b)
		}
	}
	if len(vals) < 40 {
		return nil
	}
	slices.Sort(vals)
	at := func(q float64) float64 { return vals[min(int(q*float64(len(vals))), len(vals)-1)] }
	return &Interval{Low: at(.025), High: at(.975)}
}
