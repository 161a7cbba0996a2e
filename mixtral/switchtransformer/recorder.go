package switchtransformer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/trace"
)

// Recorder turns the routing that its Observe method, a [Hook], receives into trace
// documents: that of a batch, or of texts whose decoders are continued over a [Cache],
// as by [Model.Generate]. A document holds the tokens of the encoder and then those of
// the decoder, whose positions continue; see Header.Model in package trace for its
// layers. [Recorder.Take] returns the tokens that are complete: after a forward pass,
// or in GenerateOptions.Token.
//
// A Recorder records one pass at a time; after one that failed, use a new one. Its
// methods may be called from several goroutines.
type Recorder struct {
	h      trace.Header
	offset [stacks]int // first layer of each stack in the trace
	layers [stacks]int // of each stack
	logits []int       // of each layer, its index in h.LogitLayers, or -1; [L]
	inputs []int       // likewise in h.InputLayers
	mu     sync.Mutex
	docs   []*recording // by index in the request; nil before the first token
	spare  []*trace.Document
}

// recording is a document that is being recorded.
type recording struct {
	doc   *trace.Document // the tokens that are not taken; nil: none
	first int             // position of doc's first token
	done  int             // tokens of doc recorded at all layers of their stack
	stack Stack           // of the others
	layer int             // the next to record of the others
	count [stacks]int     // tokens recorded at all layers, taken or not
}

// NewRecorder returns a recorder of documents that agree with h: its model (see
// [Config.TraceModel]), the layers whose router logits and router inputs are recorded,
// and whether dropped tokens are. Router inputs require RouterInput in the request.
func NewRecorder(h trace.Header) (*Recorder, error) {
	if err := h.Validate(); err != nil {
		return nil, prefixed(err)
	}
	r := &Recorder{h: h, logits: indices(h.LogitLayers, h.Model.Layers), inputs: indices(h.InputLayers, h.Model.Layers)}
	first := 0
	for _, s := range h.Model.Stacks {
		switch s.Name {
		case trace.Encoder:
			r.offset[Encoder], r.layers[Encoder] = first, s.Layers
		case trace.Decoder:
			r.offset[Decoder], r.layers[Decoder] = first, s.Layers
		default:
			return nil, fmt.Errorf("switchtransformer: recorder: the header has a stack %q; must be encoder or decoder", s.Name)
		}
		first += s.Layers
	}
	if first == 0 || h.Model.TopK != 1 {
		return nil, errors.New("switchtransformer: recorder: the header's model is not that of Config.TraceModel")
	}
	return r, nil
}

// indices returns for each of n layers its index in list, or -1.
func indices(list []int, n int) []int {
	at := slices.Repeat([]int{-1}, n)
	for i, layer := range list {
		at[layer] = i
	}
	return at
}

// Take returns the tokens recorded of the doc-th text of the request since the last
// Take, T >= 1 of them; nil without new tokens, or while the model computes some of
// them. The caller owns the result, and sets its Dataset and ID. Positions is nil for a
// segment that begins at position 0.
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
	rec.doc, rec.first, rec.done = nil, rec.first+n, 0
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
	return &trace.Document{Tokens: d.Tokens[:0], Phases: d.Phases[:0], Experts: d.Experts[:0], Weights: d.Weights[:0],
		Dropped: d.Dropped[:0], RouterLogits: d.RouterLogits[:0], RouterInput: d.RouterInput[:0]}
}

// Observe records a layer's routing: the value of Request.Observe. The errors are about
// a model other than the header's, router input that the request does not provide, and
// tokens that do not follow those recorded before.
func (r *Recorder) Observe(_ context.Context, rt *Routing) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(rt); err != nil {
		return err
	}
	for from, to := 0, 0; from < len(rt.Document); from = to {
		for to = from + 1; to < len(rt.Document) && rt.Document[to] == rt.Document[from]; to++ {
		}
		if err := r.document(rt, from, to); err != nil {
			return err
		}
	}
	return nil
}

