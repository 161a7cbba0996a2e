package neural

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// recalled makes documents whose routing at a token is that of the token three
// places before, at all layers, and else follows the token's id: a count by id
// or by the token before cannot know it, attention can.
func recalled(docs, tokens int, seed uint64) []*trace.Document {
	fixed := rand.New(rand.NewPCG(8, 8))
	table := make([]int32, tV*tL*tK)
	for i := 0; i < len(table); i += tK {
		a := fixed.Perm(tE)
		table[i], table[i+1] = int32(a[0]), int32(a[1])
	}
	rng := rand.New(rand.NewPCG(seed, 4))
	out := make([]*trace.Document, docs)
	for i := range out {
		d, _ := plant(1, tokens-i%5, seed+uint64(i))
		out[i] = d[0]
		out[i].ID = fmt.Sprint(i)
		for t := range out[i].Tokens {
			from := int32(rng.IntN(tV))
			if t >= 3 {
				from = out[i].Tokens[t-3]
			}
			for l := range tL {
				copy(out[i].Experts[(t*tL+l)*tK:], table[(int(from)*tL+l)*tK:][:tK])
				for e := range tE {
					out[i].RouterLogits[(t*tL+l)*tE+e] = -2
				}
				for k := range tK {
					out[i].RouterLogits[(t*tL+l)*tE+int(table[(int(from)*tL+l)*tK+k])] = 2 - float32(k)
					out[i].Weights[(t*tL+l)*tK+k] = .7 - .4*float32(k)
				}
			}
		}
	}
	return out
}

func tiny(inputs bool) TransformerConfig {
	c := TransformerConfig{Name: "tiny", Inputs: inputs, Blocks: 2, Width: 48, Heads: 3, Window: 16, HeadWidth: 24, HeadDepth: 3, Soft: true}
	if inputs {
		c.ExpertWidth, c.Gate = 20, true
	}
	return c
}

// What a transformer answers in plain Go is what its graph says, for documents
// shorter and longer than the window's passages.
func TestTransformerEqualsGraph(t *testing.T) {
	docs, g := plant(6, 16, 1)
	data := speculate.Slice(header(), docs)
	for _, kind := range []string{"routing", "logits", "inputs"} {
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		hs := append(speculate.LayersAhead(1, 3), speculate.Horizon{KnownID: true})
		o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 3, Tokens: 960, Batch: 32, Checks: 1, Rate: .01, Gates: g}.withDefaults()
		j, err := newTransformerJob(context.Background(), c, data, data, o)
		if err != nil {
			t.Fatal(err)
		}
		defer j.close()
		if err := j.loop.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		p := j.trained()
		a := j.batch()
		if err := j.read([]passage{{docs[0], 0, 16}, {docs[1], 0, 11}}, a); err != nil {
			t.Fatal(err)
		}
		_, y, err := j.loop.infer(a)
		if err != nil {
			t.Fatal(err)
		}
		worst := 0.0
		for i, n := range []int{16, 11} {
			views, err := speculate.NewViews(header(), docs[i])
			if err != nil {
				t.Fatal(err)
			}
			for g, hd := range heads(tL, hs) {
				for tok := range n {
					got, want := make([]float32, tE), append([]float32{}, y[(g*32+i*16+tok)*tE:][:tE]...)
					if err := p.Predict([]speculate.View{views.At(tok, hd.l, hd.h)}, got); err != nil {
						t.Fatal(err)
					}
					speculate.LogitsToProbabilities(want, tK)
					for e := range got {
						worst = max(worst, math.Abs(float64(got[e]-want[e])))
					}
				}
			}
		}
		// Weights of 16 bits in plain Go, 32 in the graph.
		t.Logf("%s: %g", kind, worst)
		if worst > .02 || math.IsNaN(worst) {
			t.Errorf("%s: probabilities differ by up to %g", kind, worst)
		}
	}
}

// Both kinds learn, keep to their views, answer step by step as for whole
// documents, longer than the window too, and come back from a file.
func TestTransformer(t *testing.T) {
	h := header()
	train, valid, test := recalled(64, 16, 1), recalled(8, 16, 100), recalled(12, 16, 200)
	_, g := plant(1, 1, 1)
	hs := speculate.LayersAhead(1, 2)
	var ps []speculate.Predictor
	for _, kind := range []string{"routing", "logits", "inputs"} {
		o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 16000, Batch: 64, Checks: 3, Rate: .008, Gates: g, PoolBytes: 30000}
		c := tiny(kind == "inputs")
		c.Logits = kind == "logits"
		if kind != "routing" {
			c.Name, o.Tokens = "tiny "+kind, 2000
		}
		p, err := TrainTransformer(context.Background(), c, speculate.Slice(h, train), speculate.Slice(h, valid), o)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	r, err := speculate.Evaluate(context.Background(), speculate.Slice(h, test), speculate.EvaluateOptions{Horizons: hs}, ps...)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := r.Recall("tiny", hs[0])
	t.Logf("recall %.3f", x)
	if x < .6 {
		t.Errorf("recall %.3f of what stood three tokens before", x)
	}
	dir := t.TempDir()
	if err := speculate.SaveAll(dir, &speculate.Set{Predictors: ps}); err != nil {
		t.Fatal(err)
	}
	set, err := LoadAll(os.DirFS(dir), g, nil)
	if err != nil || len(set.Predictors) != len(ps) {
		t.Fatalf("%v, %v", set, err)
	}
	s, err := speculate.Evaluate(context.Background(), speculate.Slice(h, test), speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range r.Rows {
		if row.Metrics != s.Rows[i].Metrics {
			t.Fatalf("%s differs once saved and loaded", row.Predictor)
		}
	}
	long := recalled(1, 45, 7)[0]
	for _, p := range ps {
		if err := speculate.CheckCausality(p, h, long, hs); err != nil {
			t.Error(err)
		}
		if err := speculate.CheckStepwise(p, h, long, hs); err != nil {
			t.Error(err)
		}
	}
}

// The source draws each passage once a pass, however many the pool holds.
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
				if err != nil {
					t.Fatal(err)
				}
				if seen[p] || p.to-p.from > 16 || s.Passes != pass+1 {
					t.Fatalf("bound %d: %v drawn twice, too long, or in pass %d of %d", bound, p, s.Passes, pass+1)
				}
				seen[p] = true
			}
		}
		if s.held != 0 || len(s.pool) != 0 {
			t.Errorf("bound %d: %d bytes left in a pool of %d", bound, s.held, len(s.pool))
		}
		s.close()
	}
	s := newPassageSource(speculate.Slice(header(), nil), 16, 100, 5)
	if _, err := s.draw(); err == nil {
		t.Error("a passage of no documents")
	}
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
		"id":      func(_ *TransformerConfig, o *TrainOptions) { o.Horizons = []speculate.Horizon{{}} },
	} {
		c, o := tiny(true), TrainOptions{Backend: backend(t), Horizons: hs, Tokens: 16, Gates: g}
		change(&c, &o)
		if _, err := TrainTransformer(context.Background(), c, data, data, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
