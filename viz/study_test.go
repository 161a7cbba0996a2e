package viz

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// planted is a trace of 5 layers, 7 experts, top-3, in two data sets: the first
// choice of token t at layer l of document i is (t/2 + l + i%2) mod 7, and the
// others follow it in number. The routing weights are .5, .3 and .2.
func planted(docs, tokens int) (trace.Header, []*trace.Document) {
	const layers, experts = 5, 7
	r := tracetest.Router{Header: trace.Header{
		Model:  trace.Model{Name: "planted", Layers: layers, Experts: experts, TopK: 3, Vocabulary: 97},
		Source: trace.Source{Program: "test", Seed: 11},
	}}
	var out []*trace.Document
	for i := range docs {
		r.Rule = func(s *tracetest.Step) {
			for k, w := range []float64{0.5, 0.3, 0.2} {
				e := (s.Position/2 + s.Layer + i%2 + k) % experts
				s.Experts = append(s.Experts, int32(e))
				s.Logits[e] = float32(math.Log(w))
			}
		}
		ids := make([]int32, tokens)
		for p := range ids {
			ids[p] = int32((p*i + p) % 97)
		}
		out = append(out, r.Document([]string{"odd </script>", "even"}[i%2], fmt.Sprint("doc ", i), ids))
	}
	return r.Header, out
}

func statistics(t *testing.T, h trace.Header, docs []*trace.Document) *trace.Summary {
	t.Helper()
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
	require.NoError(t, err)
	for _, d := range docs {
		require.NoError(t, s.Add(d))
	}
	return s.Summary()
}

func evaluate(t *testing.T, h trace.Header, docs []*trace.Document) *speculate.Results {
	t.Helper()
	ps, err := speculate.Baselines(speculate.ShapeOf(h.Model), nil)
	require.NoError(t, err)
	hs := append(speculate.LayersAhead(1, 2), speculate.Horizon{KnownID: true})
	require.NoError(t, speculate.Fit(context.Background(), speculate.Slice(h, docs[:len(docs)/2]), hs, ps...))
	r, err := speculate.Evaluate(context.Background(), speculate.Slice(h, docs[len(docs)/2:]), speculate.EvaluateOptions{Horizons: hs, Resamples: 50, Seed: 1}, ps...)
	require.NoError(t, err)
	r.Costs = map[string]speculate.Cost{"frequency": {Parameters: 35, Microseconds: 0.1}}
	return r
}

func TestUsageMap(t *testing.T) {
	h, docs := planted(4, 31)
	r := statistics(t, h, docs)
	// Counted from the documents.
	count := [7][5]int{}
	for _, d := range docs {
		for p := range 31 {
			for l := range 5 {
				for k := range 3 {
					count[d.Experts[(p*5+l)*3+k]][l]++
				}
			}
		}
	}
	m := usageMap(r.Model, &r.Overall, "usage", "")
	rows, cols := dims(m.Data)
	require.Equal(t, 7, rows)
	require.Equal(t, 5, cols)
	for e := range 7 {
		for l := range 5 {
			got, want := m.Data[e][l], 100*float64(count[e][l])/float64(4*31*3)
			assert.InDelta(t, want, got, 1e-9, "expert %d, layer %d", e, l)
		}
	}
	assert.Equal(t, 100.0/7, m.Reference.Value)
}

func TestTransitions(t *testing.T) {
	h, docs := planted(2, 60)
	r := statistics(t, h, docs)
	maps := transitionMaps(r)
	require.Equal(t, []string{"0 to 1", "1 to 2", "2 to 3", "3 to 4"}, maps.Options)
	require.Len(t, maps.List, 4)
	for _, f := range maps.List { // expert e is always followed by e+1
		for i := range 7 {
			for j := range 7 {
				want := 0.0
				if j == (i+1)%7 {
					want = 100
				}
				assert.Equal(t, want, f.(HeatMap).Data[i][j], "%s", f.Describe().Name)
			}
		}
	}
	s := flows(r).List[0].(Sankey)
	require.Len(t, s.Stages, 4)
	require.Len(t, s.Flows, 3)
	sum := 0.0
	for i := range 7 {
		for j := range 7 {
			sum += s.Flows[2][i][j]
		}
	}
	assert.Equal(t, float64(120), sum)
	assert.InDelta(t, math.Log2(7), information(r).Curves[0].Y[0], 0.01)
	m := coactivationMaps(r).List[2].(HeatMap).Data
	assert.True(t, math.IsNaN(m[3][3]), "an expert with itself: %g", m[3][3])
	assert.Zero(t, m[0][3])
	assert.GreaterOrEqual(t, m[2][3], float64(20))
	assert.Equal(t, m[3][2], m[2][3])
}

