package trace

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

// Len returns T, the number of tokens.
func (d *Document) Len() int { return len(d.Tokens) }

// Position returns the position of the t-th token.
func (d *Document) Position(t int) int32 {
	if d.Positions == nil {
		return int32(t)
	}
	return d.Positions[t]
}

// Phase returns the phase of the t-th token.
func (d *Document) Phase(t int) Phase {
	if d.Phases == nil {
		return Prefill
	}
	return d.Phases[t]
}

// ExpertsAt returns the experts of token t at a layer of model m, [K], first
// choice first. It is a part of d.Experts.
func (d *Document) ExpertsAt(m *Model, t, layer int) []int32 {
	at := (t*m.Layers + layer) * m.TopK
	return d.Experts[at : at+m.TopK : at+m.TopK]
}

// WeightsAt returns the routing weights of ExpertsAt, [K]; nil if the trace has
// none.
func (d *Document) WeightsAt(m *Model, t, layer int) []float32 {
	if d.Weights == nil {
		return nil
	}
	at := (t*m.Layers + layer) * m.TopK
	return d.Weights[at : at+m.TopK : at+m.TopK]
}

// DroppedAt reports whether token t is recorded as dropped at a layer of model m.
func (d *Document) DroppedAt(m *Model, t, layer int) bool {
	return d.Dropped != nil && d.Dropped[t*m.Layers+layer]
}

// Encoded returns the number of tokens of phase Encode, which come first.
func (d *Document) Encoded() int {
	n := 0
	for n < len(d.Phases) && d.Phases[n] == Encode {
		n++
	}
	return n
}

// Validate checks the document against header h: all arrays have the shapes
// that Document states; positions are not negative and strictly ascending;
// phases are known, and those of the encoder come first; experts are in 0..E-1
// and differ within a token and layer, with NoExpert only after them; their
// number is at most the layer's top-k, and 0 at layers of stacks that do not
// compute the token ([Model.Routes]), where it is not dropped either; weights,
// logits and router input are finite and weights not negative. The error names
// data set, document, token and layer.
func (d *Document) Validate(h *Header) error { return d.validate(h, false) }

// validate is Validate; sumToOne also requires the weights of each token and
// layer to add up to 1.
func (d *Document) validate(h *Header, sumToOne bool) error {
	if err := d.check(h, sumToOne); err != nil {
		return fmt.Errorf("document %q of data set %q: %w", d.ID, d.Dataset, err)
	}
	return nil
}

func (d *Document) check(h *Header, sumToOne bool) error {
	if !utf8.ValidString(d.ID) || !utf8.ValidString(d.Dataset) {
		return errors.New("name is not UTF-8")
	}
	if err := d.shapes(h); err != nil {
		return err
	}
	last := int32(-1)
	for t, p := range d.Positions {
		if p <= last {
			return fmt.Errorf("token %d: position %d after %d", t, p, last)
		}
		last = p
	}
	for t, p := range d.Phases {
		switch {
		case p != Prefill && p != Decode && p != Encode:
			return fmt.Errorf("token %d: phase %q", t, p)
		case p != Encode:
		case h.Model.encoder() == 0:
			return fmt.Errorf("token %d: phase %q in a model without a stack %q", t, p, Encoder)
		case t > 0 && d.Phases[t-1] != Encode:
			return fmt.Errorf("token %d: phase %q after %q", t, p, d.Phases[t-1])
		}
	}
	for t, id := range d.Tokens {
		if id < NoToken || h.Model.Vocabulary > 0 && int(id) >= h.Model.Vocabulary {
			return fmt.Errorf("token %d: id %d in a vocabulary of %d", t, id, h.Model.Vocabulary)
		}
	}
	if err := d.routing(h, sumToOne); err != nil {
		return err
	}
	if err := finite("router logit", d.RouterLogits, h.LogitLayers, h.Model.Experts); err != nil {
		return err
	}
	return finite("router input", d.RouterInput, h.InputLayers, h.Model.Hidden)
}

