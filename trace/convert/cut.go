package convert

import (
	"fmt"
	"iter"

	"github.com/expertspec/expertspec/trace"
)

// cut yields documents of at most n tokens, and pieces of longer ones, named by their first
// position. A longer document that is invalid is an omission, as is one of an encoder and a
// decoder, which is one example.
func cut(docs iter.Seq2[*trace.Document, error], h *trace.Header, n int) iter.Seq2[*trace.Document, error] {
	return func(yield func(*trace.Document, error) bool) {
		for d, err := range docs {
			if err == nil && d.Len() <= n {
				if !yield(d, nil) {
					return
				}
				continue
			}
			if err == nil {
				if err = d.Validate(h); err == nil && d.Encoded() > 0 {
					err = fmt.Errorf("document %q of data set %q has tokens of an encoder and cannot be cut", d.ID, d.Dataset)
				}
				if err != nil {
					err = omission{err}
				}
			}
			if err != nil {
				if !yield(nil, err) {
					return
				}
				continue
			}
			for from := 0; from < d.Len(); from += n {
				if !yield(piece(d, h, from, min(from+n, d.Len())), nil) {
					return
				}
			}
		}
	}
}

// piece returns tokens from..to-1 of a valid document, which it shares.
func piece(d *trace.Document, h *trace.Header, from, to int) *trace.Document {
	m := &h.Model
	p := &trace.Document{Dataset: d.Dataset, ID: fmt.Sprintf("%s/%d", d.ID, d.Position(from)), Tokens: d.Tokens[from:to],
		Experts: rows(d.Experts, from, to, m.Layers*m.TopK), Weights: rows(d.Weights, from, to, m.Layers*m.TopK),
		Dropped: rows(d.Dropped, from, to, m.Layers), RouterLogits: rows(d.RouterLogits, from, to, len(h.LogitLayers)*m.Experts),
		RouterInput: rows(d.RouterInput, from, to, len(h.InputLayers)*m.Hidden), Phases: rows(d.Phases, from, to, 1)}
	for t := from; t < to; t++ {
		p.Positions = append(p.Positions, d.Position(t))
	}
	return p
}

// rows returns rows from..to-1 of an array of width values each, nil if it is nil.
func rows[T any](a []T, from, to, width int) []T {
	if a == nil {
		return nil
	}
	return a[from*width : to*width]
}
