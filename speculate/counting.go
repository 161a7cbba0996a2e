package speculate

import (
	"fmt"

	"github.com/expertspec/expertspec/trace"
)

// Frequency predicts the experts chosen most often at the layer, independent of
// the token: P(e|l) from counts, plus one count of the uniform choice. The zero
// value is ready to be fitted, as for all predictors that count.
type Frequency struct {
	shape Shape
	n     []float64   // [L] tokens
	count [][]float64 // [L][E]
	prior [][]float32 // [L][E]
}

// Name is "frequency".
func (f *Frequency) Name() string { return "frequency" }

// Requires nothing.
func (f *Frequency) Requires() Requirements { return Requirements{} }

// Supports every horizon.
func (f *Frequency) Supports(Horizon) bool { return true }

// Begin implements [Counter].
func (f *Frequency) Begin(s Shape, _ []Horizon) error {
	f.shape, f.n, f.count = s, make([]float64, s.Layers), rows[float64](s.Layers, s.Experts)
	return nil
}

// Count implements [Counter].
func (f *Frequency) Count(doc *trace.Document) error {
	lk, enc := f.shape.Layers*f.shape.TopK, doc.Encoded()
	for i, e := range doc.Experts {
		l := i % lk / f.shape.TopK
		if i%f.shape.TopK == 0 && (i/lk < enc) == (l < f.shape.Encoder) {
			f.n[l]++
		}
		if e >= 0 {
			f.count[l][e]++
		}
	}
	return nil
}

// End implements [Counter].
func (f *Frequency) End() error {
	f.prior = rows[float32](f.shape.Layers, f.shape.Experts)
	u := float64(f.shape.TopK) / float64(f.shape.Experts)
	for l := range f.prior {
		for e := range f.prior[l] {
			f.prior[l][e] = float32((f.count[l][e] + u) / (f.n[l] + 1))
		}
	}
	return nil
}

// Predict implements [Predictor].
func (f *Frequency) Predict(views []View, out []float32) error {
	s, err := same(views, out)
	if err != nil || len(views) == 0 {
		return err
	}
	if f.prior == nil || f.shape.Layers != s.Layers || f.shape.Experts != s.Experts || f.shape.Encoder != s.Encoder {
		return errShape(f.shape, s)
	}
	for i, v := range views {
		copy(out[i*s.Experts:], f.prior[v.l])
	}
	return nil
}

func errShape(fitted, asked Shape) error {
	if fitted.Layers == 0 {
		return fmt.Errorf("not fitted")
	}
	if fitted.Encoder != asked.Encoder {
		return fmt.Errorf("fitted for an encoder of %d of L=%d layers, got one of %d of L=%d", fitted.Encoder, fitted.Layers, asked.Encoder, asked.Layers)
	}
	return fmt.Errorf("fitted for L=%d E=%d K=%d, got L=%d E=%d K=%d",
		fitted.Layers, fitted.Experts, fitted.TopK, asked.Layers, asked.Experts, asked.TopK)
}

func rows[T any](n, width int) [][]T {
	all := make([]T, n*width)
	r := make([][]T, n)
	for i := range r {
		r[i] = all[i*width : (i+1)*width : (i+1)*width]
	}
	return r
}

// PreviousToken predicts from the choices of the token before at the layer:
// P(e chosen | l, e, place) from counts, where place is the rank of expert e among
// those choices (first, second, ..., not chosen). In an encoder, where those are not
// known before, the answer is that of [Frequency].
type PreviousToken struct {
	Frequency
	// Both are [L][E*(K+1)]: how often e had the place, and was chosen next.
	times, hit [][]float64
}

// Name is "previous token".
func (p *PreviousToken) Name() string { return "previous token" }

// Requires one earlier token.
func (p *PreviousToken) Requires() Requirements { return Requirements{History: 1} }

// Begin implements [Counter].
func (p *PreviousToken) Begin(s Shape, h []Horizon) error {
	p.times, p.hit = rows[float64](s.Layers, s.Experts*(s.TopK+1)), rows[float64](s.Layers, s.Experts*(s.TopK+1))
	return p.Frequency.Begin(s, h)
}

// place returns the index of e in chosen, and len(chosen) if it is not there.
func place(chosen []int32, e int32) int {
	for i, c := range chosen {
		if c == e {
			return i
		}
	}
	return len(chosen)
}

