package speculate

import (
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/trace"
)

// Session predicts while a model decodes. It receives each token and each
// layer's routing as they happen, and predicts later layers. Its answers equal those for
// whole documents. It keeps as many earlier tokens as its predictor reads. A
// Session belongs to one sequence and one goroutine.
//
// Of a model with an encoder it predicts the decoder's layers, and only these are
// observed. The encoder's tokens, which are computed at once, come first, by Append.
type Session struct {
	p      Predictor
	needs  Requirements
	seq    *sequence
	layer  int // number of layers of the current token observed so far
	views  [1]View
	scores []float32
}

// Routing is the decision about one token at one layer, with what the router
// read and computed. Only what the predictor's [Requirements] name is used.
type Routing struct {
	Experts []int32   // [K], first choice first
	Weights []float32 // [K]
	Logits  []float32 // [E], router logits
	Input   []float32 // [D], router input
}

// NewSession starts a document for p. A model with header h must record what p
// requires.
func NewSession(p Predictor, h trace.Header) (*Session, error) {
	needs := p.Requires()
	if err := needs.Check(h); err != nil {
		return nil, fmt.Errorf("speculate: %s: %w", p.Name(), err)
	}
	if !needs.Logits {
		h.LogitLayers = nil
	}
	if !needs.Inputs {
		h.InputLayers = nil
	}
	h.NoWeights, h.Dropped = h.NoWeights || !needs.Weights, false
	seq, err := newSequence(h)
	if err != nil {
		return nil, err
	}
	return &Session{p: p, needs: needs, seq: seq, layer: seq.shape.Layers, scores: make([]float32, seq.shape.Experts)}, nil
}

// Begin starts the next token, with its id; [trace.NoToken] if it is unknown.
// Every layer of the token before it must have been observed.
func (s *Session) Begin(id int32) error {
	q := s.seq
	if s.layer != q.shape.Layers {
		return fmt.Errorf("speculate: token %d begins after %d of %d layers of the token before it", q.n, s.layer, q.shape.Layers)
	}
	if id < trace.NoToken || q.shape.Vocabulary > 0 && int(id) >= q.shape.Vocabulary {
		return fmt.Errorf("speculate: token %d: got id %d, expected one below %d", q.n, id, q.shape.Vocabulary)
	}
	lk := q.shape.Layers * q.shape.TopK
	if keep := s.needs.History + 1; keep > 0 && q.n-q.base >= 2*keep+16 {
		drop := q.n - q.base - keep
		q.base += drop
		q.tokens = shift(q.tokens, drop)
		q.experts = shift(q.experts, drop*lk)
		q.weights = shift(q.weights, drop*lk)
		q.logits = shift(q.logits, drop*q.nz*q.shape.Experts)
		q.inputs = shift(q.inputs, drop*q.nx*q.shape.Hidden)
	}
	s.extend(id)
	s.layer = q.shape.Encoder
	return nil
}

// extend appends an empty row.
func (s *Session) extend(id int32) {
	q := s.seq
	lk := q.shape.Layers * q.shape.TopK
	q.tokens = append(q.tokens, id)
	q.experts = append(q.experts, make([]int32, lk)...)
	if !q.header.NoWeights {
		q.weights = append(q.weights, make([]float32, lk)...)
	}
	q.logits = append(q.logits, make([]float32, q.nz*q.shape.Experts)...)
	q.inputs = append(q.inputs, make([]float32, q.nx*q.shape.Hidden)...)
	q.n++
}

// shift drops the first n values, of none if a is nil.
func shift[T any](a []T, n int) []T { return a[:copy(a, a[min(n, len(a)):])] }

// Observe receives the routing of the current token at the next layer, from the
// decoder's first on.
func (s *Session) Observe(r Routing) error {
	q, l := s.seq, s.layer
	if q.n == 0 || l == q.shape.Layers {
		return errors.New("speculate: routing observed after the last layer, or before a token began")
	}
	at, row := q.n-1-q.base, (q.n-1-q.base)*q.shape.Layers+l
	for _, x := range []struct {
		what      string
		got, want int
		needed    bool
	}{
		{"experts", len(r.Experts), q.shape.TopK, true},
		{"weights", len(r.Weights), q.shape.TopK, !q.header.NoWeights},
		{"router logits", len(r.Logits), q.shape.Experts, q.nz > 0},
		{"router input values", len(r.Input), q.shape.Hidden, q.nx > 0},
	} {
		if x.needed && x.got != x.want {
			return fmt.Errorf("speculate: token %d, layer %d: got %d %s, expected %d", q.n-1, l, x.got, x.what, x.want)
		}
	}
	for _, e := range r.Experts {
		if e < trace.NoExpert || int(e) >= q.shape.Experts {
			return fmt.Errorf("speculate: token %d, layer %d: got expert %d, expected one below %d", q.n-1, l, e, q.shape.Experts)
		}
	}
	copy(q.experts[row*q.shape.TopK:], r.Experts)
	if !q.header.NoWeights {
		copy(q.weights[row*q.shape.TopK:], r.Weights)
	}
	if q.nz > 0 { // of all layers: see Requirements.Check
		copy(q.logits[(at*q.nz+l)*q.shape.Experts:], r.Logits)
	}
	if q.nx > 0 {
		copy(q.inputs[(at*q.nx+l)*q.shape.Hidden:], r.Input)
	}
	s.layer++
	return nil
}

