package cli

import (
	"os"

	"github.com/expertspec/expertspec/mixtral/mini/predictors"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
)

// LoadPredictors reads the predictors of a folder, or for "mini" the embedded ones of
// the embedded model. gates, for gate reuse, may be nil.
func LoadPredictors(folder string, gates *speculate.Gates) (*speculate.Set, error) {
	if folder == "mini" {
		return predictors.Load()
	}
	return neural.LoadAll(os.DirFS(folder), gates, nil)
}
