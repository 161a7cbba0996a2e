package comparison_test

import (
	"context"
	"fmt"
	"log"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// Two models route the same texts: one by the token's id, the
// other at random. trace.Open and speculate.FromReader give the Data of traces on disk.
func ExampleCompare() {
	subject := func(name string, topK, experts int, rule func(*tracetest.Step)) comparison.Subject {
		m := trace.Model{Name: name, Layers: 3, Experts: experts, TopK: topK, Vocabulary: 50}
		r := tracetest.Router{Header: trace.Header{Model: m}, Rule: rule}
		return comparison.Subject{Data: speculate.Slice(r.Header, r.Documents(40, 100, 1))}
	}
	byToken := tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{s.Token % 8, (s.Token + 1) % 8} })
	r, err := comparison.Compare(context.Background(), comparison.Options{}, subject("by token", 2, 8, byToken), subject("at random", 1, 16, tracetest.Random(1)))
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range r.Columns {
		fmt.Printf("%s: top-%d of %d, entropy %.2f, the token says %.1f of %.1f bits\n", c.Name, c.TopK, c.Experts,
			c.Measures[comparison.Entropy].Mean.Value, c.Measures[comparison.TokenBits].Mean.Value, c.Measures[comparison.ExpertBits].Mean.Value)
	}
	// Output:
	// by token: top-2 of 8, entropy 1.00, the token says 2.9 of 3.0 bits
	// at random: top-1 of 16, entropy 1.00, the token says 0.0 of 4.0 bits
}