func TestRepeats(t *testing.T) {
	r := &trace.Summary{Model: trace.Model{Layers: 32, Experts: 8, TopK: 2}}
	for l := range 32 {
		r.Overall.Layers = append(r.Overall.Layers, trace.LayerSummary{Layer: l, RepeatedFirst: 0.2, RandomRepeatedFirst: 0.125, RandomRepeatedAny: 0.464})
	}
	first := repeats(r).Figures[0].(Lines)
	require.Len(t, first.Curves, 4)
	require.Equal(t, 12.5, first.References[0].Value)
	for i, want := range []string{"Mixtral 8x7B, ArXiv [0 15 31] [14 27.9 22.7]", "Mixtral 8x7B, Github [0 15 31] [14.9 28.1 19.7]", "Mixtral 8x7B, Wikipedia [0 15 31] [14.4 23.6 25.3]"} {
		c := first.Curves[i+1]
		assert.Equal(t, want, fmt.Sprint(c.Name, " ", c.X, " ", c.Y))
	}
	r.Model.Experts = 64
	assert.Equal(t, 1, len(repeats(r).Figures[0].(Lines).Curves))
}

func TestPrediction(t *testing.T) {
	h, docs := planted(8, 40)
	r := evaluate(t, h, docs)
	f := recallByDistance(r)
	for _, c := range f.Curves {
		for i, x := range c.X {
			want, ok := r.Recall(c.Name, speculate.Horizon{Layers: int(x)})
			require.True(t, ok, "%s at %g", c.Name, x)
			assert.InDelta(t, 100*want, c.Y[i], 1e-9, "%s at %g", c.Name, x)
		}
	}
	assert.Equal(t, 300.0/7, f.References[0].Value)
	assert.Equal(t, []float64{2, 3, 4}, recallByLayer(r, speculate.Horizon{Layers: 2}).Curves[0].X)
	sec := prediction(r)
	for _, b := range sec.Blocks {
		table, ok := b.(Table)
		if !ok {
			continue
		}
		assert.NoError(t, table.check())
		for _, row := range table.Rows {
			assert.NotEqualValues(t, "oracle", row[0])
		}
	}
}

func TestAboveChance(t *testing.T) {
	r := &speculate.Results{Shape: speculate.Shape{Layers: 3, Experts: 8, TopK: 2}, Predictors: []string{"p"},
		Rows: []speculate.Row{{Predictor: "p", Horizon: speculate.Horizon{Layers: 1}, By: "all", RecallK: 0.625}}}
	above := func(r *speculate.Results, predictor string) float64 {
		return aboveChance(r, recallAhead(r, predictor).RecallK)
	}
	assert.Equal(t, 0.5, above(r, "p")) // (.625 - .25) / .75
	assert.True(t, math.IsNaN(above(nil, "p")), "without results")
	assert.True(t, math.IsNaN(above(r, "q")), "an unknown predictor")
}

func TestNewReport(t *testing.T) {
	h, docs := planted(12, 40)
	stats, results := statistics(t, h, docs), evaluate(t, h, docs)
	sample := Sampler{Model: h.Model, DocumentsPerDataset: 3, MaxTokens: 17}
	for _, d := range docs {
		require.NoError(t, sample.Add(d))
	}
	assert.Equal(t, 6, len(sample.Journeys()))
	assert.Equal(t, 17, len(sample.Journeys()[5].Pieces))
	half := statistics(t, h, docs[:6])
	study := Study{Routing: stats, Results: results, Journeys: sample.Journeys(), Cache: sampleCache(0.25, 0.6, 3.1),
		Training: []Figure{Lines{Info: Info{Name: "loss", Title: "Loss"}, Curves: []Curve{{Name: "a", X: []float64{1, 2}, Y: []float64{3, 2}}}}}}
	other := Study{Name: "half </script>", Routing: half, Results: results, Cache: sampleCache(0.26, 0.5, 4)}
	var a, b bytes.Buffer
	for _, w := range []io.Writer{&a, &b} {
		r, err := Compare(study, other)
		require.NoError(t, err)
		require.NoError(t, r.WriteHTML(w))
		assert.NotNil(t, r.Figure("usage"))
		assert.Nil(t, r.Figure("no-such-figure"))
		cost := r.Figure("comparison-prefetch").Table()
		assert.Equal(t, []any{"Hit rate", "LRU, 25 % resident", "planted", 60.0}, cost.Rows[0][:4])
	}
	assert.Equal(t, b.Bytes(), a.Bytes())
	for _, want := range []string{"planted against half", "480", "12 documents, 2 data sets", "Recall by distance", "Cost of prefetch", "half &lt;/script&gt;"} {
		assert.Contains(t, a.String(), want)
	}
	assert.Equal(t, 2, strings.Count(a.String(), "</script>"))
}

