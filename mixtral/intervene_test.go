package mixtral_test

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// route is the reference: the k experts with the largest logits among those that
// are not masked, on ties the lower index, and the softmax over them, in float64.
func route(logits []float32, k int, masked ...int) (experts []int32, weights []float64) {
	for e := range logits {
		if !slices.Contains(masked, e) {
			experts = append(experts, int32(e))
		}
	}
	slices.SortStableFunc(experts, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
	experts = experts[:k]
	return experts, softmax64(logits, experts)
}

func softmax64(logits []float32, experts []int32) (weights []float64) {
	var sum float64
	for _, e := range experts {
		weights = append(weights, math.Exp(float64(logits[e])))
		sum += weights[len(weights)-1]
	}
	for i := range weights {
		weights[i] /= sum
	}
	return weights
}

// randomRouting is a layer's routing of 11 tokens, 7 experts, top-k 3.
func randomRouting(layer int) *mixtral.Routing {
	const n, e, k = 11, 7, 3
	rng := rand.New(rand.NewPCG(4, 5))
	r := &mixtral.Routing{Layer: layer, Layers: 5, Document: make([]int, n), Position: make([]int32, n)}
	for t := range n {
		r.Position[t] = int32(t)
		row := make([]float32, e)
		for i := range row {
			row[i] = float32(rng.NormFloat64() * 2)
		}
		if t == 4 {
			row[2], row[5] = row[6], row[6] // ties
		}
		r.Logits = append(r.Logits, row...)
		experts, weights := route(row, k)
		r.Experts = append(r.Experts, experts...)
		r.Weights = append(r.Weights, narrow(weights)...)
	}
	return r
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// TestInterventions compares the interventions with a plain reference, row by
// row: logits [E], and the selected experts and weights [K] before.
func TestInterventions(t *testing.T) {
	const e, k = 7, 3
	type reference func(logits []float32, experts []int32, weights []float64) ([]int32, []float64)
	// without sets the weight of an expert to 0, and renormalizes the others.
	without := func(x int32, renormalize bool) reference {
		return func(_ []float32, experts []int32, weights []float64) ([]int32, []float64) {
			i := slices.Index(experts, x)
			if i < 0 {
				return experts, weights
			}
			rest := 1.0
			if renormalize {
				rest -= weights[i]
			}
			for j := range weights {
				weights[j] /= rest
			}
			weights[i] = 0
			return experts, weights
		}
	}
	masked := func(experts ...int) reference {
		return func(logits []float32, _ []int32, _ []float64) ([]int32, []float64) {
			return route(logits, k, experts...)
		}
	}
	for name, c := range map[string]struct {
		hook mixtral.Hook
		want reference
	}{
		"zero weight":     {mixtral.Ablate(3, 2, mixtral.ZeroWeight), without(2, false)},
		"renormalize":     {mixtral.Ablate(3, 2, mixtral.Renormalize), without(2, true)},
		"next best":       {mixtral.Ablate(3, 2, mixtral.NextBest), masked(2)},
		"mask one":        {mixtral.MaskExperts(3, 6), masked(6)},
		"mask all but k":  {mixtral.MaskExperts(3, 0, 6, 2, 5, 2), masked(0, 2, 5, 6)},
		"mask none":       {mixtral.MaskExperts(3), masked()},
		"next best twice": {mixtral.Chain(mixtral.Ablate(3, 2, mixtral.NextBest), mixtral.Ablate(3, 5, mixtral.NextBest)), masked(2, 5)},
		"chain of one":    {mixtral.Chain(mixtral.MaskExperts(3, 0)), masked(0)},
		"another layer":   {mixtral.Chain(mixtral.MaskExperts(2, 0), mixtral.Force(4, []int{0, 1, 2}, nil)), masked()},
		"zero weight, then next best": {mixtral.Chain(mixtral.Ablate(3, 2, mixtral.ZeroWeight), mixtral.Ablate(3, 5, mixtral.NextBest)), func(logits []float32, experts []int32, weights []float64) ([]int32, []float64) {
			had := slices.Contains(experts, 2)
			experts, weights = without(2, false)(logits, experts, weights)
			if !slices.Contains(experts, 5) {
				return experts, weights
			}
			// The two others as they would be without 2 and 5; 2 keeps its place.
			if !had {
				return route(logits, k, 2, 5)
			}
			order, _ := route(logits, 2, 2, 5)
			kept := slices.DeleteFunc(slices.Clone(experts), func(x int32) bool { return x == 5 })
			added := slices.DeleteFunc(order, func(x int32) bool { return slices.Contains(kept, x) })
			experts = append(kept, added[0])
			at := slices.Index(experts, 2)
			weights = softmax64(logits, slices.Delete(slices.Clone(experts), at, at+1))
			return experts, slices.Insert(weights, at, 0)
		}},
		"force": {mixtral.Force(3, []int{5, 0, 2}, nil), func(logits []float32, _ []int32, _ []float64) ([]int32, []float64) {
			return []int32{5, 0, 2}, softmax64(logits, []int32{5, 0, 2})
		}},
		"force weights": {mixtral.Force(3, []int{5, 0, 2}, []float32{.5, 0, 2}), func([]float32, []int32, []float64) ([]int32, []float64) {
			return []int32{5, 0, 2}, []float64{.5, 0, 2}
		}},
		"force, then next best": {mixtral.Chain(mixtral.Force(3, []int{5, 0, 2}, nil), mixtral.Ablate(3, 0, mixtral.NextBest)), func(logits []float32, _ []int32, _ []float64) ([]int32, []float64) {
			best, _ := route(logits, 1, 5, 0, 2)
			experts := []int32{5, 2, best[0]}
			return experts, softmax64(logits, experts)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			before, r := randomRouting(3), randomRouting(3)
			require.NoError(t, c.hook(t.Context(), r))
			assert.Equal(t, before.Logits, r.Logits)
			assert.Equal(t, before.Position, r.Position)
			for row := range r.Position {
				logits := r.Logits[row*e:][:e]
				experts, weights := route(logits, k)
				experts, weights = c.want(logits, experts, weights)
				assert.Equal(t, experts, r.Experts[row*k:][:k], "row %d", row)
				assert.InDeltaSlice(t, narrow(weights), r.Weights[row*k:][:k], 1e-6, "row %d", row)
			}
		})
	}
}

func TestInterventionErrors(t *testing.T) {
	for want, h := range map[string]mixtral.Hook{
		"Ablate: layer 5 of 5":             mixtral.Ablate(5, 0, mixtral.ZeroWeight),
		"MaskExperts: layer -1 of 5":       mixtral.MaskExperts(-1, 0),
		"Ablate: expert 7 of 7":            mixtral.Ablate(3, 7, mixtral.Renormalize),
		"Force: expert -1 of 7":            mixtral.Force(3, []int{0, 1, -1}, nil),
		"Ablate: unknown mode 3":           mixtral.Ablate(3, 0, 3),
		"Force: got 2 experts, expected 3": mixtral.Force(3, []int{0, 1}, nil),
		"Force: got 1 weights, expected 3": mixtral.Force(3, []int{0, 1, 2}, []float32{1}),
		"MaskExperts: 2 of 7 experts are left at layer 3; a token requires 3": mixtral.MaskExperts(3, 0, 1, 2, 3, 4),
		"too few experts are left": mixtral.Chain(mixtral.MaskExperts(3, 0, 1, 2, 3), mixtral.Ablate(3, 4, mixtral.NextBest)),
		"layer 3, document 0, position 0: Ablate: no weight is left to renormalize without expert 0": mixtral.Chain(
			mixtral.Force(3, []int{0, 1, 2}, []float32{1, 0, 0}), mixtral.Ablate(3, 0, mixtral.Renormalize)),
	} {
		assert.ErrorContains(t, h(t.Context(), randomRouting(3)), want)
	}
	other := randomRouting(2)
	assert.ErrorContains(t, mixtral.Ablate(5, 0, mixtral.ZeroWeight)(t.Context(), other), "layer 5 of 5", "at every layer")
}

// The model computes with the experts and weights that an intervention sets: as
// with a hook that sets the reference's.
func TestInterveneModel(t *testing.T) {
	backends(t, func(name string, b compute.Backend) {
		m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: mixtral.Stepped})
		e, k := m.Config().Experts, m.Config().TopK
		batch := [][]int32{{5, 6, 7, 8}, {9, 10}}
		reference := func(_ context.Context, r *mixtral.Routing) error {
			for row := range r.Position {
				if r.Layer == 1 {
					experts, weights := route(r.Logits[row*e:][:e], k, 0, 3)
					copy(r.Experts[row*k:], experts)
					copy(r.Weights[row*k:], narrow(weights))
				}
			}
			return nil
		}
		plain := forward(t, m, mixtral.Request{Tokens: batch, Logits: mixtral.AllLogits})
		want := forward(t, m, mixtral.Request{Tokens: batch, Logits: mixtral.AllLogits, Intervene: reference})
		got := forward(t, m, mixtral.Request{Tokens: batch, Logits: mixtral.AllLogits, Intervene: mixtral.MaskExperts(1, 0, 3)})
		for i := range batch {
			assert.InDeltaSlice(t, want.Logits[i], got.Logits[i], sameResults, name)
			assert.Greater(t, maxDiff(t, got.Logits[i], plain.Logits[i]), .001, name)
		}
		assert.EqualError(t, try(m, mixtral.Request{Tokens: batch, Intervene: mixtral.Ablate(2, 0, mixtral.NextBest)}),
			"mixtral: layer 0: hook: Ablate: layer 2 of 2")
		assert.ErrorContains(t, try(m, mixtral.Request{Tokens: batch, Intervene: mixtral.Force(0, []int{1, 1, 2}, nil)}),
			"the hook chose expert 1 twice")
	})
}
