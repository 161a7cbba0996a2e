package speculate

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// decision is a question about each token at one layer and horizon. It can be
// asked once the routing of known layers of the token is known (in an encoder, of all
// its tokens; in the decoder behind one, those of the encoder included); of 0 layers
// where its id is, and of -1 before that.
type decision struct {
	hor          Horizon
	layer, known int
}

// decisions lists those that p supports in the order in which they can be asked.
func decisions(p Predictor, s Shape, horizons []Horizon) ([]decision, error) {
	var ds []decision
	for _, h := range horizons {
		if err := h.Validate(s.Depth()); err != nil {
			return nil, err
		}
		for _, l := range s.Targets(h) {
			if !Supports(p, s, h, l) {
				continue
			}
			d := decision{h, l, -1}
			if h.Layers > 0 {
				d.known = l - h.Layers + 1
			} else if h.KnownID {
				d.known = 0
			}
			ds = append(ds, d)
		}
	}
	slices.SortStableFunc(ds, func(a, b decision) int { return cmp.Compare(a.known, b.known) })
	return ds, nil
}

// asked are the answers of a predictor to all decisions, [D,T,E].
type asked struct {
	seq *sequence
	p   Predictor
	out [][]float32
}

func newAsked(p Predictor, h trace.Header, doc *trace.Document, n int) (*asked, error) {
	seq, err := newSequence(h)
	if err != nil {
		return nil, err
	}
	seq.hold(doc)
	return &asked{seq, p, rows[float32](n, len(doc.Tokens)*seq.shape.Experts)}, nil
}

// ask asks the i-th decision, d, about tokens from..to-1 in one call.
func (a *asked) ask(i int, d decision, from, to int) error {
	views := make([]View, 0, to-from)
	for t := from; t < to; t++ {
		views = append(views, a.seq.view(t, d.layer, d.hor))
	}
	e := a.seq.shape.Experts
	if err := a.p.Predict(views, a.out[i][from*e:to*e]); err != nil {
		return fmt.Errorf("speculate: %s at %v, layer %d: %w", a.p.Name(), d.hor, d.layer, err)
	}
	return nil
}

// askAll asks the i-th decision, d, about all tokens that pass its layer in one call.
func (a *asked) askAll(i int, d decision) error {
	from, to := a.seq.shape.span(a.seq.n, a.seq.enc, d.layer)
	return a.ask(i, d, from, to)
}

// differ is the first token of from..end-1 whose answers to the i-th decision differ
// from b's; -1: none.
func (a *asked) differ(b *asked, i, from, end int) int {
	e := a.seq.shape.Experts
	for t := from; t < end; t++ {
		if !slices.EqualFunc(a.out[i][t*e:(t+1)*e], b.out[i][t*e:(t+1)*e], func(x, y float32) bool {
			return math.Float32bits(x) == math.Float32bits(y)
		}) {
			return t
		}
	}
	return -1
}

// futures is how many changed futures CheckCausality tries, of each stack.
const futures = 24

