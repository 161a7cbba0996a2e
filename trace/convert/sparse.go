package convert

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// choice is one expert that one token of a document chose at a layer, as formats
// with a row for each choice store it.
type choice struct {
	doc      int32
	position int32
	layer    int32 // transformer block
	slot     int32 // in 0..K-1
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
	topK    int
	bad     map[int32]error // documents to omit
}

func newGather() *gather { return &gather{layers: map[int32]bool{}, bad: map[int32]error{}} }

func (g *gather) add(c choice) error {
	if c.position < 0 || c.layer < 0 || c.slot < 0 || c.expert < 0 {
		return errors.New("negative number")
	}
	if c.layer >= trace.MaxLayers || c.slot >= trace.MaxExperts || c.expert >= trace.MaxExperts {
		return fmt.Errorf("layer %d, choice %d, expert %d is too large", c.layer, c.slot, c.expert)
	}
	if !(c.weight >= 0) || math.IsInf(float64(c.weight), 0) {
		return fmt.Errorf("weight is %g", c.weight)
	}
	g.choices = append(g.choices, c)
	g.layers[c.layer] = true
	g.topK = max(g.topK, int(c.slot)+1)
	return nil
}

// omit has a document omitted because of its first error.
func (g *gather) omit(doc int32, err error) {
	if g.bad[doc] == nil {
		g.bad[doc] = err
	}
}

// source returns the documents, as name names them. Of the model it sets the
// layers, and what the options state.
func (g *gather) source(path string, o Options, m trace.Model, name func(doc int32) trace.Key) *source {
	slices.SortFunc(g.choices, func(a, b choice) int {
		return cmp.Or(cmp.Compare(a.doc, b.doc), cmp.Compare(a.position, b.position),
			cmp.Compare(a.layer, b.layer), cmp.Compare(a.slot, b.slot))
	})
	var blocks []int
	number := map[int32]int{} // of the layer, by block
	for _, block := range slices.Sorted(maps.Keys(g.layers)) {
		number[block] = len(blocks)
		blocks = append(blocks, int(block))
	}
	m.Layers, m.Stacks = len(blocks), stack(blocks)
	if o.Experts != 0 {
		m.Experts = o.Experts
	}
	if o.TopK != 0 {
		m.TopK = o.TopK
	}
	return &source{header: header(o, m, nil), documents: func(yield func(*trace.Document, error) bool) {
		fail := func(doc int32, err error) bool {
			return yield(nil, omission{located(path, fmt.Sprintf("document %q", name(doc).Document), err)})
		}
		for _, doc := range slices.Sorted(maps.Keys(g.bad)) {
			if !fail(doc, g.bad[doc]) {
				return
			}
		}
		for rest := g.choices; len(rest) > 0; {
			doc, n := rest[0].doc, 1
			for n < len(rest) && rest[n].doc == doc {
				n++
			}
			choices := rest[:n]
			rest = rest[n:]
			if g.bad[doc] != nil {
				continue
			}
			d, err := assemble(choices, &m, number)
			if err != nil {
				if !fail(doc, err) {
					return
				}
				continue
			}
			key := name(doc)
			d.Dataset, d.ID = datasetOr(o, key.Dataset), key.Document
			if !yield(d, nil) {
				return
			}
		}
	}}
}

// stack returns the decoder's stack of layers in these transformer blocks.
func stack(blocks []int) []trace.Stack {
	s := trace.Stack{Name: "decoder", Layers: len(blocks)}
	if blocks[len(blocks)-1] != len(blocks)-1 {
		s.Blocks = blocks
	}
	return []trace.Stack{s}
}

// A document may have this many empty places for each choice, and anySparse in
// any case, so that a few rows far apart do not become a huge array.
const (
	sparsest  = 16
	anySparse = 1 << 12
)

// assemble makes a document of its choices in order. number is the layer of each
// transformer block.
func assemble(choices []choice, m *trace.Model, number map[int32]int) (*trace.Document, error) {
	tokens := 0
	for i := range choices {
		if i == 0 || choices[i].position != choices[i-1].position {
			tokens++
		}
	}
	width := m.Layers * m.TopK
	if tokens*width > sparsest*len(choices)+anySparse {
		return nil, fmt.Errorf("%d tokens with %d choices in all: too few for %d layers with top-k %d", tokens, len(choices), m.Layers, m.TopK)
	}
	d := &trace.Document{
		Experts: slices.Repeat([]int32{trace.NoExpert}, tokens*width),
		Weights: make([]float32, tokens*width),
	}
	for i, c := range choices {
		phase := trace.Prefill
		if c.decode {
			phase = trace.Decode
		}
		if i == 0 || c.position != choices[i-1].position {
			d.Positions = append(d.Positions, c.position)
			d.Tokens = append(d.Tokens, c.token)
			d.Phases = append(d.Phases, phase)
		}
		t := len(d.Tokens) - 1
		if c.token != d.Tokens[t] || phase != d.Phases[t] {
			return nil, fmt.Errorf("position %d: token id or phase differ between layers", c.position)
		}
		if int(c.slot) >= m.TopK {
			return nil, fmt.Errorf("position %d, layer %d: choice %d with top-k %d", c.position, c.layer, c.slot, m.TopK)
		}
		at := t*width + number[c.layer]*m.TopK + int(c.slot)
		if d.Experts[at] != trace.NoExpert {
			return nil, fmt.Errorf("position %d, layer %d: choice %d occurs twice", c.position, c.layer, c.slot)
		}
		d.Experts[at], d.Weights[at] = c.expert, c.weight
	}
	return d, nil
}
