package neural

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recalled makes documents whose routing follows from the id of the token three
// before. Counts by id or by the token before cannot know it; attention can. The
// router inputs are those of plant.
func recalled(docs, tokens int, seed uint64) []*trace.Document {
	fixed := rand.New(rand.NewPCG(8, 8))
	var table [tV][tL][]int
	for i := range table {
		for l := range tL {
			table[i][l] = fixed.Perm(tE)[:tK]
		}
	}
	rng := rand.New(rand.NewPCG(seed, 4))
	planted, _ := plantRule(seed)
	var ids []int32
	from := int32(0)
	rule := func(s *tracetest.Step) {
		planted(s)
		if s.Layer == 0 {
			ids = append(ids[:s.Position], s.Token)
			if from = int32(rng.IntN(tV)); s.Position >= 3 {
				from = ids[s.Position-3]
			}
		}
		for e := range s.Logits {
			s.Logits[e] = -2
		}
		for k, e := range table[from][s.Layer] {
			s.Logits[e] = 2 - float32(k)
		}
	}
	return documents(rule, docs, tokens, seed)
}

func tiny(inputs bool) TransformerConfig {
	c := TransformerConfig{Name: "tiny", Inputs: inputs, Blocks: 2, Width: 48, Heads: 3, Window: 16, HeadWidth: 24, HeadDepth: 3, Soft: true}
	if inputs {
		c.ExpertWidth, c.Gate = 20, true
	}
	return c
}

// Plain Go computes the same probabilities as the graph, up to the rounding of
// weights to 8 bits.
func TestTransformerEqualsGraph(t *testing.T) {
	docs, g := plant(6, 16, 1)
	data := speculate.Slice(header(), docs)
	for _, kind := range []string{"routing", "logits", "inputs"} {
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		hs := []speculate.Horizon{{Layers: 1}, unknown, {Layers: 3}, {KnownID: true}}
		o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 3, Tokens: 960, Batch: 32, Checks: 1, Rate: .01, Gates: g}.withDefaults()
		j, err := newTransformerJob(context.Background(), c, data, data, o)
		require.NoError(t, err)
		defer j.close()
		require.NoError(t, j.loop.run(context.Background()))
		p := j.trained()
		a := j.batch()
		require.NoError(t, j.read([]passage{{doc: docs[0], to: 16}, {doc: docs[1], to: 11}}, a))
		_, y, err := j.loop.infer(a)
		require.NoError(t, err)
		worst := 0.0
		for i, n := range []int{16, 11} {
			views, err := speculate.NewViews(header(), docs[i])
			require.NoError(t, err)
			for g, hd := range heads(speculate.Shape{Layers: tL}, hs) {
				for tok := range n {
					got, want := make([]float32, tE), append([]float32{}, y[(g*32+i*16+tok)*tE:][:tE]...)
					require.NoError(t, p.Predict([]speculate.View{views.At(tok, hd.l, hd.h)}, got))
					prob.FromLogits(want, tK)
					for e := range got {
						worst = max(worst, math.Abs(float64(got[e]-want[e])))
					}
				}
			}
		}
		assert.InDelta(t, 0, worst, .02, kind) // also if it is NaN
	}
}

