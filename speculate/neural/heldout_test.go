package neural

import (
	"context"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A document is trained on with statistics of the other folds, and a network that
// was trained keeps those of all documents.
func TestHeldOut(t *testing.T) {
	ctx := context.Background()
	ps, _ := parts(t)
	hs := speculate.LayersAhead(1, 2)
	fitted := func(d speculate.Data) []speculate.Predictor {
		stats := []speculate.Predictor{&speculate.Transition{}, &speculate.Path{}}
		require.NoError(t, speculate.Fit(ctx, d, hs, stats...))
		return stats
	}
	all := fitted(ps.Train)
	o := TrainOptions{Backend: backend(t), Horizons: hs, Statistics: all}
	held, err := newHeldOut(ctx, ps.Train, o)
	require.NoError(t, err)
	place, last := map[trace.Key]int{}, trace.Key{}
	for doc, err := range ps.Train.All(ctx) {
		require.NoError(t, err)
		place[doc.Key()] = len(place) % folds
		last = doc.Key()
	}
	require.Greater(t, len(place), folds)
	ask := func(p speculate.Predictor, doc *trace.Document, h speculate.Horizon) []float32 {
		v, err := speculate.NewViews(ps.Train.Header, doc)
		require.NoError(t, err)
		out := make([]float32, tE)
		require.NoError(t, p.Predict([]speculate.View{v.At(3, 3, h)}, out))
		return out
	}
	differ := 0
	for fold := range folds {
		want := fitted(ps.Train.Filter(func(d *trace.Document) bool { return place[d.Key()] != fold }))
		for doc, err := range ps.Train.All(ctx) {
			require.NoError(t, err)
			if place[doc.Key()] != fold {
				continue
			}
			for i, p := range held.of(doc) {
				for _, h := range hs {
					got := ask(p, doc, h)
					require.Equal(t, ask(want[i], doc, h), got)
					if !assert.ObjectsAreEqual(ask(all[i], doc, h), got) {
						differ++
					}
				}
			}
		}
	}
	assert.Greater(t, differ, 2*len(place))

	cfg := StatisticsAware(8)
	o.Tokens, o.Batch, o.Statistics = 128, 32, fitted(ps.Train)
	n, err := TrainMLP(ctx, cfg, ps.Train, ps.Valid, o)
	require.NoError(t, err)
	assert.Equal(t, o.Statistics, n.Needs())

	single, err := newHeldOut(ctx, ps.Train.Filter(func(d *trace.Document) bool { return d.Key() == last }), o)
	require.NoError(t, err)
	assert.Nil(t, single, "one document has no others")
}

// A trace without token ids has no predictor by them, unless it is asked for by name,
// which is an error.
func TestWithoutTokenIDs(t *testing.T) {
	ctx := context.Background()
	ps, _ := parts(t)
	var docs []*trace.Document
	for doc, err := range ps.Train.All(ctx) {
		require.NoError(t, err)
		d := *doc
		d.Tokens = slices.Repeat([]int32{trace.NoToken}, len(doc.Tokens))
		docs = append(docs, &d)
	}
	without := speculate.Slice(ps.Train.Header, docs)
	o := CompareOptions{Train: TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1)}, MLPs: []MLPConfig{}}
	for _, c := range []struct {
		train speculate.Data
		has   bool
	}{{ps.Train, true}, {without, false}} {
		made, err := Fit(ctx, c.train, ps.Valid, o)
		require.NoError(t, err)
		assert.Equal(t, c.has, slices.ContainsFunc(made.Predictors, func(p speculate.Predictor) bool { return p.Name() == "token id" }))
		assert.True(t, slices.ContainsFunc(made.Predictors, func(p speculate.Predictor) bool { return p.Name() == "frequency" }))
	}
	o.Only = []string{"token id", "frequency"}
	_, err := Fit(ctx, without, ps.Valid, o)
	assert.ErrorContains(t, err, "token id")
}
