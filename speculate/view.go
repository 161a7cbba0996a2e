package speculate

import (
	"fmt"

	"github.com/expertspec/expertspec/trace"
)

// Shape is the geometry that predictors are fitted for.
type Shape struct {
	Layers     int `json:"layers"`     // L
	Experts    int `json:"experts"`    // E
	TopK       int `json:"top_k"`      // K
	Hidden     int `json:"hidden"`     // D; 0: unknown
	Vocabulary int `json:"vocabulary"` // V; 0: unknown
	// Encoder is the number of layers of the encoder, which are the first; 0 in a
	// model without one.
	Encoder int `json:"encoder,omitempty"`
}

// ShapeOf returns the geometry of a model.
func ShapeOf(m trace.Model) Shape {
	s := Shape{Layers: m.Layers, Experts: m.Experts, TopK: m.TopK, Hidden: m.Hidden, Vocabulary: m.Vocabulary}
	if len(m.Stacks) > 0 && m.Stacks[0].Name == trace.Encoder {
		s.Encoder = m.Stacks[0].Layers
	}
	return s
}

// FirstLayer returns the first layer of the stack of a layer: 0, or in the decoder
// of a model with an encoder, [Shape].Encoder.
func (s Shape) FirstLayer(layer int) int {
	if layer < s.Encoder {
		return 0
	}
	return s.Encoder
}

// Depth returns the number of layers of the deepest stack, which distances in layers
// are below.
func (s Shape) Depth() int { return max(s.Encoder, s.Layers-s.Encoder) }

// Targets returns the layers whose experts are predicted at h, ascending: at a
// distance in layers, all but the first h.Layers of each stack; at the zero Horizon,
// which tokens of an encoder do not have, those of the decoder; otherwise all.
func (s Shape) Targets(h Horizon) []int {
	var ls []int
	for l := range s.Layers {
		if l-s.FirstLayer(l) >= h.Layers && (l >= s.Encoder || h != Horizon{}) {
			ls = append(ls, l)
		}
	}
	return ls
}

// span returns the tokens from..to-1 of a document of n tokens, the first enc of the
// encoder, that pass a layer.
func (s Shape) span(n, enc, layer int) (from, to int) {
	if layer < s.Encoder {
		return 0, enc
	}
	return enc, n
}

// Validate returns an error for sizes that no model has.
func (s Shape) Validate() error {
	const most = 1 << 20 // bounds products of sizes, and the memory that a corrupt file can allocate
	if s.Layers > most>>4 || s.Experts > most>>4 || s.Hidden > most || s.Vocabulary > most<<4 || s.Layers < 1 || s.Experts < 1 || s.TopK < 1 || s.TopK > s.Experts || s.Hidden < 0 || s.Vocabulary < 0 || s.Encoder < 0 || s.Encoder > s.Layers {
		return fmt.Errorf("speculate: shape L=%d E=%d K=%d D=%d V=%d with %d layers of an encoder is invalid", s.Layers, s.Experts, s.TopK, s.Hidden, s.Vocabulary, s.Encoder)
	}
	return nil
}

// sequence is what is known of one document: all of it in evaluation, a growing
// window in a [Session]. Rows start at token base.
type sequence struct {
	header  trace.Header
	shape   Shape
	base, n int // tokens base..n-1 are held
	enc     int // the first enc tokens are the encoder's
	tokens  []int32
	experts []int32   // [n-base,L,K]
	weights []float32 // [n-base,L,K]
	logits  []float32 // [n-base,nz,E]
	inputs  []float32 // [n-base,nx,D]
	// logitAt and inputAt are each layer's row in logits and inputs, -1 for none.
	logitAt, inputAt []int
	nz, nx           int
	memories         map[any]*memory // by owner
}

func layerIndex(layers int, recorded []int) ([]int, error) {
	at := make([]int, layers)
	for i := range at {
		at[i] = -1
	}
	for i, l := range recorded {
		if l < 0 || l >= layers || i > 0 && l <= recorded[i-1] {
			return nil, fmt.Errorf("speculate: recorded layers %v; must be ascending and below %d", recorded, layers)
		}
		at[l] = i
	}
	return at, nil
}

func newSequence(h trace.Header) (*sequence, error) {
	s := &sequence{header: h, shape: ShapeOf(h.Model), nz: len(h.LogitLayers), nx: len(h.InputLayers)}
	if err := s.shape.Validate(); err != nil {
		return nil, err
	}
	var err error
	if s.logitAt, err = layerIndex(s.shape.Layers, h.LogitLayers); err != nil {
		return nil, err
	}
	if s.inputAt, err = layerIndex(s.shape.Layers, h.InputLayers); err != nil {
		return nil, err
	}
	return s, nil
}

