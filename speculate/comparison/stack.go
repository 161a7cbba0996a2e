package comparison

import (
	"iter"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// stack is one stack of a model: which layers of the trace, and the model as if it
// had no others.
type stack struct {
	name         string
	first, count int
	topK         int
	whole        trace.Model
	header       trace.Header // of the stack by itself
}

// stacksOf returns the stacks of a trace.
func stacksOf(h trace.Header) []stack {
	var out []stack
	for l := 0; l < h.Model.Layers; {
		s, first := h.Model.StackOf(l)
		x := stack{name: s.Name, first: first, count: s.Layers, topK: s.TopK, whole: h.Model, header: h}
		if x.topK == 0 {
			x.topK = h.Model.TopK
		}
		m := &x.header.Model
		m.Layers, m.TopK, m.Stacks = s.Layers, x.topK, []trace.Stack{s}
		m.Stacks[0].TopK = 0
		x.header.LogitLayers, x.header.InputLayers = x.within(h.LogitLayers), x.within(h.InputLayers)
		out = append(out, x)
		l += s.Layers
	}
	return out
}

// within returns those of recorded layers that are the stack's, by its own numbers.
func (s *stack) within(layers []int) []int {
	var out []int
	for _, l := range layers {
		if l >= s.first && l < s.first+s.count {
			out = append(out, l-s.first)
		}
	}
	return out
}

// blocks returns the transformer block of each layer, [L].
func (s *stack) blocks() []int {
	if b := s.header.Model.Stacks[0].Blocks; len(b) == s.count {
		return b
	}
	b := make([]int, s.count)
	for i := range b {
		b[i] = i
	}
	return b
}

// encodes reports whether the stack computes all tokens of a text together.
func (s *stack) encodes() bool { return s.name == trace.Encoder }

// document returns the stack's tokens and layers of d, a document with header h; no
// tokens where the stack has none.
func (s *stack) document(h *trace.Header, d *trace.Document) *trace.Document {
	m := &h.Model
	if len(m.Stacks) < 2 {
		return d
	}
	out := &trace.Document{Dataset: d.Dataset, ID: d.ID}
	logits, inputs := rowsOf(h.LogitLayers, s), rowsOf(h.InputLayers, s)
	for t := range d.Len() {
		if !m.Routes(d.Phase(t), s.first) {
			continue
		}
		out.Tokens = append(out.Tokens, d.Tokens[t])
		out.Positions = append(out.Positions, d.Position(t))
		out.Phases = append(out.Phases, d.Phase(t))
		for l := s.first; l < s.first+s.count; l++ {
			out.Experts = append(out.Experts, d.ExpertsAt(m, t, l)[:s.topK]...)
			if d.Weights != nil {
				out.Weights = append(out.Weights, d.WeightsAt(m, t, l)[:s.topK]...)
			}
		}
		if d.Dropped != nil {
			out.Dropped = append(out.Dropped, d.Dropped[t*m.Layers+s.first:][:s.count]...)
		}
		if d.RouterLogits != nil {
			out.RouterLogits = append(out.RouterLogits, logits.of(d.RouterLogits, t, m.Experts)...)
		}
		if d.RouterInput != nil {
			out.RouterInput = append(out.RouterInput, inputs.of(d.RouterInput, t, m.Hidden)...)
		}
	}
	return out
}

// span is the stack's recorded layers first to first+count-1 of n in an array.
type span struct{ first, count, n int }

func rowsOf(recorded []int, s *stack) span {
	first, _ := slices.BinarySearch(recorded, s.first)
	end, _ := slices.BinarySearch(recorded, s.first+s.count)
	return span{first, end - first, len(recorded)}
}

// of returns the span's part of token t of a, [T,n,width].
func (p span) of(a []float32, t, width int) []float32 {
	return a[(t*p.n+p.first)*width:][:p.count*width]
}

// data returns d, all stacks, as that of the stack by itself.
func (s *stack) data(d speculate.Data) speculate.Data {
	h := d.Header
	own := s.header
	own.Dropped, own.NoWeights = h.Dropped, h.NoWeights
	own.LogitLayers, own.InputLayers = s.within(h.LogitLayers), s.within(h.InputLayers)
	return speculate.Data{Header: own, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for doc, err := range d.Documents() {
				if err == nil {
					doc = s.document(&h, doc)
				}
				if (err != nil || doc.Len() > 0) && !yield(doc, err) {
					return
				}
			}
		}
	}}
}

// routing returns d without router logits, router inputs and weights, which most
// measures do not read.
func routing(d speculate.Data) speculate.Data {
	h := d.Header
	h.LogitLayers, h.InputLayers, h.NoWeights = nil, nil, true
	return speculate.Data{Header: h, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for doc, err := range d.Documents() {
				if err == nil {
					light := *doc
					light.RouterLogits, light.RouterInput, light.Weights = nil, nil, nil
					doc = &light
				}
				if !yield(doc, err) {
					return
				}
			}
		}
	}}
}
