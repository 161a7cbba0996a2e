package neural

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// A step in four parts is the step in one, to rounding.
func TestAccumulate(t *testing.T) {
	ps, g := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1, 3), Seed: 4, Tokens: 1024, Batch: 64, ValidTokens: 200, Gates: g}
	var whole, parted *MLP
	for _, c := range []struct {
		parts int
		p     **MLP
	}{{1, &whole}, {4, &parted}} {
		o.Accumulate = c.parts
		p, err := TrainMLP(context.Background(), HiddenState(16), ps.Train, ps.Valid, o)
		if err != nil {
			t.Fatal(err)
		}
		*c.p = p
	}
	if a, b := whole.Info(), parted.Info(); math.Abs(a.Loss-b.Loss) > 1e-4*a.Loss || a.Tokens != b.Tokens {
		t.Errorf("loss %g after %d tokens in one, %g after %d in four", a.Loss, a.Tokens, b.Loss, b.Tokens)
	}
	// AdamW divides by the gradient's size, so that rounding of next to none shows.
	for name, x := range whole.weights {
		for i, v := range x {
			if d := math.Abs(float64(v - parted.weights[name][i])); d > 2e-3 {
				t.Fatalf("%s %d: %g in one, %g in four", name, i, v, parted.weights[name][i])
			}
		}
	}
}

// stopped trains until the second check, with the state kept in dir.
func stopped(t *testing.T, cfg MLPConfig, ps speculate.Parts, o TrainOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	checks := 0
	o.Progress = func(Progress) {
		if checks++; checks == 2 {
			cancel()
		}
	}
	if _, err := TrainMLP(ctx, cfg, ps.Train, ps.Valid, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("stopped with %v", err)
	}
}

// A training that was stopped and resumed ends as one that was not, to the bit.
func TestResume(t *testing.T) {
	ps, g := parts(t)
	stats := []speculate.Predictor{&speculate.Frequency{}}
	hs := speculate.LayersAhead(1, 3)
	if err := speculate.Fit(context.Background(), ps.Train, speculate.FitOptions{Horizons: hs}, stats...); err != nil {
		t.Fatal(err)
	}
	// More tokens than documents have, so that a pass ends on both sides.
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 6400, Batch: 64, Accumulate: 2, ValidTokens: 200, Checks: 4, Gates: g, Statistics: stats}
	for _, cfg := range []MLPConfig{StatisticsAware(12), HiddenState(8)} {
		whole, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
		if err != nil {
			t.Fatal(err)
		}
		r := o
		r.Resume = filepath.Join(t.TempDir(), "new")
		stopped(t, cfg, ps, r)
		steps := []int{}
		r.Progress = func(p Progress) { steps = append(steps, p.Step) }
		again, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, r)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(steps, []int{75, 100}) {
			t.Errorf("%s: resumed with checks at steps %v", cfg.Name, steps)
		}
		for name, x := range whole.weights {
			if !slices.Equal(x, again.weights[name]) {
				t.Errorf("%s: %s differs once resumed", cfg.Name, name)
			}
		}
		a, b := whole.Info(), again.Info()
		if a.Seconds, b.Seconds = 0, 0; a != b {
			t.Errorf("%s: %+v, resumed %+v", cfg.Name, a, b)
		}
		if left, err := os.ReadDir(r.Resume); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", cfg.Name, left, err)
		}
	}
}

