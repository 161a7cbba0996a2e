package speculate

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counters returns predictors that count, fitted on n documents.
func counters(t *testing.T, n int, seed uint64) []Predictor {
	t.Helper()
	ps := []Predictor{&Frequency{}, &PreviousToken{}, &Transition{}, &Path{}, &TokenID{}}
	require.NoError(t, Fit(t.Context(), testData(n, 40, seed), LayersAhead(1, 2), ps...))
	return ps
}

// recallsOf returns recall@K of each of ps on d.
func recallsOf(t *testing.T, d Data, h Horizon, ps ...Predictor) []float64 {
	t.Helper()
	r, err := Evaluate(t.Context(), d, EvaluateOptions{Horizons: []Horizon{h}, Resamples: -1}, ps...)
	require.NoError(t, err)
	var out []float64
	for _, p := range ps {
		x, ok := r.Recall(p.Name(), h)
		require.True(t, ok)
		out = append(out, x)
	}
	return out
}

// The ensemble is no lower than its best member on the validation documents, however
// few these are and however little the members were fitted on.
func TestEnsembleNoLowerThanMembers(t *testing.T) {
	mixed := 0
	for seed := range uint64(24) {
		n := int(seed%8) + 1
		valid := testData(n, 21+int(seed), 100+seed) // at most 64 tokens: it is fitted on all of them
		members := counters(t, int(seed%4)+1, 200+seed)
		o := EvaluateOptions{Horizons: LayersAhead(1, 2), Seed: seed}
		en, err := FitEnsemble(t.Context(), "ensemble", valid, o, members...)
		require.NoError(t, err)
		for _, h := range o.Horizons {
			r := recallsOf(t, valid, h, append(members, en)...)
			best := slices.Max(r[:len(members)])
			assert.GreaterOrEqual(t, r[len(members)], best, "%d documents, seed %d, %v", n, seed, h)
			if mixes(en.Weights[h]) {
				mixed++
				assert.Greater(t, n, 1, "of one document nothing is clear")
			} else {
				assert.Equal(t, best, r[len(members)]) // the same answers
			}
		}
	}
	assert.Positive(t, mixed)
}

// Members that know different things are mixed, and gain on other documents; a
// member beside which the others know nothing answers alone, with its own answers.
func TestEnsembleMixesWhereClear(t *testing.T) {
	ps, h := fitted(t), Horizon{Layers: 1}
	valid, test := testData(20, 50, 11), testData(20, 50, 12)
	o := EvaluateOptions{Horizons: []Horizon{h}}
	named := func(name string) Predictor {
		return ps[slices.IndexFunc(ps, func(p Predictor) bool { return p.Name() == name })]
	}
	members := []Predictor{named("token id"), named("transition"), named("path of three")}
	en, err := FitEnsemble(t.Context(), "mixture", valid, o, members...)
	require.NoError(t, err)
	assert.True(t, mixes(en.Weights[h]))
	r := recallsOf(t, test, h, append(members, en)...)
	assert.Greater(t, r[3], slices.Max(r[:3])+.002)

	members = []Predictor{named("frequency"), named("gate reuse"), named("previous token")}
	en, err = FitEnsemble(t.Context(), "mixture", valid, o, members...)
	require.NoError(t, err)
	assert.Equal(t, []float64{0, 1, 0, 0}, en.Weights[h])
	a := sampleAnswers(t, test, o, members[1])
	b := sampleAnswers(t, test, o, en)
	assert.NotEmpty(t, a)
	assert.Equal(t, a, b)
}

// A member that says what another one says is dropped.
func TestEnsemblePrunes(t *testing.T) {
	ps, h := fitted(t), Horizon{Layers: 1}
	named := func(name string) Predictor {
		return ps[slices.IndexFunc(ps, func(p Predictor) bool { return p.Name() == name })]
	}
	members := []Predictor{named("token id"), named("transition"), named("path of three"), named("frequency"), renamed{named("token id"), "again"}}
	en, err := FitEnsemble(t.Context(), "mixture", testData(20, 50, 11), EvaluateOptions{Horizons: []Horizon{h}}, members...)
	require.NoError(t, err)
	w := en.Weights[h]
	assert.True(t, mixes(w))
	assert.True(t, (w[0] == 0) != (w[4] == 0), "%v", w)
	assert.Zero(t, w[3], "frequency adds nothing")
	r := recallsOf(t, testData(20, 50, 12), h, append(members, en)...)
	assert.Greater(t, r[5], slices.Max(r[:5])+.002)
}

// sampleAnswers returns all confidences of p.
func sampleAnswers(t *testing.T, d Data, o EvaluateOptions, p Predictor) (all []float32) {
	t.Helper()
	o.Resamples = -1
	o.Each = func(a *Answer) error { all = append(all, a.Confidence...); return nil }
	_, err := Evaluate(t.Context(), d, o, p)
	require.NoError(t, err)
	return all
}