// shapes checks the lengths of all arrays.
func (d *Document) shapes(h *Header) error {
	t := len(d.Tokens)
	if t == 0 {
		return errors.New("no tokens")
	}
	check := func(name string, n, want int, optional bool) error {
		if n == want || optional && n == 0 {
			return nil
		}
		return fmt.Errorf("%s holds %d values, expected %d for %d tokens", name, n, want, t)
	}
	m := &h.Model
	weights := t * m.Layers * m.TopK
	if h.NoWeights {
		weights = 0
	}
	dropped := 0
	if h.Dropped {
		dropped = t * m.Layers
	}
	for _, err := range []error{
		check("Positions", len(d.Positions), t, true),
		check("Phases", len(d.Phases), t, true),
		check("Experts", len(d.Experts), t*m.Layers*m.TopK, false),
		check("Weights", len(d.Weights), weights, false),
		check("Dropped", len(d.Dropped), dropped, false),
		check("RouterLogits", len(d.RouterLogits), t*len(h.LogitLayers)*m.Experts, false),
		check("RouterInput", len(d.RouterInput), t*len(h.InputLayers)*m.Hidden, false),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// routing checks experts and weights.
func (d *Document) routing(h *Header, sumToOne bool) error {
	const tolerance = 1e-3 // of the sum, for weights of 16 bits
	m := &h.Model
	topK, encoder := m.LayerTopK(), m.encoder()
	for t := range d.Tokens {
		encoded := d.Phase(t) == Encode
		for l := range m.Layers {
			n, err := distinct(d.ExpertsAt(m, t, l), m.Experts, topK[l])
			if err == nil && n > 0 && encoded != (l < encoder) {
				s, _ := m.StackOf(l)
				err = fmt.Errorf("expert %d of stack %q for a token of phase %q", d.ExpertsAt(m, t, l)[0], s.Name, d.Phase(t))
			}
			if err == nil && n == 0 && d.DroppedAt(m, t, l) {
				err = errors.New("dropped without an expert")
			}
			if err != nil {
				return fmt.Errorf("token %d, layer %d: %w", t, l, err)
			}
			if h.NoWeights {
				continue
			}
			var sum float64
			for k, w := range d.WeightsAt(m, t, l) {
				if !(w >= 0) || math.IsInf(float64(w), 0) || k >= n && w != 0 {
					return fmt.Errorf("token %d, layer %d: weight %g of choice %d", t, l, w, k)
				}
				sum += float64(w)
			}
			if sumToOne && n > 0 && !(math.Abs(sum-1) <= tolerance) {
				return fmt.Errorf("token %d, layer %d: weights add up to %g", t, l, sum)
			}
		}
	}
	return nil
}

// distinct checks the choices of one token at one layer and returns their number.
func distinct(choices []int32, experts, topK int) (int, error) {
	n := 0
	for i, e := range choices {
		if e == NoExpert {
			continue
		}
		if e < 0 || int(e) >= experts {
			return 0, fmt.Errorf("expert %d of %d", e, experts)
		}
		if n < i {
			return 0, fmt.Errorf("expert %d follows a missing choice", e)
		}
		for _, f := range choices[:i] {
			if e == f {
				return 0, fmt.Errorf("expert %d twice", e)
			}
		}
		n++
	}
	if n > topK {
		return 0, fmt.Errorf("%d experts with top-k %d", n, topK)
	}
	return n, nil
}

// finite checks an array [T,len(layers),width].
func finite(name string, values []float32, layers []int, width int) error {
	const exponent = 0x7f800000 // all ones: infinite or not a number
	if floats.Magnitude(values) < exponent {
		return nil
	}
	for i, v := range values {
		if math.Float32bits(v)&exponent == exponent {
			return fmt.Errorf("token %d, layer %d: %s %d is %g", i/(len(layers)*width), layers[i/width%len(layers)], name, i%width, v)
		}
	}
	return nil
}