// check reports routing that does not agree with the header.
func (r *Recorder) check(rt *Routing) error {
	m, n := &r.h.Model, len(rt.Document)
	if rt.Layers != r.layers[rt.Stack] || len(rt.Logits) != n*m.Experts {
		return fmt.Errorf("recorder: the model has %d layers in its %s and %d experts; the header says %d and %d",
			rt.Layers, rt.Stack, len(rt.Logits)/max(n, 1), r.layers[rt.Stack], m.Experts)
	}
	if r.inputs[r.offset[rt.Stack]+rt.Layer] < 0 {
		return nil
	}
	if rt.Input == nil {
		return errors.New("recorder: the header says that router input is recorded; set RouterInput in the request")
	}
	if len(rt.Input) != n*m.Hidden {
		return fmt.Errorf("recorder: the router input has %d values, the header says %d", len(rt.Input)/max(n, 1), m.Hidden)
	}
	return nil
}

// document records rows from..to, which are of one document.
func (r *Recorder) document(rt *Routing, from, to int) error {
	doc, n := rt.Document[from], to-from
	if doc >= len(r.docs) {
		r.docs = append(r.docs, make([]*recording, doc+1-len(r.docs))...)
	}
	if r.docs[doc] == nil {
		r.docs[doc] = new(recording)
	}
	rec := r.docs[doc]
	begins := rt.Layer == 0 && rt.Position[from] == 0 && (rt.Stack == Encoder || r.layers[Encoder] == 0)
	if rec.doc == nil {
		if begins { // another text
			*rec = recording{}
		}
		rec.doc = r.newDocument()
	}
	d := rec.doc
	if rec.layer == 0 {
		rec.stack = rt.Stack
	}
	if rt.Stack != rec.stack || rt.Layer != rec.layer || int(rt.Position[from]) != rec.count[rt.Stack] ||
		rt.Layer > 0 && n != d.Len()-rec.done || rt.Stack == Encoder && rec.count != [stacks]int{} {
		return fmt.Errorf("recorder: document %d: got %d tokens from position %d at layer %d of the %s, expected position %d at layer %d of the %s: take earlier documents before a new batch, and use a new Recorder after a pass that failed",
			doc, n, rt.Position[from], rt.Layer, rt.Stack, rec.count[rec.stack], rec.layer, rec.stack)
	}
	if rt.Layer == 0 {
		r.extend(d, rt, from, to)
	}
	r.copy(rt, from, to, d, rec.done)
	if rec.layer++; rec.layer == rt.Layers {
		rec.layer, rec.done = 0, d.Len()
		rec.count[rt.Stack] += n
	}
	return nil
}

// extend appends the tokens of rows from..to, without routing.
func (r *Recorder) extend(d *trace.Document, rt *Routing, from, to int) {
	m, n := &r.h.Model, to-from
	d.Phases = append(d.Phases, rt.Phase[from:to]...)
	d.Tokens = append(d.Tokens, rt.Token[from:to]...)
	d.Experts = extend(d.Experts, n*m.Layers, trace.NoExpert)
	if !r.h.NoWeights {
		d.Weights = extend(d.Weights, n*m.Layers, 0)
	}
	if r.h.Dropped {
		d.Dropped = extend(d.Dropped, n*m.Layers, false)
	}
	d.RouterLogits = extend(d.RouterLogits, n*len(r.h.LogitLayers)*m.Experts, 0)
	d.RouterInput = extend(d.RouterInput, n*len(r.h.InputLayers)*m.Hidden, 0)
}

// extend returns s with n more elements of value v; nil for nil and 0.
func extend[T any](s []T, n int, v T) []T {
	s = slices.Grow(s, n)
	for range n {
		s = append(s, v)
	}
	return s
}

// copy copies rows from..to to tokens t, t+1 and so on of d.
func (r *Recorder) copy(rt *Routing, from, to int, d *trace.Document, t int) {
	m, layer := &r.h.Model, r.offset[rt.Stack]+rt.Layer
	e, w := m.Experts, m.Hidden
	for i := from; i < to; i, t = i+1, t+1 {
		at := t*m.Layers + layer
		d.Experts[at] = rt.Experts[i]
		if !r.h.NoWeights {
			d.Weights[at] = rt.Weights[i]
		}
		if r.h.Dropped {
			d.Dropped[at] = rt.Dropped[i]
		}
		if z := r.logits[layer]; z >= 0 {
			copy(d.RouterLogits[(t*len(r.h.LogitLayers)+z)*e:][:e], rt.Logits[i*e:])
		}
		if x := r.inputs[layer]; x >= 0 {
			copy(d.RouterInput[(t*len(r.h.InputLayers)+x)*w:][:w], rt.Input[i*w:])
		}
	}
}
