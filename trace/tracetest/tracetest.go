// Package tracetest makes small traces for unit tests: documents whose routing
// is a known function of token, position and layer, and random documents.
//
// A [Router] takes the place of a model. It has the shape of its Header, of any
// size, and a rule instead of weights: [Choose] plants experts, [Linear] applies
// random gates to hidden states, [Random] draws independently. Everything
// depends on arguments and seeds alone. A model with a stack [trace.Encoder] has
// documents of encoded tokens and then decoded ones.
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
	// LogitLayers, the router inputs of InputLayers, weights unless NoWeights, and
	// dropped tokens if Dropped.
	Header trace.Header
	// Rule makes the decision of one token at one layer. It is called for each
	// token of a document in turn, layer by layer of the stack that computes it.
	Rule func(*Step)
	// Prompt is the number of tokens of a document that are marked as prefill.
	// Later tokens are marked as decode. 0 marks all tokens as prefill. In a model
	// with an encoder it is the number of the encoder's tokens, 0 for half of a
	// document's; later ones are marked as decode.
	Prompt int
	// Capacity is the number of tokens of a document that an expert of the encoder
	// computes at a layer; later ones are dropped. 0 is no limit.
	Capacity int
}

// Step is the decision of one token at one layer.
type Step struct {
	Document string // its id
	Token    int32  // its id
	Position int
	Layer    int
	Phase    trace.Phase
	// Input is the router input, [D]. The rule is called with that of the layer
	// before; at the first layer of a stack it is zero.
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
		if _, first := m.StackOf(s.Layer); s.Layer == first {
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
	d.Phases = r.phases(len(ids))
	queues := make([]int, m.Layers*m.Experts) // tokens of an expert
	for t, token := range ids {
		input := make([]float32, m.Hidden)
		for l := range m.Layers {
			if !m.Routes(d.Phase(t), l) {
				r.record(d, &Step{Layer: l, Input: make([]float32, m.Hidden), Logits: make([]float32, m.Experts), Experts: []int32{}}, nil)
				continue
			}
			s := &Step{Document: id, Token: token, Position: t, Layer: l, Phase: d.Phase(t), Input: input, Logits: make([]float32, m.Experts)}
			r.Rule(s)
			r.record(d, s, queues[l*m.Experts:(l+1)*m.Experts])
		}
	}
	if err := d.Validate(&r.Header); err != nil {
		panic("tracetest: " + err.Error())
	}
	return d
}

// phases returns the phases of a document of n tokens; nil: all prefill.
func (r *Router) phases(n int) []trace.Phase {
	first, rest := trace.Prefill, r.Prompt
	switch {
	case r.Header.Model.Routes(trace.Encode, 0):
		first = trace.Encode
		if rest == 0 {
			rest = (n + 1) / 2
		}
	case rest == 0 || rest >= n:
		return nil
	}
	phases := slices.Repeat([]trace.Phase{first}, n)
	for t := rest; t < n; t++ {
		phases[t] = trace.Decode
	}
	return phases
}

// record appends a decision to a document. queue, [E], counts the tokens of the
// layer's experts.
func (r *Router) record(d *trace.Document, s *Step, queue []int) {
	m := &r.Header.Model
	topK := m.LayerTopK()[s.Layer]
	experts := s.Experts
	if experts == nil {
		experts = largest(s.Logits, topK)
	}
	weights := softmax(s.Logits, experts, m.Routes(trace.Encode, 0))
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
	if r.Header.Dropped {
		d.Dropped = append(d.Dropped, r.drops(s, experts, queue))
	}
	if slices.Contains(r.Header.LogitLayers, s.Layer) {
		d.RouterLogits = append(d.RouterLogits, s.Logits...)
	}
	if slices.Contains(r.Header.InputLayers, s.Layer) {
		d.RouterInput = append(d.RouterInput, s.Input...)
	}
}

// drops counts a token of the encoder in the queues of its experts and reports
// whether all of them are full.
func (r *Router) drops(s *Step, experts []int32, queue []int) bool {
	if s.Phase != trace.Encode || r.Capacity == 0 {
		return false
	}
	full := len(experts) > 0
	for _, e := range experts {
		if e >= 0 && int(e) < len(queue) {
			queue[e]++
			full = full && queue[e] > r.Capacity
		}
	}
	return full
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

// softmax returns the routing weights of the chosen experts: softmax over them,
// as Mixtral's, or over all experts, as Switch Transformer's.
func softmax(logits []float32, experts []int32, all bool) []float32 {
	weights := make([]float32, len(experts))
	var sum float64
	for _, e := range experts {
		if e >= 0 && int(e) < len(logits) && !all {
			sum += math.Exp(float64(logits[e]))
		}
	}
	for _, z := range logits {
		if all {
			sum += math.Exp(float64(z))
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
