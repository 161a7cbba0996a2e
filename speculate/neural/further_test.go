package neural

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A limit ends a training that would take longer, and does not change the result
// of one that would not.
func TestLimit(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 100, Gates: g}
	train := func() *MLP {
		p, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, ps.Valid, o)
		require.NoError(t, err)
		return p
	}
	whole := train()
	o.Limit = time.Hour
	for name, x := range train().weights {
		assert.Equal(t, whole.weights[name], x)
	}
	o.Limit, o.Tokens = time.Nanosecond, 1<<40
	assert.Equal(t, int64(64), train().Info().Tokens)
	o.Resume = t.TempDir()
	_, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, ps.Valid, o)
	assert.ErrorContains(t, err, "limit")
}

// A transformer that starts from another with a learning rate of almost 0 equals
// it. A start of another configuration is an error.
func TestStart(t *testing.T) {
	h, hs := header(), speculate.LayersAhead(1, 2)
	train, valid := speculate.Slice(h, recalled(16, 16, 1)), speculate.Slice(h, recalled(8, 16, 100))
	_, g := plant(1, 1, 1)
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 512, Batch: 64, Patience: 9, Gates: g}
	first, err := TrainTransformer(context.Background(), tiny(true), train, valid, o)
	require.NoError(t, err)
	o.Start, o.Rate, o.Seed = first, 1e-30, 5
	again, err := TrainTransformer(context.Background(), tiny(true), train, valid, o)
	require.NoError(t, err)
	for name, x := range again.weights {
		assert.Equal(t, first.weights[name], x)
	}
	a, b := first.Info(), again.Info()
	assert.Equal(t, 2*a.Tokens, b.Tokens)
	assert.Greater(t, b.Seconds, a.Seconds)
	for name, change := range map[string]func(c *TransformerConfig, o *TrainOptions){
		"width":    func(c *TransformerConfig, _ *TrainOptions) { c.HeadWidth = 16 },
		"horizons": func(_ *TransformerConfig, o *TrainOptions) { o.Horizons = hs[:1] },
	} {
		c, o := tiny(true), o
		change(&c, &o)
		_, err := TrainTransformer(context.Background(), c, train, valid, o)
		assert.ErrorContains(t, err, "cannot start from", name)
	}
}

// Networks of an earlier training are calibrated and become members of the
// ensemble; transformers that are named are trained further.
func TestTrained(t *testing.T) {
	ps, g := parts(t)
	ctx := context.Background()
	c := CompareOptions{Only: []string{"hidden state", "tiny"}, Transformers: []TransformerConfig{tiny(true)}, MLPs: []MLPConfig{HiddenState(8)},
		Train: TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 1280, Batch: 64, Patience: 9, Gates: g}}
	old, err := Fit(ctx, ps.Train, ps.Valid, c)
	require.NoError(t, err)
	c.Trained, c.Only = old.Networks, []string{"tiny", "frequency", "ensemble"}
	made, err := Fit(ctx, ps.Train, ps.Valid, c)
	require.NoError(t, err)
	var names []string
	for _, p := range made.Predictors {
		names = append(names, p.Name())
		assert.True(t, speculate.Base(p) != p || p.Name() == "ensemble", "%s is not calibrated", p.Name())
	}
	slices.Sort(names)
	assert.Equal(t, []string{"ensemble", "frequency", "hidden state", "tiny"}, names)
	for _, n := range made.Networks {
		was := old.Networks[slices.IndexFunc(old.Networks, func(m Network) bool { return m.Name() == n.Name() })]
		assert.Equal(t, map[string]int64{"tiny": 2, "hidden state": 1}[n.Name()], n.Info().Tokens/was.Info().Tokens)
	}
	r, err := speculate.Evaluate(ctx, ps.Test, speculate.EvaluateOptions{Horizons: c.Train.Horizons}, made.Predictors...)
	require.NoError(t, err)
	for _, row := range r.Rows {
		if row.By == "all" && row.Predictor == "ensemble" {
			assert.InDelta(t, 0, row.ECE, .06, "expected calibration error")
		}
	}
	c.Only = []string{"hidden state"}
	_, err = Fit(ctx, ps.Train, ps.Valid, c)
	assert.ErrorContains(t, err, "hidden state")
	c.Trained, c.Only = append(old.Networks, old.Networks...), []string{"frequency"}
	_, err = Fit(ctx, ps.Train, ps.Valid, c)
	assert.ErrorContains(t, err, "twice")
}

// No validation documents are an error for every kind of network.
func TestNoValidation(t *testing.T) {
	ps, g := parts(t)
	none := speculate.Slice(header(), nil)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: 64, Batch: 64, Gates: g}
	_, err := TrainMLP(context.Background(), HiddenState(8), ps.Train, none, o)
	assert.ErrorContains(t, err, "validation documents")
	_, err = TrainTransformer(context.Background(), tiny(true), ps.Train, none, o)
	assert.ErrorContains(t, err, "validation documents")
}

// A router-logit transformer that starts from a routing transformer first predicts
// as that one does.
func TestStartWider(t *testing.T) {
	h, hs := header(), append(speculate.LayersAhead(1, 2), unknown)
	docs := recalled(16, 16, 1)
	data := speculate.Slice(h, docs)
	c := CompareOptions{Only: []string{"tiny"}, Transformers: []TransformerConfig{tiny(false)},
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 512, Batch: 64, Patience: 9, Rate: .01}}
	old, err := Fit(context.Background(), data, data, c)
	require.NoError(t, err)
	wide := tiny(false)
	wide.Name, wide.Logits = "wide", true
	c.Trained, c.Only, c.Transformers, c.Train.Rate = old.Networks, []string{"wide"}, []TransformerConfig{wide}, 1e-30
	made, err := Fit(context.Background(), data, data, c)
	require.NoError(t, err)
	require.Equal(t, "wide", made.Networks[0].Name())
	views, err := speculate.NewViews(h, docs[3])
	require.NoError(t, err)
	a, b := make([]float32, tE), make([]float32, tE)
	for tok := range docs[3].Tokens {
		for l := 1; l < tL; l++ {
			for _, h := range []speculate.Horizon{hs[0], unknown} {
				v := []speculate.View{views.At(tok, l, h)}
				for i, p := range []Network{made.Networks[1], made.Networks[0]} { // the wide one was trained first
					require.NoError(t, p.Predict(v, [][]float32{a, b}[i]))
				}
				require.InDeltaSlice(t, b, a, .01, h)
			}
		}
	}
}
