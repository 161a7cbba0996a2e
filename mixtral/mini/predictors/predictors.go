// Package predictors embeds trained predictors of the routing of the embedded model,
// package mini, one for each kind of signal. They are transformers that make.sh in this
// package's folder trained on the texts of testdata/corpus/train.jsonl.zst, and chose and
// calibrated on those of valid.jsonl.zst. The texts of mini.Documents are of neither,
// except that of one, reasoning/00016, the first 512 tokens are those of a training text.
// The package adds 6 MB to a program.
package predictors

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
)

//go:embed predictors.zip
var archive []byte

// Load returns the predictors, calibrated, with the costs and the provenance of their
// training. Their matrices have 8 bits. Recall@2 is of the experts 1, 2 and 4 layers
// ahead, on all texts of mini.Documents (BENCHMARKS.md):
//
//   - "routing transformer" reads routing and token ids: .874, .870, .864. It also
//     predicts the next token, .869 with the token's id and .655 without.
//   - "router-logit transformer" reads these and router logits: .877, .869, .859.
//   - "hidden transformer" reads router inputs, routing and token ids: .942, .919, .893.
func Load() (*speculate.Set, error) {
	files, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, fmt.Errorf("predictors: %w", err)
	}
	set, err := neural.LoadAll(files, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("predictors: %w", err)
	}
	return set, nil
}
