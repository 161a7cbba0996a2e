package trace

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// Add adds a document. A document without the header's shapes, or with experts or
// weights out of range, is an error and not added. Router logits may be nil. Add
// does not retain d.
//
// In a model of an encoder and a decoder, figures of a layer are over the tokens
// that pass it.
func (s *Statistics) Add(d *Document) error {
	if err := s.checkDocument(d); err != nil {
		return fmt.Errorf("statistics: document %q of data set %q: %w", d.ID, d.Dataset, err)
	}
	g := s.group(d.Dataset)
	g.Documents++
	g.Tokens += int64(d.Len())
	clear(s.weights)
	for t := range d.Len() {
		s.token(d, t, g)
	}
	m := &s.header.Model
	encoded := d.Encoded()
	for l := range m.Layers {
		x := &g.Layers[l]
		for k, w := range s.weights[l*m.TopK : (l+1)*m.TopK] {
			x.Weights[k].add(w)
		}
		from, to := 0, encoded // the tokens that pass the layer
		if !m.Routes(Encode, l) {
			from, to = encoded, d.Len()
		}
		for i, size := range s.opts.Segments {
			if to-from < size {
				continue
			}
			s.window.add(&x.Local[i], size, s.opts.CacheSizes, m.Experts, m.TopK,
				d.Experts[(from*m.Layers+l)*m.TopK:], m.Layers*m.TopK, to-from)
		}
	}
	s.routerEntropy(d, g)
	return nil
}

// maxWeight bounds routing weights so that their sum over a document, of at most
// 2^31 tokens, is one that sum adds.
const maxWeight = 1 << 31

func (s *Statistics) checkDocument(d *Document) error {
	if !utf8.ValidString(d.Dataset) {
		return errors.New("name is not UTF-8") // JSON cannot store it
	}
	h := s.header
	if d.RouterLogits == nil { // not read
		h.LogitLayers = nil
	}
	h.InputLayers = nil
	light := *d
	light.RouterInput = nil
	if err := light.shapes(&h); err != nil {
		return err
	}
	for t := range d.Len() {
		for l, k := range s.topK {
			n, err := distinct(d.ExpertsAt(&h.Model, t, l), h.Model.Experts, k)
			if err == nil && n > 0 && !h.Model.Routes(d.Phase(t), l) {
				err = fmt.Errorf("experts for a token of phase %q", d.Phase(t))
			}
			for _, w := range d.WeightsAt(&h.Model, t, l) {
				if err == nil && !(w >= 0 && w <= maxWeight) {
					err = fmt.Errorf("weight %g", w)
				}
			}
			if err != nil {
				return fmt.Errorf("token %d, layer %d: %w", t, l, err)
			}
		}
	}
	for i, p := range d.Positions {
		if p < 0 {
			return fmt.Errorf("token %d: position %d", i, p)
		}
	}
	return nil
}

// token adds one token at all layers.
func (s *Statistics) token(d *Document, t int, g *group) {
	m := &s.header.Model
	b := s.bucket(bits.Len32(uint32(d.Position(t))))
	b.Tokens++
	follows := t > 0 && d.Position(t) == d.Position(t-1)+1
	var before []int32
	for l := range m.Layers {
		choices := d.ExpertsAt(m, t, l)
		x := &g.Layers[l]
		for k, e := range choices {
			if e == NoExpert {
				continue
			}
			x.Counts[e]++
			b.Counts[l*m.Experts+int(e)]++
			if k == 0 {
				x.First[e]++
			}
		}
		if w := d.WeightsAt(m, t, l); w != nil && choices[0] != NoExpert {
			for k, v := range w {
				s.weights[l*m.TopK+k] += float64(v)
			}
			x.Weighted++
		}
		if d.DroppedAt(m, t, l) {
			x.Dropped++
		}
		if follows {
			r := repeated(d.ExpertsAt(m, t-1, l), choices)
			x.Repeats.merge(r)
			b.Repeats.merge(r)
		}
		s.pairs(l, before, choices)
		before = choices
	}
}

// repeated compares a token's experts with those of the token before.
func repeated(last, now []int32) (r repeats) {
	if last[0] == NoExpert || now[0] == NoExpert {
		return r
	}
	r.Pairs = 1
	if last[0] == now[0] {
		r.First = 1
	}
	if slices.ContainsFunc(now, func(e int32) bool { return e != NoExpert && slices.Contains(last, e) }) {
		r.Any = 1
	}
	return r
}

// pairs counts the choices of one token with each other and with those of the
// layer before.
func (s *Statistics) pairs(l int, before, now []int32) {
	if s.Together == nil {
		return
	}
	n := s.header.Model.Experts
	cells := s.Together[l*n*n : (l+1)*n*n]
	for _, e := range now {
		for _, f := range now {
			if e != f && e != NoExpert && f != NoExpert {
				cells[int(e)*n+int(f)]++
			}
		}
	}
	if before == nil {
		return
	}
	cells = s.Transition[(l-1)*n*n : l*n*n]
	for _, e := range before {
		for _, f := range now {
			if e != NoExpert && f != NoExpert {
				cells[int(e)*n+int(f)]++
			}
		}
	}
	if e, f := before[0], now[0]; e != NoExpert && f != NoExpert {
		s.First[(l-1)*n*n+int(e)*n+int(f)]++
	}
}

// routerEntropy adds the entropies of softmax(router logits).
func (s *Statistics) routerEntropy(d *Document, g *group) {
	n, layers := s.header.Model.Experts, s.header.LogitLayers
	var byBits [positionBuckets]float64
	clear(s.entropy)
	for i := range len(d.RouterLogits) / n {
		t, l := i/len(layers), layers[i%len(layers)]
		if !s.header.Model.Routes(d.Phase(t), l) {
			continue // its logits are of no router
		}
		h := softmaxEntropy(d.RouterLogits[i*n : (i+1)*n])
		if math.IsNaN(h) {
			continue
		}
		at := bits.Len32(uint32(d.Position(t)))
		s.entropy[l] += h
		byBits[at] += h
		g.Layers[l].Entropies++
		s.Positions[at].Entropies++
	}
	for l, h := range s.entropy {
		g.Layers[l].Entropy.add(h)
	}
	for i, h := range byBits {
		if h > 0 {
			s.Positions[i].Entropy.add(h)
		}
	}
}