// Transformers learn what was planted, read only their view, and predict the same
// step by step as for whole documents longer than the window, and when saved and
// loaded.
func TestTransformer(t *testing.T) {
	h := header()
	train, valid, test := recalled(64, 16, 1), recalled(8, 16, 100), recalled(12, 16, 200)
	_, g := plant(1, 1, 1)
	hs := append(speculate.LayersAhead(1, 2), speculate.Horizon{KnownID: true}, unknown)
	var ps []speculate.Predictor
	for _, kind := range []string{"routing", "logits", "inputs"} {
		o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 16000, Batch: 64, Checks: 3, Rate: .008, Gates: g, PoolBytes: 30000}
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		if kind != "routing" {
			c.Name, o.Tokens = "tiny "+kind, 2000
		}
		p, err := TrainTransformer(context.Background(), c, speculate.Slice(h, train), speculate.Slice(h, valid), o)
		require.NoError(t, err)
		ps = append(ps, p)
	}
	r, err := speculate.Evaluate(context.Background(), speculate.Slice(h, test), speculate.EvaluateOptions{Horizons: hs}, ps...)
	require.NoError(t, err)
	for _, h := range hs {
		x, _ := r.Recall("tiny", h)
		assert.GreaterOrEqual(t, x, .55, h)
	}
	dir := t.TempDir()
	require.NoError(t, speculate.SaveAll(dir, &speculate.Set{Predictors: ps}))
	set, err := LoadAll(os.DirFS(dir), g, nil)
	require.NoError(t, err)
	require.Len(t, set.Predictors, len(ps))
	s, err := speculate.Evaluate(context.Background(), speculate.Slice(h, test), speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	require.NoError(t, err)
	for i, row := range r.Rows {
		require.Equal(t, s.Rows[i].Metrics, row.Metrics, "%s, saved and loaded", row.Predictor)
	}
	long := recalled(1, 45, 7)[0]
	for _, p := range ps {
		assert.NoError(t, speculate.CheckCausality(p, h, long, hs))
		assert.NoError(t, speculate.CheckStepwise(p, h, long, hs))
	}
}

// Each pass draws each passage once, for any size of the pool.
func TestPassages(t *testing.T) {
	docs, _ := plant(9, 37, 1)
	for i, d := range docs {
		n := 37 - 3*i
		d.Tokens, d.Experts, d.Weights, d.RouterLogits, d.RouterInput = d.Tokens[:n], d.Experts[:n*tL*tK], d.Weights[:n*tL*tK], d.RouterLogits[:n*tL*tE], d.RouterInput[:n*tL*tD]
	}
	total := 0
	for i := range docs {
		total += (37 - 3*i + 15) / 16
	}
	for _, bound := range []int64{1, 20000, 1 << 30} {
		s := newPassageSource(speculate.Slice(header(), docs), 16, bound, 5)
		for pass := range 3 {
			seen := map[passage]bool{}
			for range total {
				p, err := s.draw()
				require.NoError(t, err)
				require.False(t, seen[p], "bound %d: %v", bound, p)
				require.LessOrEqual(t, p.to-p.from, 16, "bound %d: %v", bound, p)
				require.Equal(t, pass+1, s.Passes, "bound %d: %v", bound, p)
				seen[p] = true
			}
		}
		assert.Equal(t, int64(0), s.held, "bound %d", bound)
		assert.Empty(t, s.pool, "bound %d", bound)
		s.close()
	}
	s := newPassageSource(speculate.Slice(header(), nil), 16, 100, 5)
	_, err := s.draw()
	assert.ErrorContains(t, err, "no tokens")
}

func TestTransformerErrors(t *testing.T) {
	docs, g := plant(3, 16, 1)
	data := speculate.Slice(header(), docs)
	hs := speculate.LayersAhead(1)
	for name, change := range map[string]func(*TransformerConfig, *TrainOptions){
		"width":   func(c *TransformerConfig, _ *TrainOptions) { c.Width = 36 },
		"heads":   func(c *TransformerConfig, _ *TrainOptions) { c.Heads = 4 },
		"window":  func(c *TransformerConfig, _ *TrainOptions) { c.Window = 0 },
		"gates":   func(_ *TransformerConfig, o *TrainOptions) { o.Gates = nil },
		"experts": func(c *TransformerConfig, _ *TrainOptions) { c.Inputs, c.Gate = false, false },
		"logits":  func(c *TransformerConfig, _ *TrainOptions) { c.Logits = true },
	} {
		c, o := tiny(true), TrainOptions{Backend: backend(t), Horizons: hs, Tokens: 16, Gates: g}
		change(&c, &o)
		_, err := TrainTransformer(context.Background(), c, data, data, o)
		assert.Error(t, err, name)
	}
}
