package speculate

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// FanoAccuracy returns the largest top-1 accuracy that a conditional entropy of
// bits over n experts allows: 1-e for the smallest e with
// h2(e) + e log2(n-1) >= bits, by Fano's inequality (Cover and Thomas 2006,
// theorem 2.10.1). With a held-out cross-entropy in place of the entropy, which
// is at least as large, it bounds not every predictor but those that know no
// more than the one whose cross-entropy it is. (2^-bits bounds nothing: it is
// the geometric mean of the probability of what was chosen.)
func FanoAccuracy(bits float64, n int) float64 {
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

// ParseFractions reads the shares of validation and test documents, as ".15,.15".
func ParseFractions(s string) (Fractions, error) {
	valid, test, ok := strings.Cut(s, ",")
	v, err := strconv.ParseFloat(strings.TrimSpace(valid), 64)
	t, err2 := strconv.ParseFloat(strings.TrimSpace(test), 64)
	if !ok || err != nil || err2 != nil || !(v > 0 && t > 0 && v+t < 1) {
		return Fractions{}, fmt.Errorf("speculate: split %q: want the shares of validation and of test documents, as .15,.15", s)
	}
	return Fractions{Valid: v, Test: t}, nil
}

// LeaveOut returns parts for judging on a data set that nothing was fitted or
// chosen on: Train and Valid without it, Test of it alone.
func LeaveOut(p Parts, dataset string) Parts {
	others := func(d Data) Data { return d.Filter(func(doc *trace.Document) bool { return doc.Dataset != dataset }) }
	return Parts{Train: others(p.Train), Valid: others(p.Valid),
		Test: p.Test.Filter(func(doc *trace.Document) bool { return doc.Dataset == dataset })}
}

// Datasets returns the names of d's data sets in alphabetical order. It reads
// all documents once.
func Datasets(d Data) ([]string, error) {
	seen := map[string]bool{}
	for doc, err := range d.Documents() {
		if err != nil {
			return nil, err
		}
		seen[doc.Dataset] = true
	}
	return sortedKeys(seen), nil
}