// setDocument makes s hold all of doc, without copying, if it is valid.
func (s *sequence) setDocument(doc *trace.Document) error {
	if err := doc.Validate(&s.header); err != nil {
		return fmt.Errorf("speculate: %w", err)
	}
	s.hold(doc)
	return nil
}

// hold is setDocument of a document that is valid.
func (s *sequence) hold(doc *trace.Document) {
	s.base, s.n, s.enc, s.memories = 0, len(doc.Tokens), doc.Encoded(), nil
	s.tokens, s.experts, s.weights, s.logits, s.inputs = doc.Tokens, doc.Experts, doc.Weights, doc.RouterLogits, doc.RouterInput
}

// Order is the order in which a model computes tokens and layers. It decides what is
// known when an expert is predicted, and so what a [View] shows.
type Order int

const (
	// TokenByToken is the order of a decoder: one token after another, each through
	// all layers. Known are all earlier tokens at all layers, and of the token itself
	// the layers up to the horizon. A decoder behind an encoder also knows all of that.
	TokenByToken Order = iota
	// LayerByLayer is the order of an encoder: one layer after another, each for all
	// tokens at once. Known are the ids of all tokens of the encoder, before and after,
	// and of all of them the layers up to the horizon; of no token, not even of an
	// earlier one, anything at the layers above.
	LayerByLayer
)

// View is what is known when the experts of one token at one layer are predicted.
// Its methods return nil, or false, for what comes later, for what is not recorded,
// for layers of a stack that does not compute the token, and before the start of
// the document. Their results share memory with the trace and must not be modified.
//
// What comes later depends on the view's [Order]. A predictor needs no regard for it
// unless it makes use of an encoder's later tokens: what it may not read is nil.
type View struct {
	seq   *sequence
	t, l  int
	limit int // routing of token t is known for layers below limit
	knows bool
	hor   Horizon
}

func (s *sequence) view(t, l int, h Horizon) View {
	return View{seq: s, t: t, l: l, limit: max(0, l-h.Layers+1) * min(1, h.Layers), knows: h.Layers > 0 || h.KnownID, hor: h}
}

// Views returns the views of one document, all of which is known. Training a
// predictor needs them.
type Views struct{ seq *sequence }

// NewViews validates doc against h and returns its views.
func NewViews(h trace.Header, doc *trace.Document) (*Views, error) {
	seq, err := newSequence(h)
	if err == nil {
		err = seq.setDocument(doc)
	}
	if err != nil {
		return nil, err
	}
	return &Views{seq}, nil
}

// At returns what is known of the document when (t, layer) is predicted at h.
func (d *Views) At(t, layer int, h Horizon) View { return d.seq.view(t, layer, h) }

// Token returns the index in the document of the token of the prediction.
func (v View) Token() int { return v.t }

// Layer returns the layer of the prediction.
func (v View) Layer() int { return v.l }

// Horizon returns the horizon of the prediction.
func (v View) Horizon() Horizon { return v.hor }

// Order returns the order of computing that decides what the view shows.
func (v View) Order() Order {
	if v.t < v.seq.enc {
		return LayerByLayer
	}
	return TokenByToken
}

// Tokens returns the tokens from..to-1 of which the view may know something: up to
// v.Token(), and in the order [LayerByLayer] all of the encoder's.
func (v View) Tokens() (from, to int) { return v.seq.base, max(v.t+1, v.tokensOfEncoder()) }

// tokensOfEncoder is their number in the order LayerByLayer, else 0.
func (v View) tokensOfEncoder() int {
	if v.Order() == LayerByLayer {
		return v.seq.enc
	}
	return 0
}

// Shape returns the model's geometry.
func (v View) Shape() Shape { return v.seq.shape }

// ID returns the id of token t, and false if it is not known or not recorded.
func (v View) ID(t int) (int32, bool) {
	s := v.seq
	if v.Order() == LayerByLayer {
		if t < s.base || t >= s.enc || !v.knows {
			return 0, false
		}
	} else if t < s.base || t >= s.n && t != v.t || t > v.t || t == v.t && !v.knows || t-s.base >= len(s.tokens) {
		return 0, false
	}
	id := s.tokens[t-s.base]
	return id, id != trace.NoToken
}

