package mixtral

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/trace"
)

// TraceModel returns the model's description in a trace's header.
func (c Config) TraceModel(name string) trace.Model {
	return trace.Model{
		Name: name, Layers: c.Layers, Stacks: []trace.Stack{{Name: "decoder", Layers: c.Layers}},
		Experts: c.Experts, TopK: c.TopK, Hidden: c.HiddenSize, Vocabulary: c.VocabSize,
	}
}

// Recorder turns the routing that its Observe method, a [Hook], receives into
// trace documents: that of a batch, in any number of chunks, or of documents
// that are continued over a [Cache], as by [Model.Generate].
//
// In prefill a model computes all tokens at layer 0, then all at layer 1, and so
// on, whereas a document is in order of tokens. [Recorder.Take] returns the
// tokens that are complete: after a forward pass, in GenerateOptions.Token, or in
// a hook at the last layer. A program that predicts while the model runs gives
// each such segment to the Append method of speculate.Session.
//
// A Recorder records one pass at a time; after one that failed, use a new one.
// Its methods may be called from several goroutines.
type Recorder struct {
	h       trace.Header
	logitAt []int // of each layer, its index in h.LogitLayers, or -1; [L]
	inputAt []int // likewise in h.InputLayers
	mu      sync.Mutex
	docs    []*recording // by index in the request; nil before the first token
	rows    []row
	spare   []*trace.Document
}

// recording is a document that is being recorded.
type recording struct {
	doc   *trace.Document // the tokens that are not taken
	first int             // position of doc's first token
	done  int             // tokens of doc recorded at all layers
	layer int             // the next to record of the others
}

// row is the place of a row of a Routing: a token of a document.
type row struct {
	doc *trace.Document
	t   int
}

// NewRecorder returns a recorder of documents that agree with h: its model (see
// [Config.TraceModel]), and the layers whose router logits and router inputs are
// recorded. The latter require RouterInput in the request.
func NewRecorder(h trace.Header) (*Recorder, error) {
	if err := h.Validate(); err != nil {
		return nil, prefixed(err)
	}
	indices := func(layers []int) []int {
		at := slices.Repeat([]int{-1}, h.Model.Layers)
		for i, layer := range layers {
			at[layer] = i
		}
		return at
	}
	return &Recorder{h: h, logitAt: indices(h.LogitLayers), inputAt: indices(h.InputLayers)}, nil
}

// Take returns the tokens recorded of the doc-th document of the request since
// the last Take, T >= 1 of them; nil without new tokens, or while the model
// computes some of them. The caller owns the result, and sets its Dataset and ID.
// Positions is nil for a segment that begins at position 0, Phases for one that
// is all prefill.
func (r *Recorder) Take(doc int) *trace.Document {
	r.mu.Lock()
	defer r.mu.Unlock()
	if doc < 0 || doc >= len(r.docs) || r.docs[doc] == nil {
		return nil
	}
	rec := r.docs[doc]
	d, n := rec.doc, rec.done
	if d == nil || n < d.Len() {
		return nil
	}
	if rec.first > 0 {
		d.Positions = make([]int32, n)
		for t := range d.Positions {
			d.Positions[t] = int32(rec.first + t)
		}
	}
	*rec = recording{first: rec.first + n}
	return d
}

// Reuse gives the recorder the memory of a document that is no longer needed.
func (r *Recorder) Reuse(d *trace.Document) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = append(r.spare, d)
}

// newDocument returns an empty document, in the memory of a spare one if any.
func (r *Recorder) newDocument() *trace.Document {
	n := len(r.spare)
	if n == 0 {
		return new(trace.Document)
	}
	d := r.spare[n-1]
	r.spare = r.spare[:n-1]
	return &trace.Document{Tokens: d.Tokens[:0], Experts: d.Experts[:0], Weights: d.Weights[:0],
		RouterLogits: d.RouterLogits[:0], RouterInput: d.RouterInput[:0]}
}

