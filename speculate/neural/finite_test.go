package neural

import (
	"context"
	"math"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/require"
)

// A value that is not finite is an error that names where it is in the trace;
// it is told apart from a training that diverges.
func TestNotFinite(t *testing.T) {
	networks := map[string]func(train, valid speculate.Data, o TrainOptions) error{
		"MLP": func(train, valid speculate.Data, o TrainOptions) error {
			_, err := TrainMLP(context.Background(), HiddenState(8), train, valid, o)
			return err
		},
		"transformer": func(train, valid speculate.Data, o TrainOptions) error {
			_, err := TrainTransformer(context.Background(), tiny(true), train, valid, o)
			return err
		},
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, damage := range map[string]struct {
		do   func(d *trace.Document)
		want string
	}{
		"weight":       {func(d *trace.Document) { d.Weights[(3*tL+2)*tK+1] = nan }, "weight"},
		"router logit": {func(d *trace.Document) { d.RouterLogits[(3*tL+2)*tE+4] = inf }, "router logit"},
		"router input": {func(d *trace.Document) { d.RouterInput[(3*tL+2)*tD+5] = nan }, "router input"},
	} {
		for kind, train := range networks {
			for _, part := range []string{"training", "validation"} {
				t.Run(kind+"/"+part+"/"+name, func(t *testing.T) {
					trainDocs, g := plant(6, 16, 1)
					validDocs, _ := plant(3, 16, 2)
					d := trainDocs[1]
					if part == "validation" {
						d = validDocs[1]
					}
					damage.do(d)
					o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: 128, Batch: 32, Gates: g}
					err := train(speculate.Slice(header(), trainDocs), speculate.Slice(header(), validDocs), o)
					require.ErrorContains(t, err, `document "b" of data set "b": token 3, layer 2`)
					require.ErrorContains(t, err, damage.want)
					require.NotContains(t, err.Error(), "rate")
				})
			}
		}
	}
	for kind, train := range networks {
		t.Run(kind+"/diverged", func(t *testing.T) {
			ps, g := parts(t)
			o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: 640, Batch: 64, Gates: g, Rate: 1e30}
			require.ErrorContains(t, train(ps.Train, ps.Valid, o), "diverged")
		})
	}
}
