package speculate

import (
	"context"
	"fmt"
	"iter"

	"github.com/expertspec/expertspec/trace"
)

// Data is a set of documents that can be read any number of times, and the
// header that they share. Reading holds one document at a time in memory.
type Data struct {
	Header trace.Header
	// Documents starts a reading. An error ends it.
	Documents func() iter.Seq2[*trace.Document, error]

	// tokens is Documents of the names and token ids only, where that is cheaper.
	tokens func() iter.Seq2[*trace.Document, error]
}

// Slice returns documents in memory as Data.
func Slice(h trace.Header, docs []*trace.Document) Data {
	return Data{Header: h, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for _, d := range docs {
				if !yield(d, nil) {
					return
				}
			}
		}
	}}
}

// FromReader returns a trace on disk as Data.
func FromReader(r *trace.Reader) Data {
	return Data{Header: r.Header(), Documents: r.Documents, tokens: r.Select(trace.Filter{TokensOnly: true}).Documents}
}

// All reads the documents of d. The iteration ends with an error if ctx is done
// or if a document, identified by its data set and id, occurs twice.
func (d Data) All(ctx context.Context) iter.Seq2[*trace.Document, error] {
	return unique(ctx, d.Documents)
}

// names is All of documents whose routing may be missing.
func (d Data) names(ctx context.Context) iter.Seq2[*trace.Document, error] {
	if d.tokens != nil {
		return unique(ctx, d.tokens)
	}
	return d.All(ctx)
}

func unique(ctx context.Context, read func() iter.Seq2[*trace.Document, error]) iter.Seq2[*trace.Document, error] {
	return func(yield func(*trace.Document, error) bool) {
		seen := map[uint64]struct{}{} // some bytes a document, however many
		for doc, err := range read() {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				n := len(seen)
				if seen[nameHash(doc.Key())] = struct{}{}; len(seen) == n {
					err = fmt.Errorf("speculate: document %q of data set %q occurs twice", doc.ID, doc.Dataset)
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(doc, nil) {
				return
			}
		}
	}
}

// Filter returns those documents of d for which keep returns true. keep is also
// called with documents that hold only their names and token ids.
func (d Data) Filter(keep func(*trace.Document) bool) Data {
	filter := func(read func() iter.Seq2[*trace.Document, error]) func() iter.Seq2[*trace.Document, error] {
		if read == nil {
			return nil
		}
		return func() iter.Seq2[*trace.Document, error] {
			return func(yield func(*trace.Document, error) bool) {
				for doc, err := range read() {
					if err == nil && !keep(doc) {
						continue
					}
					if !yield(doc, err) || err != nil {
						return
					}
				}
			}
		}
	}
	return Data{Header: d.Header, Documents: filter(d.Documents), tokens: filter(d.tokens)}
}

// Decoder returns the decoder's tokens and layers of d as documents of a model of one
// stack, for predictors that read tokens one after another. They do not know what
// the encoder did. Documents without tokens of a decoder are omitted. A model without
// an encoder is returned as it is.
func (d Data) Decoder() Data {
	s := ShapeOf(d.Header.Model)
	if s.Encoder == 0 {
		return d
	}
	h := d.Header
	below := func(layers []int) (kept []int) {
		for _, l := range layers {
			if l >= s.Encoder {
				kept = append(kept, l-s.Encoder)
			}
		}
		return kept
	}
	h.Model.Layers -= s.Encoder
	h.Model.Stacks = h.Model.Stacks[1:]
	h.LogitLayers, h.InputLayers = below(h.LogitLayers), below(h.InputLayers)
	read := d.Documents
	return Data{Header: h, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for doc, err := range read() {
				if err == nil {
					err = doc.Validate(&d.Header)
				}
				if err != nil {
					yield(nil, err)
					return
				}
				if doc.Encoded() < doc.Len() && !yield(decoderOf(doc, &d.Header, s.Encoder), nil) {
					return
				}
			}
		}
	}}
}

// decoderOf is the decoder's part of a valid document.
func decoderOf(doc *trace.Document, h *trace.Header, encoder int) *trace.Document {
	m, from, n := &h.Model, doc.Encoded(), doc.Len()
	d := &trace.Document{Dataset: doc.Dataset, ID: doc.ID, Tokens: doc.Tokens[from:]}
	if doc.Phases != nil {
		d.Phases = doc.Phases[from:]
	}
	below := func(layers []int) (n int) {
		for n < len(layers) && layers[n] < encoder {
			n++
		}
		return n
	}
	for t := from; t < n; t++ {
		d.Positions = append(d.Positions, doc.Position(t))
	}
	d.Experts = columns(doc.Experts, from, n, m.Layers*m.TopK, encoder*m.TopK)
	d.Weights = columns(doc.Weights, from, n, m.Layers*m.TopK, encoder*m.TopK)
	d.Dropped = columns(doc.Dropped, from, n, m.Layers, encoder)
	d.RouterLogits = columns(doc.RouterLogits, from, n, len(h.LogitLayers)*m.Experts, below(h.LogitLayers)*m.Experts)
	d.RouterInput = columns(doc.RouterInput, from, n, len(h.InputLayers)*m.Hidden, below(h.InputLayers)*m.Hidden)
	return d
}

// columns returns the values of rows from..to-1 of width values from a column on.
func columns[T any](a []T, from, to, width, first int) (out []T) {
	for t := from; t < to && len(a) > 0; t++ {
		out = append(out, a[t*width+first:(t+1)*width]...)
	}
	return out
}

// Datasets returns the names of the data sets of d in alphabetical order.
func (d Data) Datasets(ctx context.Context) ([]string, error) {
	seen := map[string]bool{}
	for doc, err := range d.names(ctx) {
		if err != nil {
			return nil, err
		}
		seen[doc.Dataset] = true
	}
	return sortedKeys(seen), nil
}

// InMemory reads d and returns it held in memory if its arrays take at most limit
// bytes, and else d itself. A trace on disk that is too large is found so by its
// token ids alone.
func (d Data) InMemory(ctx context.Context, limit int64) (Data, error) {
	if d.tokens != nil {
		tokens := int64(0)
		for doc, err := range d.names(ctx) {
			if err != nil {
				return Data{}, err
			}
			tokens += int64(doc.Len())
		}
		if tokens*tokenBytes(&d.Header) > limit {
			return d, nil
		}
	}
	var docs []*trace.Document
	held := int64(0)
	for doc, err := range d.All(ctx) {
		if err != nil {
			return Data{}, err
		}
		held += int64(doc.Len()) * tokenBytes(&d.Header)
		if held > limit {
			return d, nil
		}
		docs = append(docs, doc)
	}
	return Slice(d.Header, docs), nil
}

// tokenBytes returns the memory of a token's values.
func tokenBytes(h *trace.Header) int64 {
	m := &h.Model
	n := 4 * (1 + m.Layers*m.TopK + len(h.LogitLayers)*m.Experts + len(h.InputLayers)*m.Hidden)
	if !h.NoWeights {
		n += 4 * m.Layers * m.TopK
	}
	if h.Dropped {
		n += m.Layers
	}
	return int64(n)
}