// Count implements [Counter].
func (p *PreviousToken) Count(doc *trace.Document) error {
	k, l := p.shape.TopK, p.shape.Layers
	for i := (doc.Encoded() + 1) * l * k; i < len(doc.Experts); i += k {
		at := i / k % l
		if at < p.shape.Encoder {
			continue
		}
		before, now := doc.Experts[i-l*k:i-l*k+k], doc.Experts[i:i+k]
		for e := range int32(p.shape.Experts) {
			j := int(e)*(k+1) + place(before, e)
			p.times[at][j]++
			if place(now, e) < k {
				p.hit[at][j]++
			}
		}
	}
	return p.Frequency.Count(doc)
}

// Predict implements [Predictor]. The first token of a document gets the frequencies.
func (p *PreviousToken) Predict(views []View, out []float32) error {
	if err := p.Frequency.Predict(views, out); err != nil || len(views) == 0 {
		return err
	}
	k, ne := p.shape.TopK, p.shape.Experts
	for i, v := range views {
		before := v.Experts(v.t-1, v.l)
		if before == nil {
			continue
		}
		row := out[i*ne : (i+1)*ne]
		for e := range row {
			j := e*(k+1) + place(before, int32(e))
			row[e] = float32((p.hit[v.l][j] + float64(row[e])*4) / (p.times[v.l][j] + 4))
		}
	}
	return nil
}

// TokenID predicts what tokens of the same id chose at the layer in training:
// P(e|l,id) from counts, plus four counts of the layer's frequencies. It holds
// L*E numbers for each distinct id that it was fitted on.
type TokenID struct {
	Frequency
	seen map[int32][]uint32 // L*E counts, the number of tokens and, with an encoder, of its tokens
}

// width is the number of counts of an id.
func (p *TokenID) width() int { return p.shape.Layers*p.shape.Experts + 1 + min(1, p.shape.Encoder) }

// total is the index in an id's counts of the number of tokens that pass a layer.
func (p *TokenID) total(encoded bool) int {
	if encoded {
		return p.shape.Layers*p.shape.Experts + 1
	}
	return p.shape.Layers * p.shape.Experts
}

// Name is "token id".
func (p *TokenID) Name() string { return "token id" }

// Requires the token's id.
func (p *TokenID) Requires() Requirements { return Requirements{TokenIDs: true} }

// Supports every horizon at which the token's id is known, and none after it was
// fitted on documents without token ids.
func (p *TokenID) Supports(h Horizon) bool {
	_, unknown := p.seen[trace.NoToken]
	return (h.Layers > 0 || h.KnownID) && !(unknown && len(p.seen) == 1)
}

// Begin implements [Counter].
func (p *TokenID) Begin(s Shape, h []Horizon) error {
	p.seen = map[int32][]uint32{}
	return p.Frequency.Begin(s, h)
}

// Count implements [Counter].
func (p *TokenID) Count(doc *trace.Document) error {
	k, l, e := p.shape.TopK, p.shape.Layers, p.shape.Experts
	enc := doc.Encoded()
	for t, id := range doc.Tokens {
		c := p.seen[id]
		if c == nil {
			c = make([]uint32, p.width())
			p.seen[id] = c
		}
		c[p.total(t < enc)]++
		for i, x := range doc.Experts[t*l*k : (t+1)*l*k] {
			if x >= 0 {
				c[i/k*e+int(x)]++
			}
		}
	}
	return p.Frequency.Count(doc)
}

// Predict implements [Predictor]. An unseen id gets the frequencies.
func (p *TokenID) Predict(views []View, out []float32) error {
	if err := p.Frequency.Predict(views, out); err != nil || len(views) == 0 {
		return err
	}
	if !p.Supports(views[0].hor) {
		return ErrHorizon
	}
	ne := p.shape.Experts
	for i, v := range views {
		id, ok := v.ID(v.t)
		c := p.seen[id]
		if !ok || c == nil {
			continue
		}
		row, n := out[i*ne:(i+1)*ne], float32(c[p.total(v.l < p.shape.Encoder)])
		for e := range row {
			row[e] = (float32(c[v.l*ne+e]) + 4*row[e]) / (n + 4)
		}
	}
	return nil
}
