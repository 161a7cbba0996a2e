package neural

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A step in four parts equals one in one part, up to rounding.
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
		require.NoError(t, err)
		*c.p = p
	}
	a, b := whole.Info(), parted.Info()
	assert.InDelta(t, b.Loss, a.Loss, 1e-4*a.Loss)
	assert.Equal(t, b.Tokens, a.Tokens)
	// AdamW divides by the size of the gradient, which magnifies rounding errors of
	// small ones.
	for name, x := range whole.weights {
		for i, v := range x {
			require.InDelta(t, v, parted.weights[name][i], 2e-3, "%s %d", name, i)
		}
	}
}

// stopped trains until the second check.
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
	_, err := TrainMLP(ctx, cfg, ps.Train, ps.Valid, o)
	require.ErrorIs(t, err, context.Canceled)
}

// A training that is stopped and resumed has the same result, bit for bit, as one
// that is not.
func TestResume(t *testing.T) {
	ps, g := parts(t)
	stats := []speculate.Predictor{&speculate.Frequency{}}
	hs := speculate.LayersAhead(1, 3)
	require.NoError(t, speculate.Fit(context.Background(), ps.Train, hs, stats...))
	// More tokens than documents have, so that passes end before and after the stop.
	o := TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 6400, Batch: 64, Accumulate: 2, ValidTokens: 200, Checks: 4, Gates: g, Statistics: stats}
	for _, cfg := range []MLPConfig{StatisticsAware(12), HiddenState(8)} {
		whole, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
		require.NoError(t, err)
		r := o
		r.Resume = filepath.Join(t.TempDir(), "new")
		stopped(t, cfg, ps, r)
		steps := []int{}
		r.Progress = func(p Progress) { steps = append(steps, p.Step) }
		again, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, r)
		require.NoError(t, err)
		assert.Equal(t, []int{75, 100}, steps, cfg.Name)
		for name, x := range whole.weights {
			assert.Equal(t, again.weights[name], x, "%s: %s", cfg.Name, name)
		}
		a, b := whole.Info(), again.Info()
		a.Seconds, b.Seconds = 0, 0
		assert.Equal(t, b, a, cfg.Name)
		left, err := os.ReadDir(r.Resume)
		require.NoError(t, err)
		assert.Empty(t, left, cfg.Name)
	}
}

// LeaveOneOut resumes after an interruption in any of its trainings.
func TestLeaveOneOutResumes(t *testing.T) {
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
	_, err := LeaveOneOut(ctx, ps, o)
	require.ErrorIs(t, err, context.Canceled)
	steps := 0
	o.Train.Progress = func(Progress) { steps++ }
	_, err = LeaveOneOut(context.Background(), ps, o)
	require.NoError(t, err)
	assert.Equal(t, 4+4+3, steps)
}

// The state of another training, or a damaged one, is an error that names the file.
func TestResumeRefuses(t *testing.T) {
	ps, _ := parts(t)
	o := TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 100, Checks: 4, Resume: t.TempDir()}
	cfg := InterLayer(8)
	stopped(t, cfg, ps, o)
	path := filepath.Join(o.Resume, "inter-layer.training.safetensors")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	docs, _ := plant(24, 64, 77)
	wider := InterLayer(9)
	for name, c := range map[string]struct {
		change func(cfg *MLPConfig, ps *speculate.Parts, o *TrainOptions)
		spoil  func([]byte) []byte
		want   string
	}{
		"width":     {change: func(c *MLPConfig, _ *speculate.Parts, _ *TrainOptions) { *c = wider }, want: "configuration"},
		"seed":      {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Seed = 5 }, want: "seed"},
		"rate":      {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Rate = .5 }, want: "differs in rate;"},
		"horizon":   {change: func(_ *MLPConfig, _ *speculate.Parts, o *TrainOptions) { o.Horizons = speculate.LayersAhead(2) }, want: "horizons"},
		"documents": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) { p.Train = speculate.Slice(header(), docs) }, want: "documents"},
		"last document": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) {
			last := []*trace.Document{}
			for d, err := range p.Train.Documents() {
				require.NoError(t, err)
				last = append(last, d)
			}
			d := *last[23]
			d.Tokens = slices.Clone(d.Tokens)
			d.Tokens[63] ^= 1
			last[23] = &d
			p.Train = speculate.Slice(header(), last)
		}, want: "documents"},
		"validation": {change: func(_ *MLPConfig, p *speculate.Parts, _ *TrainOptions) { p.Valid = speculate.Slice(header(), docs[:3]) }, want: "differs in validation documents"},
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
		} else {
			bad = c.spoil(bad)
			require.NotEqual(t, good, bad, "%s: nothing was changed", name)
		}
		require.NoError(t, os.WriteFile(path, bad, 0o666))
		_, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
		require.ErrorContains(t, err, path, name)
		assert.ErrorContains(t, err, c.want, name)
	}
}

