// Package mini embeds a small trained Switch Transformer: a checkpoint and its
// tokenizer, for examples and tests that run offline and without delay. It adds 22 MB
// to a program. Package mixtral/mini has texts that neither model was trained on.
//
// The model has 8 blocks in its encoder and 8 in its decoder, of which blocks 1, 3, 5
// and 7 have experts (4 + 4 layers L), hidden size 96 (D), expert width 192 (F), 32
// experts (E) of which one is chosen, 6 attention heads (H) of 16, a capacity of 48
// tokens, a vocabulary of 4128 (V), and 11 million parameters in bfloat16. It was
// trained to continue a text, given its beginning to the encoder, and to fill in
// spans, on the texts on which the embedded Mixtral was trained. NOTICE.md in this
// package's folder states its licence.
package mini

import (
	"embed"
	"io/fs"
)

//go:embed checkpoint
var files embed.FS

// FS returns the checkpoint's folder: config.json, two shards of weights with their
// index, tokenizer.json, and metrics.json with the results of training and test. It is
// read by switchtransformer.Load and tokenizer.Load.
func FS() fs.FS {
	dir, err := fs.Sub(files, "checkpoint")
	if err != nil {
		panic(err) // impossible: the path is a valid constant
	}
	return dir
}
