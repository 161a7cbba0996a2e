package collect

import (
	"context"
	"fmt"
	"iter"
)

// Document is a text to collect.
type Document struct {
	// Dataset names the data set; "": the source's name.
	Dataset string
	// ID names the document in its data set. "": Place takes its stead, and the
	// choice goes by the text, so that it does not depend on the order of a file.
	ID string
	// Text is what the tokenizer gets; invalid UTF-8 becomes U+FFFD there.
	Text string
	// Place is where the document comes from, as file and line, for messages.
	Place string
}

// name is how messages call the document.
func (d *Document) name() string {
	switch {
	case d.ID == "":
		return d.Place
	case d.Place == "":
		return d.ID
	}
	return fmt.Sprintf("%s (%s)", d.ID, d.Place)
}

// Source is a supply of documents.
type Source struct {
	// Name is the data set of documents that do not name one.
	Name string
	// Documents goes through all documents. It is called more than once and must
	// give the same documents each time, in any order. An error stands for a
	// document, or the rest of a file, that cannot be read; it names it, and the
	// sequence may go on after it.
	Documents func(ctx context.Context) iter.Seq2[Document, error]
}

// Slice is a source of documents in memory. Those without ID are called by
// their index.
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
