package neural

import (
	"context"
	"math"
	"testing"

	"github.com/expertspec/expertspec/speculate"
)

// Weights of 8 bits answer as those of 32 do: probabilities move by little,
// and recall by less than what one document more or less would change.
func TestPrecision(t *testing.T) {
	ps, g := parts(t)
	hs := speculate.LayersAhead(1, 2)
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 4800, Batch: 64, ValidTokens: 256, Checks: 2, Rate: .015, Gates: g}
	trained, err := TrainMLP(context.Background(), HiddenState(64), ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func(n int) { byteFrom = n }(byteFrom)
	held := func(from int) *MLP {
		byteFrom = from
		p := trained
		return assemble(p.cfg, p.shape, p.horizons, p.soft, p.stats, p.weights, p.info)
	}
	full, eight := held(math.MaxInt), held(4096)
	if full.units[0].first.words != nil || eight.units[0].hidden[1].words == nil {
		t.Fatal("precision is not as asked for")
	}
	docs, _ := plant(4, 60, 8)
	worst, sum, n := 0.0, 0.0, 0
	for _, doc := range docs {
		vs, err := speculate.NewViews(header(), doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hs {
			for l := h.FirstLayer(); l < tL; l++ {
				views := make([]speculate.View, len(doc.Tokens))
				for i := range views {
					views[i] = vs.At(i, l, h)
				}
				a, b := make([]float32, len(views)*tE), make([]float32, len(views)*tE)
				if err := full.Predict(views, a); err != nil {
					t.Fatal(err)
				}
				if err := eight.Predict(views, b); err != nil {
					t.Fatal(err)
				}
				for i := range a {
					d := math.Abs(float64(a[i] - b[i]))
					worst, sum, n = max(worst, d), sum+d, n+1
				}
			}
		}
	}
	var recall [2]float64
	for i, p := range []*MLP{full, eight} {
		r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: hs, Resamples: -1}, p)
		if err != nil {
			t.Fatal(err)
		}
		recall[i], _ = r.Recall("hidden state", hs[0])
	}
	t.Logf("largest difference of a probability %.4f, mean %.5f; recall %.4f and %.4f", worst, sum/float64(n), recall[0], recall[1])
	if worst > .02 || sum/float64(n) > .002 || math.Abs(recall[0]-recall[1]) > .002 {
		t.Errorf("8 bits change answers: largest difference %.4f, mean %.5f; recall %.4f and %.4f", worst, sum/float64(n), recall[0], recall[1])
	}
}
