package speculate

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEvaluate(t *testing.T) {
	ps, test, ctx := fitted(t), testData(30, 50, 3), t.Context()
	o := EvaluateOptions{Horizons: testHorizons, Workers: 1, Seed: 3}
	one, err := Evaluate(ctx, test, o, ps...)
	require.NoError(t, err)
	o.Workers = 3
	three, err := Evaluate(ctx, test, o, ps...)
	require.NoError(t, err)
	a, _ := json.Marshal(one)
	b, _ := json.Marshal(three)
	assert.Equal(t, b, a)
	h1, h2 := Horizon{Layers: 1}, Horizon{Layers: 2}
	get := func(n string, h Horizon) float64 {
		r, ok := one.Recall(n, h)
		require.True(t, ok, "no %s at %v", n, h)
		return r
	}
	assert.Equal(t, float64(1), get("oracle", h1))
	near, far := get("gate reuse", h1), get("gate reuse", h2)
	assert.Greater(t, far, get("frequency", h1)+.1)
	assert.Greater(t, near, far)
	assert.GreaterOrEqual(t, get("ensemble", h1), near-.01)
	for _, r := range one.Rows {
		if r.By == "all" && r.Predictor != "oracle" {
			assert.LessOrEqual(t, r.ECE, .03, "%s at %v", r.Predictor, r.Horizon)
			require.NotNil(t, r.RecallKInterval, "%s at %v", r.Predictor, r.Horizon)
			assert.LessOrEqual(t, r.RecallKInterval.Low, r.RecallK)
			assert.GreaterOrEqual(t, r.RecallKInterval.High, r.RecallK)
		}
	}
	require.Len(t, one.Find("transition", h2, "layer"), tL-2)
	assert.Len(t, one.Find("transition", h2, "dataset"), 2)
}

// Figures of a prediction worked out by hand.
func TestTally(t *testing.T) {
	var a tally
	order := make([]int32, 5)
	scores := []float32{.1, .9, .3, .7, 0}
	prob.Rank(scores, order)
	require.Equal(t, []int32{1, 3, 2, 0, 4}, order)
	a.observe(scores, order, []int32{3, 2})
	a.observe(scores, order, []int32{1, trace.NoExpert})
	a.observe(scores, order, []int32{trace.NoExpert, trace.NoExpert})
	m := a.metrics(5)
	want := Metrics{Pairs: 2, Top1: .5, TopAny: .5, Exact: .5, AtLeastOne: 1, ECE: m.ECE, Bits: m.Bits, TopBound: m.TopBound,
		Recall: [8]float64{.5, .75, 1, 1, 1, 1, 1, 1}, Precision: [8]float64{.5, .5, .5, 3. / 8, 3. / 10, 3. / 12, 3. / 14, 3. / 16}}
	assert.Equal(t, want, m)
	// Named: .9 and .7 at first (miss, hit), .9 afterwards (hit).
	assert.InDelta(t, (math.Abs(2*.9-1)+math.Abs(.7-1))/3, m.ECE, 1e-6)
}

// Fano's bound by hand: for n = 2 it is the inverse of the binary entropy.
func TestFanoAccuracy(t *testing.T) {
	for _, c := range []struct {
		bits float64
		n    int
		want float64
	}{{0, 8, 1}, {3, 8, .125}, {9, 8, .125}, {.4689956, 2, .9}, {.7219281 + .2*1.5849625, 4, .8}} { // the last: h2(.2) + .2 log2(3)
		assert.InDelta(t, c.want, fanoAccuracy(c.bits, c.n), 1e-6, "%v bits over %d", c.bits, c.n)
	}
}

// Margins by hand, K = 2 of 4: the two likeliest against the third, the others
// against the second. Calibration keeps the order, of near certainties too.
func TestMargins(t *testing.T) {
	s := Shape{Layers: 1, Experts: 4, TopK: 2}
	z := []float64{-1, 2, .5, -3, 4, 4, 1, 1.5}
	p := make([]float32, 8)
	for i, x := range z {
		p[i] = float32(prob.Sigmoid(x))
	}
	margins(p, s)
	for i, want := range []float64{-1.5, 3, 1.5, -3.5, 2.5, 2.5, -3, -2.5} {
		assert.InDelta(t, want, float64(p[i]), 1e-5)
	}
	var g histogram
	for i := range 100000 { // sure from .5 on, as scores trained towards a softmax are
		x := float32(i)/10000 - 5
		g.observe(x, x > .5)
	}
	curve := g.curve()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		p, before, after := make([]float32, 4), make([]int32, 4), make([]int32, 4)
		for i := range p {
			p[i] = float32(prob.Sigmoid(rng.NormFloat64() * 3))
		}
		prob.Rank(p, before)
		q := slices.Clone(p)
		curve.apply(q, s)
		prob.Rank(q, after)
		for i := range 3 { // only next to equal ones may change places
			require.False(t, before[i] != after[i] && logit(float64(p[before[i]]))-logit(float64(p[before[i+1]])) > .01, "%v became %v", p, q)
		}
	}
}

// logits of a gate with a bias, by hand.
func TestGates(t *testing.T) {
	g := &Gates{Layers: 2, Experts: 2, Hidden: 3, Weights: []float32{0, 0, 0, 0, 0, 0, 1, 2, 3, -1, 0, 1}, Bias: []float32{9, 9, .5, 0}}
	require.NoError(t, g.Validate(Shape{Layers: 2, Experts: 2, TopK: 1, Hidden: 3}))
	out := make([]float32, 2)
	g.Logits(1, []float32{1, 10, 100}, out)
	assert.Equal(t, []float32{321.5, 99}, out)
}
