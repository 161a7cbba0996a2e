package convert

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// choice is one expert that one token of a document chose at a layer, as formats
// of a row a choice give them.
type choice struct {
	doc      int32
	position int32
	layer    int32
	slot     int32
	expert   int32
	weight   float32
	decode   bool
	token    int32
}

// gather collects choices and makes documents of them. Its memory is about that
// of the text that it is read from.
type gather struct {
	choices []choice
	layers  map[int32]bool
	topK    int32
	most    int32 // largest expert
}

func newGather() *gather { return &gather{layers: map[int32]bool{}, most: -1} }

func (g *gather) add(c choice) error {
	if c.position < 0 || c.layer < 0 || c.slot < 0 || c.expert < 0 {
		return fmt.Errorf("negative number")
	}
	if c.layer >= trace.MaxLayers || c.slot >= trace.MaxExperts || c.expert >= trace.MaxExperts {
		return fmt.Errorf("layer %d, choice %d, expert %d is too large", c.layer, c.slot, c.expert)
	}
	if !(c.weight >= 0) || math.IsInf(float64(c.weight), 0) {
		return fmt.Errorf("weight %g", c.weight)
	}
	g.choices = append(g.choices, c)
	g.layers[c.layer] = true
	g.topK = max(g.topK, c.slot+1)
	g.most = max(g.most, c.expert)
	return nil
}

// sort brings the choices into the order of documents and tokens.
func (g *gather) sort() {
	slices.SortFunc(g.choices, func(a, b choice) int {
		return cmp.Or(cmp.Compare(a.doc, b.doc), cmp.Compare(a.position, b.position),
			cmp.Compare(a.layer, b.layer), cmp.Compare(a.slot, b.slot))
	})
}

// blocks returns the layers that occur, ascending.
func (g *gather) blocks() []int {
	var all []int
	for l := range g.layers {
		all = append(all, int(l))
	}
	slices.Sort(all)
	return all
}

// stack returns the decoder's stack of those layers.
func stack(blocks []int) []trace.Stack {
	s := trace.Stack{Name: "decoder", Layers: len(blocks)}
	for i, b := range blocks {
		if i != b {
			s.Blocks = blocks
		}
	}
	return []trace.Stack{s}
}

// documents calls f with each document, which has its choices in order; f names
// it. Layers are numbered by blocks.
func (g *gather) documents(m *trace.Model, blocks []int, f func(doc int32, d *trace.Document, err error) bool) {
	number := map[int32]int{}
	for i, b := range blocks {
		number[int32(b)] = i
	}
	for rest := g.choices; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].doc == rest[0].doc {
			n++
		}
		d, err := assemble(rest[:n], m, number)
		if !f(rest[0].doc, d, err) {
			return
		}
		rest = rest[n:]
	}
}

// sparsest is how many empty places a document may have for each choice, so
// that a few rows far apart do not become a huge array.
const sparsest = 16

func assemble(choices []choice, m *trace.Model, number map[int32]int) (*trace.Document, error) {
	tokens := 0
	for i := range choices {
		if i == 0 || choices[i].position != choices[i-1].position {
			tokens++
		}
	}
	width := m.Layers * m.TopK
	if tokens*width > sparsest*len(choices)+1<<16 {
		return nil, fmt.Errorf("%d tokens with %d choices in all: too few for %d layers with top-k %d", tokens, len(choices), m.Layers, m.TopK)
	}
	d := &trace.Document{
		Experts: slices.Repeat([]int32{trace.NoExpert}, tokens*width),
		Weights: make([]float32, tokens*width),
	}
	for i, c := range choices {
		if i == 0 || c.position != choices[i-1].position {
			d.Positions = append(d.Positions, c.position)
			d.Tokens = append(d.Tokens, c.token)
			phase := trace.Prefill
			if c.decode {
				phase = trace.Decode
			}
			d.Phases = append(d.Phases, phase)
		}
		t := len(d.Tokens) - 1
		if c.token != d.Tokens[t] || c.decode != (d.Phases[t] == trace.Decode) {
			return nil, fmt.Errorf("position %d: token id or phase differ between layers", c.position)
		}
		if int(c.slot) >= m.TopK {
			return nil, fmt.Errorf("position %d, layer %d: choice %d with top-k %d", c.position, c.layer, c.slot, m.TopK)
		}
		at := t*width + number[c.layer]*m.TopK + int(c.slot)
		if d.Experts[at] != trace.NoExpert {
			return nil, fmt.Errorf("position %d, layer %d: choice %d stands twice", c.position, c.layer, c.slot)
		}
		d.Experts[at], d.Weights[at] = c.expert, c.weight
	}
	return d, nil
}