// sampleCache is a study of one simulation.
func sampleCache(resident, hitRate, copied float64) *CacheStudy {
	return &CacheStudy{Labels: []string{"LRU"}, Costs: []*prefetch.Result{{Resident: resident, HitRate: hitRate, TransfersPerToken: copied}}}
}

func TestCompareRefuses(t *testing.T) {
	h, docs := planted(2, 9)
	r := statistics(t, h, docs)
	_, err := Compare(Study{Name: "a", Routing: r}, Study{Name: "b"})
	assert.Error(t, err, "a study without statistics")
	_, err = Compare(Study{Name: "a", Routing: r}, Study{Name: "a", Routing: r})
	assert.Error(t, err, "two studies of one name")
	_, err = NewReport(Study{})
	assert.Error(t, err, "a report without statistics")
}

// TestReportOfSmallModels compares models of one layer, one expert, one token, and
// of 128 experts and 40 layers.
func TestReportOfSmallModels(t *testing.T) {
	for _, c := range []struct{ layers, experts, topK, tokens int }{{1, 1, 1, 1}, {1, 8, 2, 1}, {2, 1, 1, 3}, {3, 128, 6, 40}, {40, 4, 4, 2}} {
		h := trace.Header{Model: trace.Model{Layers: c.layers, Experts: c.experts, TopK: c.topK}}
		router := tracetest.Router{Header: h, Rule: tracetest.Choose(func(s *tracetest.Step) (experts []int32) {
			for k := range c.topK {
				experts = append(experts, int32((s.Position+s.Layer+k)%c.experts))
			}
			return experts
		})}
		d := router.Document("", "x", make([]int32, c.tokens))
		r := statistics(t, h, []*trace.Document{d})
		j, err := journeyOf(d, h.Model, nil)
		require.NoError(t, err)
		rep, err := Compare(Study{Name: "a", Routing: r, Journeys: []Journey{j}}, Study{Name: "b", Routing: r})
		require.NoError(t, err)
		var b bytes.Buffer
		assert.NoError(t, rep.WriteHTML(&b), "%+v", c)
		page := strings.Replace(b.String(), strings.TrimSpace(reportJS), "", 1)
		assert.Less(t, strings.Index(page, "NaN"), 0, "%+v", c)
	}
	// No documents.
	h := trace.Header{Model: trace.Model{Layers: 2, Experts: 3, TopK: 1}}
	rep, err := NewReport(Study{Routing: statistics(t, h, nil)})
	require.NoError(t, err)
	assert.NoError(t, rep.WriteHTML(io.Discard))
}

func TestSome(t *testing.T) {
	for _, c := range []struct {
		n, limit int
		want     string
	}{{0, 3, "[]"}, {1, 3, "[0]"}, {3, 3, "[0 1 2]"}, {16, 3, "[0 8 15]"}, {32, 3, "[0 16 31]"}, {9, 1, "[0]"}, {5, 0, "[]"}, {27, 4, "[0 9 17 26]"}} {
		assert.Equal(t, c.want, fmt.Sprint(some(c.n, c.limit)))
	}
}

func BenchmarkReport(b *testing.B) {
	r := sampleReport()
	for b.Loop() {
		require.NoError(b, r.WriteHTML(io.Discard))
	}
}

func BenchmarkPNG(b *testing.B) {
	f := sampleUsage(1, 8, 16)
	for b.Loop() {
		require.NoError(b, WritePNG(io.Discard, f, Style{}))
	}
}