// Observe records a layer's routing: the value of Request.Observe. The errors are
// about a model other than the header's, router input that the request does not
// provide, and tokens that do not follow those recorded before.
func (r *Recorder) Observe(_ context.Context, rt *Routing) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(rt); err != nil {
		return err
	}
	r.rows = r.rows[:0]
	for from, to := 0, 0; from < len(rt.Document); from = to {
		for to = from + 1; to < len(rt.Document) && rt.Document[to] == rt.Document[from]; to++ {
		}
		if err := r.document(rt, from, to); err != nil {
			return err
		}
	}
	const part = 2048 // rows that are worth a goroutine
	var wg sync.WaitGroup
	limit := max(part, (len(r.rows)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := 0; from < len(r.rows); from += limit {
		wg.Go(func() { r.copy(rt, from, min(from+limit, len(r.rows))) })
	}
	wg.Wait()
	return nil
}

// check reports routing that does not agree with the header.
func (r *Recorder) check(rt *Routing) error {
	m, n := &r.h.Model, len(rt.Document)
	switch {
	case rt.Layers != m.Layers || len(rt.Logits) != n*m.Experts || len(rt.Experts) != n*m.TopK:
		return fmt.Errorf("recorder: the model has %d layers, %d experts and top-k %d; the header says %d, %d and %d",
			rt.Layers, len(rt.Logits)/max(n, 1), len(rt.Experts)/max(n, 1), m.Layers, m.Experts, m.TopK)
	case r.inputAt[rt.Layer] >= 0 && rt.Input == nil:
		return fmt.Errorf("recorder: the header says that router input is recorded; set RouterInput in the request")
	case r.inputAt[rt.Layer] >= 0 && len(rt.Input) != n*m.Hidden:
		return fmt.Errorf("recorder: the router input has %d values, the header says %d", len(rt.Input)/max(n, 1), m.Hidden)
	}
	return nil
}

// document makes room for rows from..to, which are of one document.
func (r *Recorder) document(rt *Routing, from, to int) error {
	doc, n := rt.Document[from], to-from
	if doc >= len(r.docs) {
		r.docs = append(r.docs, make([]*recording, doc+1-len(r.docs))...)
	}
	if r.docs[doc] == nil {
		r.docs[doc] = new(recording)
	}
	rec := r.docs[doc]
	if rec.doc == nil {
		if rt.Position[from] == 0 {
			rec.first = 0 // another document
		}
		rec.doc = r.newDocument()
	}
	d := rec.doc
	next := rec.first + rec.done
	if rt.Layer != rec.layer || int(rt.Position[from]) != next || rt.Layer > 0 && n != d.Len()-rec.done {
		return fmt.Errorf("recorder: document %d: got %d tokens from position %d at layer %d, expected position %d at layer %d: take earlier documents before a new batch, and use a new Recorder after a pass that failed",
			doc, n, rt.Position[from], rt.Layer, next, rec.layer)
	}
	if rt.Layer == 0 {
		r.extend(d, rt, from, to)
	}
	for i := range n {
		r.rows = append(r.rows, row{d, rec.done + i})
	}
	if rec.layer++; rec.layer == rt.Layers {
		rec.layer, rec.done = 0, d.Len()
	}
	return nil
}

// extend appends the tokens of rows from..to, without routing.
func (r *Recorder) extend(d *trace.Document, rt *Routing, from, to int) {
	m, n := &r.h.Model, to-from
	if d.Phases == nil && rt.Phase[from] != trace.Prefill {
		d.Phases = slices.Repeat([]trace.Phase{trace.Prefill}, d.Len())
	}
	if d.Phases != nil {
		d.Phases = append(d.Phases, rt.Phase[from:to]...)
	}
	d.Tokens = append(d.Tokens, rt.Token[from:to]...)
	d.Experts = extend(d.Experts, n*m.Layers*m.TopK)
	if !r.h.NoWeights {
		d.Weights = extend(d.Weights, n*m.Layers*m.TopK)
	}
	d.RouterLogits = extend(d.RouterLogits, n*len(r.h.LogitLayers)*m.Experts)
	d.RouterInput = extend(d.RouterInput, n*len(r.h.InputLayers)*m.Hidden)
}

// extend returns s with n more elements of undefined value; nil for nil and 0.
func extend[T any](s []T, n int) []T { return slices.Grow(s, n)[:len(s)+n] }

// copy copies rows from..to.
func (r *Recorder) copy(rt *Routing, from, to int) {
	m := &r.h.Model
	k, e, d := m.TopK, m.Experts, m.Hidden
	for i := from; i < to; i++ {
		doc, t := r.rows[i].doc, r.rows[i].t
		at := (t*m.Layers + rt.Layer) * k
		copy(doc.Experts[at:at+k], rt.Experts[i*k:])
		if !r.h.NoWeights {
			copy(doc.Weights[at:at+k], rt.Weights[i*k:])
		}
		if z := r.logitAt[rt.Layer]; z >= 0 {
			copy(doc.RouterLogits[(t*len(r.h.LogitLayers)+z)*e:][:e], rt.Logits[i*e:])
		}
		if x := r.inputAt[rt.Layer]; x >= 0 {
			copy(doc.RouterInput[(t*len(r.h.InputLayers)+x)*d:][:d], rt.Input[i*d:])
		}
	}
}