// Visible reports whether the routing of token t at layer l is known.
func (v View) Visible(t, l int) bool {
	s := v.seq
	switch {
	case t < s.base || l < 0 || l >= s.shape.Layers || (t < s.enc) != (l < s.shape.Encoder):
		return false
	case v.Order() == LayerByLayer:
		return t < s.enc && l < v.limit
	case t < s.enc:
		return true
	}
	return t < v.t || t == v.t && l < v.limit
}

// slice returns row (t, at) of a, [n,rows,width], if the routing of (t, l) is known.
func (v View) slice(a []float32, t, l, at, rows, width int) []float32 {
	if at < 0 || width == 0 || !v.Visible(t, l) {
		return nil
	}
	i := ((t-v.seq.base)*rows + at) * width
	if i+width > len(a) {
		return nil
	}
	return a[i : i+width : i+width]
}

// Experts returns the experts of token t at layer l, [K], first choice first;
// [trace.NoExpert] where there were fewer.
func (v View) Experts(t, l int) []int32 {
	if !v.Visible(t, l) {
		return nil
	}
	k := v.seq.shape.TopK
	i := ((t-v.seq.base)*v.seq.shape.Layers + l) * k
	if i+k > len(v.seq.experts) {
		return nil
	}
	return v.seq.experts[i : i+k : i+k]
}

// Weights returns the routing weights of token t at layer l, [K].
func (v View) Weights(t, l int) []float32 {
	return v.slice(v.seq.weights, t, l, l, v.seq.shape.Layers, v.seq.shape.TopK)
}

// Logits returns the router logits of token t at layer l, [E].
func (v View) Logits(t, l int) []float32 {
	if l < 0 || l >= len(v.seq.logitAt) {
		return nil
	}
	return v.slice(v.seq.logits, t, l, v.seq.logitAt[l], v.seq.nz, v.seq.shape.Experts)
}

// Input returns the router input of token t at layer l, [D]: the normalized
// hidden state that the router and the experts read.
func (v View) Input(t, l int) []float32 {
	if l < 0 || l >= len(v.seq.inputAt) {
		return nil
	}
	return v.slice(v.seq.inputs, t, l, v.seq.inputAt[l], v.seq.nx, v.seq.shape.Hidden)
}

// memory is what a predictor keeps of the tokens of one document.
type memory struct {
	width int
	start int // token of the first row
	rows  []float32
	begin []View // scratch of Memory
}

// Memory returns what owner keeps of a document's tokens, a row [width] for each
// of v.Tokens() whose id v's horizon knows, so that work on a token is done once and
// not for each question. The row of a token holds what can be computed when the token
// begins, from its id and from everything of earlier tokens. That of a token of an
// encoder holds what can be computed before the encoder runs, from the ids of all its
// tokens.
//
// fill is called to complete the rows. It receives, for each token without a row,
// a view of what is known when that token begins, in order; rows are those of
// all tokens from first on, and it must use nothing else of the document.
// [CheckCausality] finds a predictor that does.
//
// Memory returns the index of the first token and the rows. In a [Session] the
// rows reach back as far as [Requirements].History, and start later where owner
// was not called for longer than that.
func (v View) Memory(owner any, width int, fill func(begin []View, first int, rows []float32)) (first int, rows []float32) {
	s := v.seq
	m := s.memories[owner]
	if m == nil || m.width != width {
		if s.memories == nil {
			s.memories = map[any]*memory{}
		}
		m = &memory{width: width, start: s.base}
		s.memories[owner] = m
	}
	if drop := s.base - m.start; drop > 0 { // the window moved on
		m.rows = m.rows[min(drop*width, len(m.rows)):]
		m.start = s.base
	}
	from := m.start + len(m.rows)/width
	end := v.identified()
	if from < end {
		m.rows = append(m.rows, make([]float32, (end-from)*width)...)
		m.begin = m.begin[:0]
		for t := from; t < end; t++ {
			first := s.shape.Encoder
			if t < s.enc {
				first = 0
			}
			m.begin = append(m.begin, s.view(t, first, Horizon{KnownID: true}))
		}
		fill(m.begin, m.start, m.rows)
	}
	n := (end - m.start) * width
	return m.start, m.rows[:n:n]
}

// identified returns the end of the tokens whose ids are known.
func (v View) identified() int {
	_, end := v.Tokens()
	switch {
	case v.knows:
		return end
	case v.Order() == LayerByLayer:
		return v.seq.base
	}
	return end - 1
}
