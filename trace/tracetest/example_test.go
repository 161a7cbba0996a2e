package tracetest_test

import (
	"fmt"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// A router of two layers, whose second layer always chooses the expert after
// that of the first, is what a test of a predictor may start from.
func Example() {
	router := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Name: "tiny", Layers: 2, Experts: 4, TopK: 1, Vocabulary: 100}},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{(s.Token + int32(s.Layer)) % 4}
		}),
	}
	model := &router.Header.Model
	right, all := 0, 0
	for _, doc := range router.Documents(10, 20, 1) {
		for t := range doc.Tokens {
			predicted := (doc.ExpertsAt(model, t, 0)[0] + 1) % 4
			if predicted == doc.ExpertsAt(model, t, 1)[0] {
				right++
			}
			all++
		}
	}
	fmt.Println(right, "of", all)
	// Output: 213 of 213
}