// Leaving data sets out goes on after an interruption in any of its trainings.
func TestLeaveOutResumes(t *testing.T) {
	ps, _ := parts(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := CompareOptions{MLPs: []MLPConfig{InterLayer(4)}, Only: []string{"inter-layer"}, Evaluate: speculate.EvaluateOptions{Resamples: -1}, Train: TrainOptions{
		Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: 256, Batch: 64, ValidTokens: 64, Checks: 4, Resume: t.TempDir()}}
	without := false
	o.Stage = func(what string) { without = strings.HasPrefix(what, "without b: ") }
	o.Train.Progress = func(Progress) {
		if without {
			cancel()
		}
	}
	if _, err := LeaveOneOut(ctx, ps, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("stopped with %v", err)
	}
	steps := 0
	o.Train.Progress = func(Progress) { steps++ }
	if _, err := LeaveOneOut(context.Background(), ps, o); err != nil || steps != 4+4+3 {
		t.Errorf("%d checks of three trainings, one of them resumed: %v", steps, err)
	}
}

// The state of another training, or a damaged one, is an error that names it.
func TestResumeRefuses(t *testing.T) {
	ps, _ := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 100, Checks: 4, Resume: t.TempDir()}
	cfg := InterLayer(8)
	stopped(t, cfg, ps, o)
	path := filepath.Join(o.Resume, "inter-layer.training.safetensors")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	docs, _ := plant(24, 64, 77)
	wider := InterLayer(9)
	for name, c := range map[string]struct {
		change func(cfg *MLPConfig, ps *speculate.Parts, o *TrainOptions)
		spoil  func([]byte) []byte
		want   string
	}{
		"width":     {change: func(c *MLPConfig, _ *speculate.Parts, _ *TrainOptions) { *c = wider }, want: "configuration"},
		"seed":      {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Seed = 5 }, want: "seed"},
		"rate":      {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Rate = .5 }, want: "other rate:"},
		"horizon":   {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Horizons = speculate.LayersAhead(2) }, want: "horizons"},
		"documents": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) { p.Train = speculate.Slice(header(), docs) }, want: "documents"},
		"last document": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) {
			last := []*trace.Document{}
			for d, err := range p.Train.Documents() {
				if err != nil {
					t.Fatal(err)
				}
				last = append(last, d)
			}
			d := *last[23]
			d.Tokens = slices.Clone(d.Tokens)
			d.Tokens[63] ^= 1
			last[23] = &d
			p.Train = speculate.Slice(header(), last)
		}, want: "documents"},
		"validation": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) { p.Valid = speculate.Slice(header(), docs[:3]) }, want: "other validation documents"},
		"cut":        {spoil: func(b []byte) []byte { return b[:len(b)-4] }, want: "bytes"},
		"empty":      {spoil: func(b []byte) []byte { return nil }, want: ""},
		"bit":        {spoil: func(b []byte) []byte { b[len(b)-3] ^= 1; return b }, want: "damaged"},
		"metadata":   {spoil: func(b []byte) []byte { return bytes.Replace(b, []byte(stateKey), []byte("expertspec.trainin_"), 1) }, want: stateKey},
		"steps":      {spoil: func(b []byte) []byte { return bytes.Replace(b, []byte(`\"done\":5`), []byte(`\"done\":0`), 1) }, want: "damaged"},
	} {
		cfg, ps, o := cfg, ps, o
		bad := bytes.Clone(good)
		if c.change != nil {
			c.change(&cfg, &ps, &o)
		} else if bad = c.spoil(bad); bytes.Equal(bad, good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Heads that know the token's id and heads that do not, in one network: each
// learns from what it will be shown, and the network that is executed is the
// one that was trained.
func TestTokenHorizons(t *testing.T) {
	ps, _ := parts(t)
	// The order matters: the unknown id between the known.
	all := []speculate.Horizon{{Layers: 2}, {}, {KnownID: true}}
	o := TrainOptions{Backend: backend(t), Horizons: all, Seed: 4, Tokens: 9600, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .01}
	cfg := MLPConfig{Name: "ids", Width: 24, Depth: 1, Embed: 8, Features: Features{IDs: 2}}
	p, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
	if err != nil {
		t.Fatal(err)
	}
	freq := &speculate.Frequency{}
	if err := speculate.Fit(context.Background(), ps.Train, speculate.FitOptions{Horizons: all}, freq); err != nil {
		t.Fatal(err)
	}
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: all, Resamples: -1}, p, freq)
	if err != nil {
		t.Fatal(err)
	}
	base, _ := r.Recall("frequency", speculate.Horizon{})
	ahead, _ := r.Recall("ids", all[0])
	unknown, _ := r.Recall("ids", all[1])
	known, _ := r.Recall("ids", all[2])
	// The planted routing follows from the token's id, and ids are independent.
	if known < base+.15 || ahead < base+.1 || unknown > base+.03 || unknown < base-.03 {
		t.Errorf("recall by ids %.3f two layers ahead, %.3f unknown, %.3f known; frequency %.3f", ahead, unknown, known, base)
	}
	doc, _ := plant(1, 12, 7)
	if err := speculate.CheckCausality(p, header(), doc[0], all); err != nil {
		t.Error(err)
	}
	if a, b := p.Info().RecallK, (unknown+known)*tL/float64(2*tL+tL-2)+ahead*(tL-2)/float64(2*tL+tL-2); math.Abs(a-b) > .06 {
		t.Errorf("recall %.3f where it was trained, %.3f where it is executed", a, b)
	}
}

// What Compare does at a horizon of one token alone.
func TestCompareTokenAlone(t *testing.T) {
	ps, g := parts(t)
	hs := []speculate.Horizon{{}}
	c, err := Compare(context.Background(), ps, CompareOptions{
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 128, Checks: 1, Gates: g},
		MLPs:  MLPConfigs(8, header(), g),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Predictors {
		if _, ok := c.Results.Recall(p.Name(), hs[0]); ok != p.Supports(hs[0]) {
			t.Errorf("%s: scored %v, supported %v", p.Name(), ok, p.Supports(hs[0]))
		}
	}
}

// The sampler holds no more documents than its bound, and draws each token
// once a pass.
func TestSamplerIsBounded(t *testing.T) {
	const docs, tokens = 120, 30
	made := []weak.Pointer[trace.Document]{}
	h := header()
	h.Model.Vocabulary = docs * tokens
	d := speculate.Data{Header: h, Documents: func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for i := range docs {
				x, _ := plant(1, tokens, uint64(i))
				for t := range tokens {
					x[0].Tokens[t] = int32(i*tokens + t)
				}
				made = append(made, weak.Make(x[0]))
				if !yield(x[0], nil) {
					return
				}
			}
		}
	}}
	one, _ := plant(1, tokens, 1)
	s := newSampler(d, 5*sizeOf(one[0]), 3)
	defer s.close()
	seen := map[int32]int{}
	ps := make([]point, 1)
	for i := range 2 * docs * tokens {
		if err := s.draw(ps); err != nil {
			t.Fatal(err)
		}
		seen[ps[0].doc.Tokens[ps[0].t]]++
		if i%600 != 599 {
			continue
		}
		ps[0] = point{}
		runtime.GC()
		alive := 0
		for _, w := range made {
			if w.Value() != nil {
				alive++
			}
		}
		if alive > 7 { // 5, one read ahead, one on the stack
			t.Fatalf("%d documents held after %d draws, the bound is 5", alive, i+1)
		}
		if i == docs*tokens-1 && (len(seen) != docs*tokens || slices.Max(slices.Collect(maps.Values(seen))) != 1) {
			t.Fatalf("%d tokens of %d drawn in a pass, one of them %d times", len(seen), docs*tokens, slices.Max(slices.Collect(maps.Values(seen))))
		}
	}
	if s.Passes != 2 || len(seen) != docs*tokens {
		t.Errorf("%d passes, %d tokens", s.Passes, len(seen))
	}
}
