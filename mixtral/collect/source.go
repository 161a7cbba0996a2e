package collect

import (
	"cmp"
	"context"
	"fmt"
	"iter"
)

// Document is a text to collect.
type Document struct {
	// Dataset names the data set; if empty, it is the source's name.
	Dataset string
	// ID identifies the document in its data set. If empty, Place takes its place in
	// the trace, and the random choice depends on the text, so that it does not
	// depend on the order of a file.
	ID string
	// Text is given to the tokenizer.
	Text string
	// Place is where the document comes from, for example file and line, for
	// messages.
	Place string
}

// id returns the document's id in the trace.
func (d *Document) id() string { return cmp.Or(d.ID, d.Place) }

// name returns what messages call the document.
func (d *Document) name() string {
	if d.ID == "" || d.Place == "" {
		return d.id()
	}
	return fmt.Sprintf("%s (%s)", d.ID, d.Place)
}

// Source is a supply of documents.
type Source struct {
	// Name is the data set of documents that do not name one.
	Name string
	// Documents returns all documents. It is called more than once and must return
	// the same documents each time, in any order. Several sources are read at the same
	// time. An error is about a document, or the rest of a file, that cannot be read,
	// and names it; the sequence may continue after it, and ends soon after ctx is done.
	Documents func(ctx context.Context) iter.Seq2[Document, error]
}

// Slice returns a source of documents in memory. Those without ID are identified
// by their index.
func Slice(name string, docs []Document) Source {
	return Source{name, func(context.Context) iter.Seq2[Document, error] {
		return func(yield func(Document, error) bool) {
			for i, d := range docs {
				if d.Place == "" && d.ID == "" {
					d.Place = fmt.Sprintf("%s/%d", name, i)
				}
				if !yield(d, nil) {
					return
				}
			}
		}
	}}
}
