package trace_test

import (
	"fmt"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// A planted trace has routing that is a formula of its place, and a different
// size on every axis, so that any exchange of axes or rows is noticed. The
// formulas are those of testdata/read_trace.py.
const (
	plantedL = 5
	plantedE = 11
	plantedK = 3
	plantedD = 7
	plantedV = 1000
)

func plantedHeader() trace.Header {
	return trace.Header{
		Model: trace.Model{Name: "planted", Layers: plantedL, Experts: plantedE, TopK: plantedK,
			Hidden: plantedD, Vocabulary: plantedV,
			Stacks: []trace.Stack{{Name: "decoder", Layers: plantedL}}},
		Source:      trace.Source{Program: "test", Seed: 13},
		LogitLayers: []int{0, 2, 3, 4},
		InputLayers: []int{1, 4},
	}
}

func plantedExpert(doc, t, l, k int) int32 {
	return int32((3*doc + 5*t + 2*l + 4*k) % plantedE) // 4k differs for k < 11
}

func plantedWeight(doc, t, l, k int) float32 {
	return float32(1+(doc+t+l)%3+2*(plantedK-k)) / 32
}

func plantedLogit(doc, t, l, e int) float32 {
	return float32((doc*7+t*13+l*17+e*19)%64) / 8
}

func plantedInput(doc, t, l, i int) float32 {
	return float32((doc*5+t*3+l*29+i*31)%256)/16 - 8
}

func plantedToken(doc, t int) int32 { return int32((doc*37 + t*11) % plantedV) }

// plantedDocument makes the doc-th document of T tokens.
func plantedDocument(doc, tokens int, h trace.Header) *trace.Document {
	r := tracetest.Router{Header: h, Rule: func(s *tracetest.Step) {
		for k := range plantedK {
			s.Experts = append(s.Experts, plantedExpert(doc, s.Position, s.Layer, k))
		}
		for e := range s.Logits {
			s.Logits[e] = plantedLogit(doc, s.Position, s.Layer, e)
		}
		for i := range s.Input {
			s.Input[i] = plantedInput(doc, s.Position, s.Layer, i)
		}
	}}
	if doc%3 == 1 { // generated from the prompt's half on
		r.Prompt = tokens / 2
	}
	ids := make([]int32, tokens)
	for t := range ids {
		ids[t] = plantedToken(doc, t)
	}
	d := r.Document(fmt.Sprintf("set-%d", doc/4), fmt.Sprintf("doc-%03d", doc), ids)
	for i := range d.Weights {
		d.Weights[i] = plantedWeight(doc, i/plantedK/plantedL, i/plantedK%plantedL, i%plantedK)
	}
	if doc%5 == 2 { // a window of a longer text
		for t := range ids {
			d.Positions = append(d.Positions, int32(100+2*t))
		}
	}
	return d
}

// plantedLen returns different lengths.
func plantedLen(doc int) int { return 1 + (doc*doc*7+doc*3)%41 }
