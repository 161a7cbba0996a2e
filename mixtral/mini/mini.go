// Package mini is a small trained Mixtral inside the program: a checkpoint, its
// tokenizer and documents of ten domains that it was not trained on. It is for
// examples and tests that run offline and without delay, and adds 18 MB to a
// program that imports it.
//
// The model has L 16 layers, D 96, F 192, E 8 experts of which K 2 are chosen, H 6
// heads over 2, V 4096, 8.3 million parameters in bfloat16. NOTICE.md beside this
// file names the texts' sources and licences.
package mini

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/klauspost/compress/zstd"
)

//go:embed checkpoint
var files embed.FS

//go:embed documents.jsonl.zst
var documents []byte

// FS is the checkpoint's folder: config.json, two shards of weights with their
// index, tokenizer.json, and metrics.json with the results of training and test.
func FS() fs.FS {
	dir, err := fs.Sub(files, "checkpoint")
	if err != nil {
		panic(err) // the path is a constant, and valid
	}
	return dir
}

// Open opens the checkpoint; close it after use.
func Open() (*mixtral.Checkpoint, error) { return mixtral.OpenCheckpoint(FS()) }

// Document is one text of one domain.
type Document struct {
	ID     string `json:"id"` // domain/number
	Domain string `json:"domain"`
	Text   string `json:"text"`
}

// Domains names the documents' domains, in their order.
func Domains() []string {
	return []string{"fiction", "drama", "speeches", "reference", "math", "code",
		"reasoning", "technical", "legal-de", "poetry-zh"}
}

// Documents returns the 836 test documents, domain after domain. They are unpacked
// once, 2 MB; the slice is the caller's.
func Documents() ([]Document, error) {
	docs, err := unpack()
	return slices.Clone(docs), err
}

var unpack = sync.OnceValues(func() ([]Document, error) {
	r, err := zstd.NewReader(bytes.NewReader(documents), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("mini documents: %w", err)
	}
	defer r.Close()
	dec := json.NewDecoder(bufio.NewReader(r))
	var docs []Document
	for {
		var d Document
		err := dec.Decode(&d)
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("mini documents: %w", err)
		}
		docs = append(docs, d)
	}
})
