package comparison_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// header is that of a decoder: L 3, E 5, K as given.
func header(topK int) trace.Header {
	m := trace.Model{Name: "planted", Layers: 3, Stacks: []trace.Stack{{Name: trace.Decoder, Layers: 3}}, Experts: 5, TopK: topK, Vocabulary: 35}
	return trace.Header{Model: m}
}

// documents are n of two data sets, of 40 tokens and more, whose ids take turns.
func documents(r *tracetest.Router, n int) []*trace.Document {
	var docs []*trace.Document
	for i := range n {
		ids := make([]int32, 40+5*(i%3))
		for p := range ids {
			ids[p] = int32((i + p*(1+i%6)) % 35)
		}
		docs = append(docs, r.Document([]string{"a", "b"}[i%2], fmt.Sprint(i), ids))
	}
	return docs
}

// compare measures one planted trace.
func compare(t *testing.T, h trace.Header, docs []*trace.Document, m *comparison.Checkpoint) *comparison.Result {
	t.Helper()
	r, err := comparison.Compare(t.Context(), comparison.Options{Seed: 3}, comparison.Subject{Data: speculate.Slice(h, docs), Model: m})
	require.NoError(t, err)
	return r
}

func planted(t *testing.T, topK, n int, choose func(s *tracetest.Step) []int32) *comparison.Column {
	t.Helper()
	r := tracetest.Router{Header: header(topK), Rule: tracetest.Choose(choose)}
	return &compare(t, r.Header, documents(&r, n), nil).Columns[0]
}

func mean(c *comparison.Column, k comparison.Kind) float64 { return c.Measures[k].Mean.Value }

// An expert that is a function of the position modulo E is even, never repeated, and
// determined by the layer before.
func TestRoundRobin(t *testing.T) {
	c := planted(t, 1, 24, func(s *tracetest.Step) []int32 { return []int32{int32(s.Position+2*s.Layer) % 5} })
	for k, want := range map[comparison.Kind]float64{
		comparison.Entropy: 1, comparison.MaxOverMean: 1, comparison.Gini: 0, comparison.Repetition: 0, comparison.RepetitionChance: .2,
		comparison.RepetitionLift: 0, comparison.ExpertBits: math.Log2(5), comparison.WorkingSet: 5, comparison.WorkingShare: 1,
		comparison.Overflow1: 0, comparison.Overflow2: 0, comparison.PrefixShare: 1,
	} {
		assert.InDelta(t, want, mean(c, k), 1e-9, k)
		assert.Len(t, c.Measures[k].Layers, 3)
	}
	assert.InDelta(t, 1, mean(c, comparison.PreviousShare), .02)
	assert.InDelta(t, 0, mean(c, comparison.DomainBits), 1e-9)
	assert.Equal(t, "no layer before", c.Measures[comparison.PreviousBits].Layers[0].Missing)
	assert.True(t, c.Measures[comparison.PreviousBits].Layers[1].OK())
	for _, k := range []comparison.Kind{comparison.Auxiliary, comparison.TopProbability, comparison.Dropped} {
		assert.Equal(t, "not recorded", c.Measures[k].Mean.Missing, k)
	}
	// Independent choices would use 5 (1 - .8^n) experts in n tokens.
	want := 0.
	for _, n := range []float64{40, 45, 50} {
		want += 5 * (1 - math.Pow(.8, n)) / 3
	}
	assert.InDelta(t, 5/want, mean(c, comparison.WorkingRelative), 1e-9)
	assert.InDelta(t, 1/(1-math.Pow(.8, 32)), mean(c, comparison.PrefixRelative), 1e-9)
}

// The expert is the data set: its information is that of the data sets, 1 bit, and
// tokens repeat it.
func TestDomain(t *testing.T) {
	r := tracetest.Router{Header: header(2), Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		var n int32
		fmt.Sscan(s.Document, &n)
		return []int32{n % 2, 3 + n%2}
	})}
	c := compare(t, r.Header, documents(&r, 60), nil).Columns[0]
	bits, chance := c.Measures[comparison.DomainBits].Mean, mean(&c, comparison.DomainChance)
	assert.InDelta(t, 1, bits.Value+chance, 1e-3)
	assert.InDelta(t, .012, chance, .01) // labels of 60 documents: about 1/(2 60 ln 2)
	assert.InDelta(t, (1-chance)/1, mean(&c, comparison.DomainShare), 1e-3)
	assert.InDelta(t, 1, mean(&c, comparison.Repetition), 1e-9)
	assert.InDelta(t, .5, mean(&c, comparison.RepetitionChance), 1e-3)
	assert.InDelta(t, 1, mean(&c, comparison.ExpertBits), 1e-3)
	assert.InDelta(t, 2, mean(&c, comparison.WorkingSet), 1e-9)
	// Four of five experts have a quarter of the choices each.
	assert.InDelta(t, math.Log(4)/math.Log(5), mean(&c, comparison.Entropy), 1e-3)
	assert.InDelta(t, 1.25, mean(&c, comparison.MaxOverMean), .01)
	assert.InDelta(t, .2, mean(&c, comparison.Gini), .01)
}

