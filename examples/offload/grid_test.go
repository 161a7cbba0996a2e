package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A row is taken in each column: one that knows the future never is, one without a
// predictor where the others gain less than 1 %, and else the one that decides faster.
func TestAdvice(t *testing.T) {
	row := func(label, predictor string, policy prefetch.Policy, decision float64, ms ...float64) (cells []*cli.Telemetry) {
		for i, x := range ms {
			cells = append(cells, &cli.Telemetry{Label: label, LoadSeconds: float64(i + 1), DecisionSeconds: decision,
				Decode: &prefetch.Result{Policy: policy, Predictor: predictor, Seconds: 5 * x / 1000, Tokens: 5, Resident: .25}})
		}
		return cells
	}
	var all []*cli.Telemetry
	for _, r := range [][]*cli.Telemetry{
		row("lru", "", prefetch.LRU, 0, 30, 41, 50),
		row("lfu", "", prefetch.DecayedLFU, 0, 20, 40, 50),
		row("slow", "p", prefetch.DecayedLFU, 2e-6, 10, 39.7, 49),
		row("quick", "q", prefetch.DecayedLFU, 1e-6, 10.05, 48, 48.6),
		row("oracle", "oracle", prefetch.LRU, 0, 1, 2, 3),
		row("opt", "", prefetch.OPT, 0, 4, 1, 5),
	} {
		all = append(all, r...)
	}
	a := newAdvice(all, 3)
	assert.Equal(t, []cell{
		{LoadSeconds: 1, Resident: .25, Take: "quick", Milliseconds: 10.05, Without: 20, Bound: 1},
		{LoadSeconds: 2, Resident: .25, Take: "lfu", Milliseconds: 40, Without: 40, Bound: 1},
		{LoadSeconds: 3, Resident: .25, Take: "quick", Milliseconds: 48.6, Without: 50, Bound: 3},
	}, a.Cells)
	assert.Equal(t, "slow", a.Take)
	assert.InDelta(t, 49/48.6-1, a.Loss, 1e-12)
	assert.Equal(t, []string{
		"1s 25%: quick, 10.05 ms/token, 50 % less than without a predictor; knowing the future 1.00",
		"2s 25%: lfu, 40.00 ms/token; knowing the future 1.00",
		"3s 25%: quick, 48.60 ms/token, 3 % less than without a predictor; knowing the future 3.00",
		"for all of these: slow, at most 1 % slower than the fastest",
	}, a.sentences())
	assert.Empty(t, newAdvice(row("opt", "", prefetch.OPT, 0, 4, 1), 2).Take)
	assert.Equal(t, "3.25ms", load(.00325149).String())
	assert.Equal(t, "59ns", load(59e-9).String())
}

// -simulate prints a table over times of reading and shares of resident experts, of all
// predictors of a folder, whose decisions are measured.
func TestGrid(t *testing.T) {
	dir := t.TempDir()
	r := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Layers: 5, Experts: 7, TopK: 2, Vocabulary: 90}, NoWeights: true},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{int32(3*s.Position+s.Layer) % 7, int32(3*s.Position+s.Layer+1) % 7}
		}),
	}
	docs := r.Documents(12, 30, 1)
	traced := tracetest.Write(t, r.Header, docs, trace.WriterOptions{})
	ps := []speculate.Predictor{&speculate.Transition{}, &speculate.Frequency{}, &speculate.TokenID{}}
	require.NoError(t, speculate.Fit(t.Context(), speculate.Slice(r.Header, docs), append(speculate.LayersAhead(1), speculate.Horizon{}), ps...))
	trained, file, figs := filepath.Join(dir, "trained"), filepath.Join(dir, "grid.json"), filepath.Join(dir, "figures")
	all, err := speculate.NewProvenance(t.Context(), speculate.Parts{Train: speculate.Slice(r.Header, docs), Valid: speculate.Slice(r.Header, nil)})
	require.NoError(t, err)
	require.NoError(t, speculate.SaveAll(trained, &speculate.Set{Predictors: ps, Provenance: all}))
	status, stdout, errs := clitest.Run(t, new(options).program(), "-simulate", traced, "-compare", "lru,lfu,prefetch,adaptive,reuse,reuse-prefetch,opt", "-predictor", trained+",oracle",
		"-split", ".25,.25", "-load", "2ms,30ms", "-compute", "3ms", "-resident", "20, 50,75%", "-json", file, "-figures", figs)
	require.Equal(t, cli.Done, status, errs)
	assert.Contains(t, errs, "reuse: token id omitted: not trained for it")
	assert.Contains(t, errs, trained+": warning: of 4 documents to evaluate on, the predictors were fitted on 4")
	assert.Contains(t, errs, "adaptive: frequency, ")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	got := new(figures)
	require.NoError(t, json.Unmarshal(raw, got))
	require.Len(t, got.Runs, 17*6)
	both := got.Runs[13*6]
	assert.Equal(t, "reuse-prefetch: transition", both.Label)
	assert.Equal(t, prefetch.Reuse, both.Decode.Policy)
	assert.Positive(t, both.Decode.Total.Prefetched)
	for i, run := range got.Runs {
		assert.Equal(t, []int{7, 18, 26}[i%3], run.Decode.Capacity)
		assert.Equal(t, 4, run.Decode.Documents, "of 12")
		assert.Equal(t, []float64{.002, .030}[i/3%2], run.LoadSeconds)
		predicts := run.Decode.Predictor != "" && run.Decode.Predictor != "oracle"
		assert.Equal(t, predicts, run.DecisionSeconds > 0, run.Label)
		assert.Equal(t, predicts, run.Decode.DecisionSeconds > 0, run.Label)
	}
	require.Len(t, got.Advice.Cells, 6)
	assert.Contains(t, got.Advice.Cells[0].Take, "prefetch: transition", "it knows the rule, and reading takes less time than computing")
	assert.Less(t, got.Advice.Cells[0].Milliseconds, got.Advice.Cells[0].Without)
	for _, c := range got.Advice.Cells {
		assert.Contains(t, stdout, c.String()+": "+c.Take)
	}
	assert.Contains(t, stdout, "*")
	for _, name := range []string{"report.html", "offload-saved.svg", "offload-saved.csv"} {
		_, err := os.Stat(filepath.Join(figs, name))
		assert.NoError(t, err)
	}
}

// Where no predictor was trained for what is asked, nothing is run.
func TestNothingPredicted(t *testing.T) {
	o := new(options)
	for _, args := range [][]string{
		{"-simulate", "x", "-compare", "prefetch", "-predictor", "mini", "-distance", "3", "-load", "1ms,2ms", "-compute", "1us", "-resident", "50"},
		{"-in", os.DevNull, "-out", filepath.Join(t.TempDir(), "out"), "-compare", "prefetch", "-predictor", "mini", "-distance", "3", "-slots", "9"},
	} {
		status, _, errs := clitest.Run(t, o.program(), args...)
		assert.Equal(t, cli.Failed, status)
		assert.Contains(t, errs, "no predictor was trained for what -compare and -distance ask")
		o = new(options)
	}
	status, _, errs := clitest.Run(t, o.program(), "-simulate", "x", "-policy", "reuse-prefetch", "-predictor", "gate reuse", "-load", "1ms", "-compute", "1us", "-resident", "50")
	assert.Equal(t, cli.Usage, status)
	assert.Contains(t, errs, "policy reuse-prefetch requires a -predictor")
}