var update = flag.Bool("update", false, "rewrite testdata/study.txt")

// TestGoldenData compares the numbers behind every figure and table of a report
// on a planted trace with testdata/study.txt.
func TestGoldenData(t *testing.T) {
	h, docs := planted(8, 40)
	stats, results := statistics(t, h, docs), evaluate(t, h, docs)
	r, err := Compare(Study{Name: "whole", Routing: stats, Results: results}, Study{Name: "half", Routing: statistics(t, h, docs[:3]), Results: results})
	require.NoError(t, err)
	var got bytes.Buffer
	for _, s := range r.Sections {
		for _, b := range s.Blocks {
			var tables []Table
			switch b := b.(type) {
			case Table:
				tables = append(tables, b)
			case Figures:
				for _, f := range b.List {
					tables = append(tables, f.Table())
				}
			}
			for _, x := range tables {
				fmt.Fprintf(&got, "== %s: %s\n", x.Name, x.Title)
				for _, row := range x.Rows { // to six digits: the same on every machine
					for j, v := range row {
						if f, ok := v.(float64); ok {
							row[j], _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 6, 64), 64)
						}
					}
				}
				if len(x.Rows) > 12 {
					x.Rows = x.Rows[:12]
				}
				require.NoError(t, x.WriteCSV(&got))
			}
		}
	}
	const file = "testdata/study.txt"
	if *update {
		require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	a, b := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(a), len(b)) {
		require.Less(t, i, len(a), "%s:%d: the numbers have changed (to accept them, run with -update):\n%q", file, i+1, a[min(i, len(a)-1)])
		require.Less(t, i, len(b), "%s:%d: the numbers have changed (to accept them, run with -update):\n%q", file, i+1, a[min(i, len(a)-1)])
		require.Equal(t, b[i], a[i], "%s:%d: the numbers have changed (to accept them, run with -update):\n%q", file, i+1, a[min(i, len(a)-1)])
	}
}

// TestLargeReport checks the size of reports of many data sets and of a large model.
func TestLargeReport(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 1, Experts: 2, TopK: 1}}
	var docs []*trace.Document
	for i := range 5000 {
		docs = append(docs, &trace.Document{Dataset: fmt.Sprint("set ", i), ID: "x", Tokens: []int32{1}, Experts: []int32{int32(i % 2)}, Weights: []float32{1}})
	}
	large := trace.Header{Model: trace.Model{Layers: 128, Experts: 1024, TopK: 2}}
	d := &trace.Document{ID: "x", Tokens: []int32{1, 2, 3}}
	for i := range 3 * 128 * 2 {
		d.Experts, d.Weights = append(d.Experts, int32(i*37%1024)), append(d.Weights, 0.5)
	}
	for name, r := range map[string]*trace.Summary{"5,000 data sets": statistics(t, h, docs), "128 layers, 1,024 experts": statistics(t, large, []*trace.Document{d})} {
		rep, err := Compare(Study{Name: "a", Routing: r}, Study{Name: "b", Routing: r})
		require.NoError(t, err)
		var b bytes.Buffer
		assert.NoError(t, rep.WriteHTML(&b), "%s", name)
		assert.LessOrEqual(t, b.Len(), 20_000_000, "%s: a report of %d bytes", name, b.Len())
		t.Logf("%s: %d bytes", name, b.Len())
	}
}

func TestCalibration(t *testing.T) {
	var c Calibration
	h := speculate.Horizon{Layers: 2}
	for i := range 100 { // confidence .9 comes true 80 times of 100, .3 never
		a := &speculate.Answer{Predictor: "p", Horizon: h, Predicted: []int32{4, 1, 0}, Confidence: []float32{0.9, 0.3, 0.1}, Actual: []int32{2, 4, -1}}
		if i%5 == 0 {
			a.Actual = []int32{2, 3, -1}
		}
		require.NoError(t, c.Observe(a))
	}
	f := c.figure(h)
	require.Len(t, f.Curves, 1)
	require.Equal(t, "p", f.Curves[0].Name)
	s := f.Curves[0]
	assert.Equal(t, "[0.300 0.900] [0.000 0.800]", fmt.Sprintf("%.3f %.3f", s.X, s.Y))
	assert.Empty(t, c.figure(speculate.Horizon{Layers: 1}).Curves)
}