// CheckCausality checks that the answers of p depend on nothing that comes after
// a decision. It asks about each token and layer of doc at all horizons that p
// supports, in the order in which a model computes, where the future cannot be
// known. Then it asks again, in other orders and about all tokens in one call, as
// [Evaluate] does: about doc, and about copies of it whose later part is replaced
// by noise. Answers that are not equal to the last bit are an error that names
// the predictor, the horizon, the token and the layer.
//
// What is later follows the [Order]: in a decoder, later tokens, and later layers of
// the same token; in an encoder, later layers of all its tokens, earlier ones too, and
// the whole decoder.
func CheckCausality(p Predictor, h trace.Header, doc *trace.Document, horizons []Horizon) error {
	shape := ShapeOf(h.Model)
	if err := doc.Validate(&h); err != nil {
		return fmt.Errorf("speculate: %w", err)
	}
	ds, err := decisions(p, shape, horizons)
	if err != nil {
		return err
	}
	want, err := newAsked(p, h, doc, len(ds))
	if err != nil {
		return err
	}
	if err := want.inOrder(ds); err != nil {
		return err
	}
	n, enc := want.seq.n, want.seq.enc
	tries := 1 // the first changes nothing
	for _, tokens := range []int{enc, n - enc} {
		if tokens > 0 {
			tries += futures
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for f := range tries {
		at, changed := moment{n, -1}, doc
		order := rng.Perm(len(ds))
		switch {
		case f == 0:
			slices.Sort(order)
		case enc > 0 && (f%2 == 0 || n == enc): // in the encoder
			at.t, at.known = 0, f/2%(shape.Encoder+1)
			changed = perturb(h, doc, at, rng)
		default:
			at.t, at.known = enc+rng.IntN(n-enc), rng.IntN(shape.Layers+1)-1
			changed = perturb(h, doc, at, rng)
		}
		got, err := newAsked(p, h, changed, len(ds))
		if err != nil {
			return err
		}
		for _, i := range order {
			if err := got.askAll(i, ds[i]); err != nil {
				return err
			}
		}
		for i, d := range ds {
			from, end := at.answered(d, shape, n, enc)
			if bad := got.differ(want, i, from, end); bad >= 0 {
				return fmt.Errorf("speculate: %s at %v: the answer about token %d, layer %d depends on what comes later, or on other questions", p.Name(), d.hor, bad, d.layer)
			}
		}
	}
	return nil
}

// inOrder asks all decisions in the order in which a model computes.
func (a *asked) inOrder(ds []decision) error {
	enc, s := a.seq.enc, a.seq.shape
	for i, d := range ds {
		for t := 0; d.layer < s.Encoder && t < enc; t++ {
			if err := a.ask(i, d, t, t+1); err != nil {
				return err
			}
		}
	}
	for t := enc; t < a.seq.n; t++ {
		for i, d := range ds {
			if d.layer < s.Encoder {
				continue
			}
			if err := a.ask(i, d, t, t+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// moment is a place in the order of computing: known layers are known of token t of
// the decoder, or of all tokens of the encoder where t is one of them, or not even
// the token's id where known is -1.
type moment struct{ t, known int }

// answered returns the tokens from..end-1 about which d was asked before.
func (m moment) answered(d decision, s Shape, n, enc int) (from, end int) {
	from, to := s.span(n, enc, d.layer)
	switch {
	case m.t < enc && (d.layer >= s.Encoder || d.known > m.known):
		return from, from
	case m.t < enc || d.layer < s.Encoder:
		return from, to
	case m.t < n && d.known <= m.known:
		return from, m.t + 1
	}
	return from, m.t
}

// hides reports whether the routing of token t at layer l comes after m.
func (m moment) hides(s Shape, enc, t, l int) bool {
	if m.t < enc || t < enc {
		return m.t < enc && (t >= enc || l >= m.known)
	}
	return t > m.t || t == m.t && l >= max(m.known, s.Encoder)
}

// hidesID reports whether the id of token t comes after m.
func (m moment) hidesID(enc, t int) bool {
	if m.t < enc {
		return t >= enc
	}
	return t > m.t || t == m.t && m.known < 0
}

// perturb returns doc with noise for everything that comes after a moment.
func perturb(h trace.Header, doc *trace.Document, at moment, rng *rand.Rand) *trace.Document {
	s, topK, enc := ShapeOf(h.Model), h.Model.LayerTopK(), doc.Encoded()
	d := *doc
	d.Tokens, d.Experts, d.Weights = slices.Clone(d.Tokens), slices.Clone(d.Experts), slices.Clone(d.Weights)
	d.RouterLogits, d.RouterInput = slices.Clone(d.RouterLogits), slices.Clone(d.RouterInput)
	noise := func(a []float32, row, width int) {
		for i := row * width; i < (row+1)*width && i < len(a); i++ {
			a[i] = float32(math.Abs(rng.NormFloat64()))
		}
	}
	for t := range d.Tokens {
		if at.hidesID(enc, t) {
			d.Tokens[t] = int32(rng.IntN(max(s.Vocabulary, 2)))
		}
		for l := range s.Layers {
			if (t < enc) != (l < s.Encoder) || !at.hides(s, enc, t, l) {
				continue
			}
			noise(d.Weights, t*s.Layers+l, s.TopK)
			if i, ok := slices.BinarySearch(h.LogitLayers, l); ok {
				noise(d.RouterLogits, t*len(h.LogitLayers)+i, s.Experts)
			}
			if i, ok := slices.BinarySearch(h.InputLayers, l); ok {
				noise(d.RouterInput, t*len(h.InputLayers)+i, s.Hidden)
			}
			for j, e := range rng.Perm(s.Experts)[:topK[l]] {
				d.Experts[(t*s.Layers+l)*s.TopK+j] = int32(e)
			}
		}
	}
	return &d
}

// CheckStepwise feeds doc to a [Session] token by token and layer by layer, and
// returns an error where an answer is not equal, to the last bit, to that for the
// whole document. Tokens of an encoder are fed at once, and not asked about.
func CheckStepwise(p Predictor, h trace.Header, doc *trace.Document, horizons []Horizon) error {
	if err := doc.Validate(&h); err != nil {
		return fmt.Errorf("speculate: %w", err)
	}
	ds, err := decisions(p, ShapeOf(h.Model), horizons)
	if err != nil {
		return err
	}
	want, err := newAsked(p, h, doc, len(ds))
	if err != nil {
		return err
	}
	for i, d := range ds {
		if err := want.askAll(i, d); err != nil {
			return err
		}
	}
	ses, err := NewSession(p, h)
	if err != nil {
		return err
	}
	s := ses.seq.shape
	got := make([]float32, s.Experts)
	return replay(ses, h, doc, ds, func(t, i int) error {
		if err := ses.PredictScores(ds[i].layer, ds[i].hor, got); err != nil {
			return err
		}
		for e, x := range want.out[i][t*s.Experts : (t+1)*s.Experts] {
			if math.Float32bits(x) != math.Float32bits(got[e]) {
				return fmt.Errorf("speculate: %s at %v, token %d, layer %d, expert %d: %g step by step, %g for the whole document", p.Name(), ds[i].hor, t, ds[i].layer, e, got[e], x)
			}
		}
		return nil
	})
}

// replay feeds doc to ses and calls ask, with the token and the index in ds, when
// each decision can be asked.
func replay(ses *Session, h trace.Header, doc *trace.Document, ds []decision, ask func(t, i int) error) error {
	s, enc := ses.seq.shape, doc.Encoded()
	if enc > 0 {
		if err := ses.Append(firstTokens(&h, doc, enc)); err != nil {
			return err
		}
	}
	all := func(t, known int) error {
		for i, d := range ds {
			if d.known == known && d.layer >= s.Encoder {
				if err := ask(t, i); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for t := enc; t < len(doc.Tokens); t++ {
		if err := all(t, -1); err != nil {
			return err
		}
		if err := ses.Begin(doc.Tokens[t]); err != nil {
			return err
		}
		if err := all(t, 0); err != nil {
			return err
		}
		for l := s.Encoder; l < s.Layers; l++ {
			if err := ses.Observe(ses.routing(doc, t, l)); err != nil {
				return err
			}
			if err := all(t, l+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstTokens returns the first n tokens of doc.
func firstTokens(h *trace.Header, doc *trace.Document, n int) *trace.Document {
	d, m := *doc, &h.Model
	d.Tokens, d.Experts = d.Tokens[:n], d.Experts[:n*m.Layers*m.TopK]
	if d.Positions != nil {
		d.Positions = d.Positions[:n]
	}
	if d.Phases != nil {
		d.Phases = d.Phases[:n]
	}
	if d.Weights != nil {
		d.Weights = d.Weights[:n*m.Layers*m.TopK]
	}
	if d.Dropped != nil {
		d.Dropped = d.Dropped[:n*m.Layers]
	}
	if d.RouterLogits != nil {
		d.RouterLogits = d.RouterLogits[:n*len(h.LogitLayers)*m.Experts]
	}
	if d.RouterInput != nil {
		d.RouterInput = d.RouterInput[:n*len(h.InputLayers)*m.Hidden]
	}
	return &d
}
