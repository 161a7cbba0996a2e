// Package tracetest makes small traces for unit tests: documents whose routing
// is a known function of token, position and layer, and random documents.
//
// A [Router] takes the place of a model. It has the shape of its Header, of any
// size, and a rule instead of weights: [Choose] plants experts, [Linear] applies
// random gates to hidden states, [Random] draws independently. Everything
// depends on arguments and seeds alone.
//
// Axis letters are those of package trace: T tokens, L layers, E experts, K
// experts per token, D hidden size, V vocabulary.
package tracetest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// Router routes tokens by a rule.
type Router struct {
	// Header is the shape of the model. Documents record the router logits of
	// LogitLayers, the router inputs of InputLayers, and weights unless NoWeights.
	Header trace.Header
	// Rule makes the decision of one token at one layer. It is called for each
	// token of a document in turn, layer by layer.
	Rule func(*Step)
	// Prompt is the number of tokens of a document that are marked as prefill.
	// Later tokens are marked as decode. 0 marks all tokens as prefill.
	Prompt int
}

// Step is the decision of one token at one layer.
type Step struct {
	Document string // its id
	Token    int32  // its id
	Position int
	Layer    int
	// Input is the router input, [D]. The rule is called with that of the layer
	// before; at layer 0 it is zero.
	Input []float32
	// Logits are the router logits, [E]. The rule is called with zeros.
	Logits []float32
	// Experts are the chosen experts in order, at most K; nil chooses the largest
	// logits, the lower number first among equal ones.
	Experts []int32
}

// Choose returns a rule by which f's experts are chosen, in its order. Their
// logits are K, K-1 and so on, those of other experts 0.
func Choose(f func(s *Step) []int32) func(*Step) {
	return func(s *Step) {
		s.Experts = append([]int32{}, f(s)...)
		for k, e := range s.Experts {
			if e >= 0 && int(e) < len(s.Logits) {
				s.Logits[e] = float32(len(s.Experts) - k)
			}
		}
	}
}

// Random returns a rule with independent normal logits.
func Random(seed uint64) func(*Step) {
	return func(s *Step) {
		rng := s.rand(seed)
		for i := range s.Input {
			s.Input[i] = float32(rng.NormFloat64())
		}
		for e := range s.Logits {
			s.Logits[e] = float32(2 * rng.NormFloat64())
		}
	}
}

// Linear returns a rule like that of a transformer, for a model with a hidden
// size, and its gates, [L,E,D]. The router input starts as an embedding of the
// token, and each layer adds a third as much noise. The logits are the layer's
// gate times the input.
func Linear(m trace.Model, seed uint64) (rule func(*Step), gates []float32) {
	gates = make([]float32, m.Layers*m.Experts*m.Hidden)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range gates {
		gates[i] = float32(rng.NormFloat64())
	}
	return func(s *Step) {
		scale := float32(1. / 3)
		rng := s.rand(seed)
		if s.Layer == 0 {
			scale = 1
			rng = rand.New(rand.NewPCG(seed, uint64(s.Token)+2))
		}
		for i := range s.Input {
			s.Input[i] += scale * float32(rng.NormFloat64())
		}
		for e := range s.Logits {
			gate := gates[(s.Layer*m.Experts+e)*m.Hidden:][:m.Hidden]
			for i, x := range s.Input {
				s.Logits[e] += gate[i] * x
			}
		}
	}, gates
}

// rand returns random numbers of its own for each step.
func (s *Step) rand(seed uint64) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(s.Document))
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], uint64(s.Position))
	binary.LittleEndian.PutUint32(b[8:], uint32(s.Layer))
	h.Write(b[:])
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// Documents returns n documents of the data sets "a" and "b", alternately, with
// random token ids. Document i has tokens+i%4 tokens and the id "doc-000",
// "doc-001" and so on.
func (r *Router) Documents(n, tokens int, seed uint64) []*trace.Document {
	v := r.Header.Model.Vocabulary
	if v == 0 {
		v = 256
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	docs := make([]*trace.Document, n)
	for i := range docs {
		ids := make([]int32, tokens+i%4)
		for t := range ids {
			ids[t] = int32(rng.IntN(v))
		}
		docs[i] = r.Document([]string{"a", "b"}[i%2], fmt.Sprintf("doc-%03d", i), ids)
	}
	return docs
}

// Document returns the routing of token ids, [T]. It panics where the header is
// invalid or the rule chooses what Document.Validate refuses.
func (r *Router) Document(dataset, id string, ids []int32) *trace.Document {
	if err := r.Header.Validate(); err != nil {
		panic("tracetest: " + err.Error())
	}
	m := &r.Header.Model
	d := &trace.Document{Dataset: dataset, ID: id, Tokens: slices.Clone(ids)}
	for t, token := range ids {
		input := make([]float32, m.Hidden)
		for l := range m.Layers {
			s := &Step{Document: id, Token: token, Position: t, Layer: l, Input: input, Logits: make([]float32, m.Experts)}
			r.Rule(s)
			r.record(d, s)
		}
		if r.Prompt > 0 && len(ids) > r.Prompt {
			d.Phases = append(d.Phases, trace.Prefill)
			if t >= r.Prompt {
				d.Phases[t] = trace.Decode
			}
		}
	}
	if err := d.Validate(&r.Header); err != nil {
		panic("tracetest: " + err.Error())
	}
	return d
}

// record appends a decision to a document.
func (r *Router) record(d *trace.Document, s *Step) {
	m := &r.Header.Model
	topK := m.LayerTopK()[s.Layer]
	experts := s.Experts
	if experts == nil {
		experts = largest(s.Logits, topK)
	}
	weights := softmax(s.Logits, experts)
	for k := range max(m.TopK, len(experts)) {
		e, w := trace.NoExpert, float32(0)
		if k < len(experts) {
			e, w = experts[k], weights[k]
		}
		d.Experts = append(d.Experts, e)
		if !r.Header.NoWeights {
			d.Weights = append(d.Weights, w)
		}
	}
	if slices.Contains(r.Header.LogitLayers, s.Layer) {
		d.RouterLogits = append(d.RouterLogits, s.Logits...)
	}
	if slices.Contains(r.Header.InputLayers, s.Layer) {
		d.RouterInput = append(d.RouterInput, s.Input...)
	}
}

// largest returns the indexes of the k largest values in order.
func largest(values []float32, k int) []int32 {
	order := make([]int32, len(values))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(values[b], values[a]) })
	return order[:k]
}

// softmax returns the routing weights of the chosen experts.
func softmax(logits []float32, experts []int32) []float32 {
	weights := make([]float32, len(experts))
	var sum float64
	for _, e := range experts {
		if e >= 0 && int(e) < len(logits) {
			sum += math.Exp(float64(logits[e]))
		}
	}
	for k, e := range experts {
		if e >= 0 && int(e) < len(logits) {
			weights[k] = float32(math.Exp(float64(logits[e])) / sum)
		}
	}
	return weights
}

// Write writes documents as a trace in a temporary directory of the test, and
// returns the directory.
func Write(tb testing.TB, h trace.Header, docs []*trace.Document, opts trace.WriterOptions) string {
	tb.Helper()
	dir := tb.TempDir()
	w, err := trace.Create(dir, h, opts)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range docs {
		if err := w.Write(d); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir
}