// The expert is a function of the token.
func TestToken(t *testing.T) {
	c := planted(t, 1, 40, func(s *tracetest.Step) []int32 { return []int32{(s.Token + int32(s.Layer)) % 5} })
	bits, chance := mean(c, comparison.TokenBits), mean(c, comparison.TokenChance)
	assert.InDelta(t, mean(c, comparison.ExpertBits), bits+chance, 1e-9)
	assert.InDelta(t, 34*4/(2*1790*math.Ln2), chance, .01) // Miller 1955, about
	assert.InDelta(t, 1, mean(c, comparison.TokenShare), .03)
	for _, x := range c.Recalls {
		if x.Predictor == "token id" && x.Named == 1 && x.Layers == 1 {
			assert.InDelta(t, 1, x.Recall.Value, 1e-9)
			assert.InDelta(t, 5, x.Lift.Value, 1e-9)
			assert.Greater(t, x.Gain.Value, 3.)
			return
		}
	}
	t.Fatal("the token's predictor was not evaluated")
}

// Independent choices say nothing, on average.
func TestIndependent(t *testing.T) {
	r := tracetest.Router{Header: header(1), Rule: tracetest.Random(7)}
	r.Header.LogitLayers = []int{0, 2}
	c := compare(t, r.Header, documents(&r, 200), nil).Columns[0]
	for k, within := range map[comparison.Kind]float64{comparison.DomainBits: .002, comparison.TokenBits: .004, comparison.PreviousBits: .002} {
		v := c.Measures[k].Mean
		assert.InDelta(t, 0, v.Value, within, k)
		assert.Less(t, v.Low, 0.001, k)
		assert.Greater(t, v.High, -.001, k)
	}
	assert.Greater(t, mean(&c, comparison.TokenChance), .008)
	v := c.Measures[comparison.RepetitionLift].Mean
	assert.Less(t, v.Low, 1.02)
	assert.Greater(t, v.High, .98)
	// Independent tokens overflow, and repeat a text's experts, as chance says.
	for k, by := range map[comparison.Kind]comparison.Kind{comparison.Overflow1: comparison.Overflow1Chance, comparison.Overflow125: comparison.Overflow125Chance, comparison.Overflow2: comparison.Overflow2Chance} {
		assert.InDelta(t, mean(&c, by), mean(&c, k), .006, k)
	}
	assert.InDelta(t, 1, mean(&c, comparison.PrefixRelative), .01)
	// Chosen by their logits, independent of documents: loss above 1, since f and P agree.
	loss := c.Measures[comparison.Auxiliary]
	assert.InDelta(t, 1, loss.Mean.Value, .01)
	assert.False(t, loss.Layers[1].OK(), "its logits are not recorded")
	assert.Greater(t, mean(&c, comparison.TopProbability), .5)
}

// An encoder of L 2 and a decoder of L 3, E 7, whose blocks differ, with an expert that
// is too full.
func TestStacks(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "two", Layers: 5, Experts: 7, TopK: 1, Vocabulary: 35, Stacks: []trace.Stack{
		{Name: trace.Encoder, Layers: 2, Blocks: []int{1, 3}}, {Name: trace.Decoder, Layers: 3, Blocks: []int{1, 5, 7}}}}, Dropped: true}
	r := tracetest.Router{Header: h, Prompt: 22, Capacity: 10, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		switch {
		case s.Layer >= 2:
			return []int32{s.Token % 3}
		case s.Position < 15: // all but ten are dropped
			return []int32{4}
		default:
			return []int32{int32(s.Position % 4)}
		}
	})}
	gates := &speculate.Gates{Layers: 5, Experts: 7, Hidden: 2, Weights: make([]float32, 70)}
	res := compare(t, h, documents(&r, 30), &comparison.Checkpoint{Parameters: 1000, Active: []int64{100, 200}, ExpertParameters: 10, ExpertBytes: 20, Capacity: 10, Gates: gates})
	require.Len(t, res.Columns, 2)
	e, d := &res.Columns[0], &res.Columns[1]
	assert.Equal(t, "two, encoder", e.Name)
	assert.Equal(t, []int{2, 3}, []int{e.Layers, d.Layers})
	assert.Equal(t, 30*22, e.Tokens)
	assert.Equal(t, 30*(18+23+28)/3, d.Tokens)
	assert.InDelta(t, 5./22, mean(e, comparison.Dropped), 1e-9)
	assert.InDelta(t, 0, mean(d, comparison.Dropped), 1e-9)
	assert.InDelta(t, (15-3.)/22, mean(e, comparison.Overflow1), 1e-9) // places for 22/7, rounded down
	assert.InDelta(t, (15-6.)/22, mean(e, comparison.Overflow2), 1e-9)
	assert.InDelta(t, 14./21, mean(e, comparison.Repetition), 1e-9)
	assert.Equal(t, &[2]float64{70. / 22, 70. / 22}, e.Factors)
	require.Len(t, e.Drops, 1)
	assert.Equal(t, []float64{2, 4, 30}, []float64{e.Drops[0].From, e.Drops[0].To, float64(e.Drops[0].Texts)})
	assert.InDelta(t, 5./22, e.Drops[0].Share.Value, 1e-9)
	assert.Len(t, d.Drops, 1) // factors of 70/28 to 70/18
	assert.Empty(t, e.Caches)
	for _, x := range e.Recalls {
		assert.NotEqual(t, "previous token", x.Predictor, "an encoder's tokens come together")
	}
	assert.Contains(t, fmt.Sprint(res.Predictors()), "previous token")
	// Distances in blocks: 4 from block 1 to 5, 2 from 5 to 7; 2 layers are 6 blocks.
	found := map[string]bool{}
	for _, x := range d.Recalls {
		found[fmt.Sprint(x.Layers, x.Blocks)] = true
		assert.NotEqual(t, "gate reuse", x.Predictor, "router inputs are not recorded")
	}
	assert.Equal(t, map[string]bool{"1 0": true, "2 0": true, "0 2": true, "0 4": true}, found)
}
