// Package mini embeds a small trained Mixtral: a checkpoint, its tokenizer, and
// documents of ten domains that it was not trained on. It is for examples and tests
// that run offline and without delay, and adds 18 MB to a program. Package predictors,
// below it, embeds predictors of its routing.
//
// The model has 16 layers (L), hidden size 96 (D), expert width 192 (F), 8 experts (E)
// of which 2 are chosen (K), 6 attention heads (H) over 2 of keys and values, a
// vocabulary of 4096 (V), and 8.3 million parameters in bfloat16. NOTICE.md in this
// package's folder states the sources and licences of the texts.
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

	"github.com/klauspost/compress/zstd"
)

//go:embed checkpoint
var files embed.FS

//go:embed documents.jsonl.zst
var documents []byte

// FS returns the checkpoint's folder: config.json, two shards of weights with their
// index, tokenizer.json, and metrics.json with the results of training and test. It
// is read by mixtral.Load and tokenizer.Load.
func FS() fs.FS {
	dir, err := fs.Sub(files, "checkpoint")
	if err != nil {
		panic(err) // impossible: the path is a valid constant
	}
	return dir
}

// Document is one text of one domain.
type Document struct {
	ID     string `json:"id"` // domain/number
	Domain string `json:"domain"`
	Text   string `json:"text"`
}

// Documents returns the 836 test documents in the order of their domains: fiction,
// drama, speeches, reference, math, code, reasoning, technical, legal-de, poetry-zh.
// They are decompressed once, to 2 MB. The caller may change the slice.
func Documents() ([]Document, error) {
	docs, err := unpack()
	return slices.Clone(docs), err
}

var unpack = sync.OnceValues(func() ([]Document, error) {
	r, err := zstd.NewReader(bytes.NewReader(documents), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("mini: documents: %w", err)
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
			return nil, fmt.Errorf("mini: documents: %w", err)
		}
		docs = append(docs, d)
	}
})
