package neural

import (
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// width returns F, the number of features of a view.
func (f Features) width(s speculate.Shape) int {
	return (f.Experts+f.PastExperts+f.Logits+f.PastLogits)*s.Experts + (f.Inputs+f.PastInputs)*s.Hidden
}

// extract writes the features of v to out, [F]: router inputs first, so that the
// latest one begins at 0.
func (f Features) extract(v speculate.View, out []float32) {
	s, h := v.Shape(), v.Horizon()
	t, l := v.Token(), v.Layer()
	at := 0
	put := func(x []float32, width int) {
		row := out[at : at+width]
		if x == nil {
			clear(row)
		} else {
			copy(row, x)
		}
		at += width
	}
	chosen := func(t, l int) {
		row := out[at : at+s.Experts]
		clear(row)
		spread(v, t, l, row)
		at += s.Experts
	}
	// At horizons of one token the views return nil for the current token.
	latest := l - h.Layers
	for i := range f.Inputs {
		put(v.Input(t, latest-i), s.Hidden)
	}
	for i := range f.PastInputs {
		put(v.Input(t-1-i, l), s.Hidden)
	}
	for i := range f.Logits {
		put(v.Logits(t, latest-i), s.Experts)
	}
	for i := range f.PastLogits {
		put(v.Logits(t-1-i, l), s.Experts)
	}
	for i := range f.Experts {
		chosen(t, latest-i)
	}
	for i := range f.PastExperts {
		chosen(t-1-i, l)
	}
}

// spread writes the routing weights of (t,l) by expert to row, [E]. Each is raised
// by a half, so that a chosen expert of small weight differs from one not chosen.
func spread(v speculate.View, t, l int, row []float32) {
	ws := v.Weights(t, l)
	es := v.Experts(t, l)
	for i, e := range es {
		if e == trace.NoExpert {
			continue
		}
		if ws != nil {
			row[e] = .5 + ws[i]
		} else {
			row[e] = 1
		}
	}
}

// ids writes the rows of the embedding table for token ids t, t-1, ... to out.
// Row V is for unknown ids.
func (f Features) ids(v speculate.View, out []int32) {
	vocab := int32(v.Shape().Vocabulary)
	for i := range f.IDs {
		id, ok := v.ID(v.Token() - i)
		if !ok || id < 0 || id >= vocab {
			id = vocab
		}
		out[i] = id
	}
}