// Append receives all tokens of doc, in order, with their routing at all layers,
// for example a prompt that mixtral.Recorder recorded. doc must hold the arrays
// that the predictor requires; others may be nil. Append begins where a token has
// been observed completely, and observes nothing if doc is invalid. Tokens of an
// encoder must be all of its tokens, and the first that are observed.
func (s *Session) Append(doc *trace.Document) error {
	q, d := s.seq, *doc
	if q.nz == 0 {
		d.RouterLogits = nil
	}
	if q.nx == 0 {
		d.RouterInput = nil
	}
	if q.header.NoWeights {
		d.Weights = nil
	}
	d.Dropped = nil
	if err := d.Validate(&q.header); err != nil {
		return fmt.Errorf("speculate: %w", err)
	}
	enc := d.Encoded()
	if enc > 0 && q.n > 0 {
		return fmt.Errorf("speculate: %d tokens of an encoder after %d tokens", enc, q.n)
	}
	q.enc = max(q.enc, enc)
	for t, id := range d.Tokens {
		from, to := q.shape.Encoder, q.shape.Layers
		if t < enc {
			from, to = 0, q.shape.Encoder
			s.extend(id)
		} else if err := s.Begin(id); err != nil {
			return err
		}
		for s.layer = from; s.layer < to; {
			if err := s.Observe(s.routing(&d, t, s.layer)); err != nil {
				return err
			}
		}
		s.layer = q.shape.Layers
	}
	return nil
}

// routing returns what s needs of token t of doc at layer l.
func (s *Session) routing(doc *trace.Document, t, l int) Routing {
	q := s.seq
	r := Routing{Experts: doc.ExpertsAt(&q.header.Model, t, l)}
	if !q.header.NoWeights {
		r.Weights = doc.WeightsAt(&q.header.Model, t, l)
	}
	if q.nz > 0 {
		r.Logits = doc.RouterLogits[(t*q.nz+l)*q.shape.Experts:][:q.shape.Experts]
	}
	if q.nx > 0 {
		r.Input = doc.RouterInput[(t*q.nx+l)*q.shape.Hidden:][:q.shape.Hidden]
	}
	return r
}

// Predict predicts the experts of a layer. At a distance of h layers and at
// horizon token+id the question is about the current token; in the first case its
// layer-h must have been observed. At horizon token it is about the token after
// the current one, all layers of which must have been observed.
func (s *Session) Predict(layer int, h Horizon) (Prediction, error) {
	if err := s.PredictScores(layer, h, s.scores); err != nil {
		return Prediction{}, err
	}
	return newPrediction(s.scores), nil
}

// PredictScores is Predict without the ordering. It writes the probability of
// each expert to scores, [E], and allocates nothing itself.
func (s *Session) PredictScores(layer int, h Horizon, scores []float32) error {
	q := s.seq
	if err := h.Validate(q.shape.Depth()); err != nil {
		return err
	}
	t, first := q.n-1, q.shape.Encoder+h.Layers
	switch {
	case layer < first || layer >= q.shape.Layers:
		return fmt.Errorf("speculate: layer %d at %v; must be %d to %d", layer, h, first, q.shape.Layers-1)
	case h.Layers > 0 && layer-h.Layers >= s.layer:
		return fmt.Errorf("speculate: layer %d at %v: only %d layers have been observed", layer, h, s.layer)
	case t < q.enc && (h.Layers > 0 || h.KnownID):
		return fmt.Errorf("speculate: layer %d at %v: no token has begun", layer, h)
	case h.Layers == 0 && !h.KnownID:
		if s.layer != q.shape.Layers {
			return fmt.Errorf("speculate: layer %d at %v: only %d of %d layers have been observed", layer, h, s.layer, q.shape.Layers)
		}
		t++
	}
	if !Supports(s.p, q.shape, h, layer) {
		return fmt.Errorf("speculate: %s at %v: %w", s.p.Name(), h, ErrHorizon)
	}
	s.views[0] = q.view(t, layer, h)
	if err := s.p.Predict(s.views[:], scores); err != nil {
		return fmt.Errorf("speculate: %s at %v, layer %d: %w", s.p.Name(), h, layer, err)
	}
	return nil
}
