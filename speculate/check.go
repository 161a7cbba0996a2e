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
// asked once the routing of known layers of the token is known; of 0 layers where
// its id is, and of -1 before that.
type decision struct {
	hor          Horizon
	layer, known int
}

// decisions lists those that p supports in the order in which they can be asked.
func decisions(p Predictor, s Shape, horizons []Horizon) ([]decision, error) {
	var ds []decision
	for _, h := range horizons {
		if err := h.Validate(s.Layers); err != nil {
			return nil, err
		}
		for l := h.FirstLayer(); l < s.Layers && p.Supports(h); l++ {
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

// differ is the first token before end whose answers to the i-th decision differ
// from b's; -1: none.
func (a *asked) differ(b *asked, i, end int) int {
	e := a.seq.shape.Experts
	for t := range end {
		if !slices.EqualFunc(a.out[i][t*e:(t+1)*e], b.out[i][t*e:(t+1)*e], func(x, y float32) bool {
			return math.Float32bits(x) == math.Float32bits(y)
		}) {
			return t
		}
	}
	return -1
}

// futures is how many changed futures CheckCausality tries.
const futures = 24

// CheckCausality checks that the answers of p depend on nothing that comes after
// a decision. It asks about each token and layer of doc at all horizons that p
// supports, in the order in which a model decodes, where the future cannot be
// known. Then it asks again, in other orders and about all tokens in one call, as
// [Evaluate] does: about doc, and about copies of it whose later part is replaced
// by noise. Answers that are not equal to the last bit are an error that names
// the predictor, the horizon, the token and the layer.
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
	n := len(doc.Tokens)
	for t := range n {
		for i, d := range ds {
			if err := want.ask(i, d, t, t+1); err != nil {
				return err
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for f := range futures + 1 {
		t, known, changed := n, -1, doc
		order := rng.Perm(len(ds))
		if f == 0 { // nothing is changed
			slices.Sort(order)
		} else {
			t, known = rng.IntN(n), rng.IntN(shape.Layers+1)-1
			changed = perturb(h, doc, t, known, rng)
		}
		got, err := newAsked(p, h, changed, len(ds))
		if err != nil {
			return err
		}
		for _, i := range order {
			if err := got.ask(i, ds[i], 0, n); err != nil {
				return err
			}
		}
		for i, d := range ds {
			end := t // answers before it are known
			if t < n && d.known <= known {
				end++
			}
			if bad := got.differ(want, i, end); bad >= 0 {
				return fmt.Errorf("speculate: %s at %v: the answer about token %d, layer %d depends on what comes later, or on other questions", p.Name(), d.hor, bad, d.layer)
			}
		}
	}
	return nil
}

// perturb returns doc with noise for everything that is unknown when known
// layers of token t are known, or not even its id where known is -1.
func perturb(h trace.Header, doc *trace.Document, t, known int, rng *rand.Rand) *trace.Document {
	s := ShapeOf(h.Model)
	d := *doc
	d.Tokens, d.Experts, d.Weights = slices.Clone(d.Tokens), slices.Clone(d.Experts), slices.Clone(d.Weights)
	d.RouterLogits, d.RouterInput = slices.Clone(d.RouterLogits), slices.Clone(d.RouterInput)
	layers := max(known, 0)
	noise := func(a []float32, width, from int) {
		for i := t*width + from; i < len(a); i++ {
			a[i] = float32(math.Abs(rng.NormFloat64()))
		}
	}
	below := func(recorded []int) int {
		n, _ := slices.BinarySearch(recorded, layers)
		return n
	}
	noise(d.Weights, s.Layers*s.TopK, layers*s.TopK)
	noise(d.RouterLogits, len(h.LogitLayers)*s.Experts, below(h.LogitLayers)*s.Experts)
	noise(d.RouterInput, len(h.InputLayers)*s.Hidden, below(h.InputLayers)*s.Hidden)
	for i := t*s.Layers + layers; i < len(doc.Tokens)*s.Layers; i++ {
		for j, e := range rng.Perm(s.Experts)[:s.TopK] {
			d.Experts[i*s.TopK+j] = int32(e)
		}
	}
	for i := t; i < len(d.Tokens); i++ {
		if i > t || known < 0 {
			d.Tokens[i] = int32(rng.IntN(max(s.Vocabulary, 2)))
		}
	}
	return &d
}

// CheckStepwise feeds doc to a [Session] token by token and layer by layer, and
// returns an error where an answer is not equal, to the last bit, to that for the
// whole document.
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
		if err := want.ask(i, d, 0, len(doc.Tokens)); err != nil {
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
	all := func(t, known int) error {
		for i, d := range ds {
			if d.known == known {
				if err := ask(t, i); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for t, id := range doc.Tokens {
		if err := all(t, -1); err != nil {
			return err
		}
		if err := ses.Begin(id); err != nil {
			return err
		}
		if err := all(t, 0); err != nil {
			return err
		}
		for l := range ses.seq.shape.Layers {
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