// A network of heads that know the token's id and heads that do not learns from
// what each head can read.
func TestTokenHorizons(t *testing.T) {
	ps, _ := parts(t)
	// The horizon without the id is between those with it.
	all := []speculate.Horizon{{Layers: 2}, {}, {KnownID: true}}
	o := TrainOptions{Backend: backend(t), Horizons: all, Seed: 4, Tokens: 9600, Batch: 64, ValidTokens: 256, Checks: 3, Rate: .01}
	cfg := MLPConfig{Name: "ids", Width: 24, Depth: 1, Embed: 8, Features: Features{IDs: 2}}
	p, err := TrainMLP(context.Background(), cfg, ps.Train, ps.Valid, o)
	require.NoError(t, err)
	freq := &speculate.Frequency{}
	require.NoError(t, speculate.Fit(context.Background(), ps.Train, all, freq))
	r, err := speculate.Evaluate(context.Background(), ps.Test, speculate.EvaluateOptions{Horizons: all, Resamples: -1}, p, freq)
	require.NoError(t, err)
	base, _ := r.Recall("frequency", speculate.Horizon{})
	ahead, _ := r.Recall("ids", all[0])
	unknown, _ := r.Recall("ids", all[1])
	known, _ := r.Recall("ids", all[2])
	// The planted routing follows from the token's id, and ids are independent.
	assert.GreaterOrEqual(t, known, base+.15)
	assert.GreaterOrEqual(t, ahead, base+.1)
	assert.InDelta(t, base, unknown, .03)
	doc, _ := plant(1, 12, 7)
	assert.NoError(t, speculate.CheckCausality(p, header(), doc[0], all))
	a, b := p.Info().RecallK, (unknown+known)*tL/float64(2*tL+tL-2)+ahead*(tL-2)/float64(2*tL+tL-2)
	assert.InDelta(t, b, a, .06)
}

// Compare evaluates the predictors that support a horizon of one token.
func TestCompareTokenAlone(t *testing.T) {
	ps, g := parts(t)
	hs := []speculate.Horizon{{}}
	c, err := Compare(context.Background(), ps, CompareOptions{
		Train: TrainOptions{Backend: backend(t), Horizons: hs, Seed: 4, Tokens: 640, Batch: 64, ValidTokens: 128, Checks: 1, Gates: g},
		MLPs:  MLPConfigs(8, header(), g),
	})
	require.NoError(t, err)
	for _, p := range c.Predictors {
		_, ok := c.Results.Recall(p.Name(), hs[0])
		assert.Equal(t, p.Supports(hs[0]), ok, p.Name())
	}
}

// The sampler holds at most as many documents as its bound allows, and draws each
// token once a pass.
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
		require.NoError(t, s.draw(ps))
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
		require.LessOrEqual(t, alive, 7, "after %d draws", i+1) // 5, one read ahead, one on the stack
		if i == docs*tokens-1 {
			require.Len(t, seen, docs*tokens, "tokens of a pass")
			require.Equal(t, 1, slices.Max(slices.Collect(maps.Values(seen))), "draws of a token")
		}
	}
	assert.Equal(t, 2, s.tokens.Passes)
	assert.Len(t, seen, docs*tokens)
}
