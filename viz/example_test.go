package viz_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/viz"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

// summary returns the statistics of a document of 4 tokens in a model of 2
// layers, 3 experts and top-1.
func summary() *trace.Summary {
	h := trace.Header{Model: trace.Model{Name: "tiny", Layers: 2, Stacks: []trace.Stack{{Name: "decoder", Layers: 2}}, Experts: 3, TopK: 1}, NoWeights: true}
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
	if err != nil {
		panic(err)
	}
	if err := s.Add(&trace.Document{ID: "1", Tokens: []int32{5, 6, 7, 8}, Experts: []int32{0, 1, 0, 2, 1, 1, 2, 1}}); err != nil {
		panic(err)
	}
	return s.Summary()
}

// The usage of experts in a trace, as a picture and as numbers.
func ExampleSave() {
	report, err := viz.NewReport(viz.Study{Routing: summary()})
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "viz")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	paths, err := viz.Save(dir, report.Figure("usage"), viz.Style{NoTitle: true})
	if err != nil {
		panic(err)
	}
	for _, p := range paths {
		fmt.Println(filepath.Base(p))
	}
	numbers, err := os.ReadFile(paths[2])
	if err != nil {
		panic(err)
	}
	fmt.Println(string(numbers))
	// Output:
	// usage.png
	// usage.svg
	// usage.csv
	// expert,layer,share of choices (%)
	// 0,0,50
	// 0,1,0
	// 1,0,25
	// 1,1,75
	// 2,0,25
	// 2,1,25
}

// A figure that gonum/plot draws, in a report with the trace's own figures.
func ExampleDrawing() {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "router entropy (bits)", "tokens"
	h, err := plotter.NewHist(plotter.Values{0.2, 0.3, 0.9, 1.1, 1.2, 1.3, 1.4, 2.1}, 4)
	if err != nil {
		panic(err)
	}
	p.Add(h)
	mine := viz.Drawing{
		Info: viz.Info{Name: "entropy-histogram", Title: "Entropy of the router", Caption: "All layers."},
		Draw: p.Draw,
		Numbers: viz.Table{
			Columns: []viz.Column{{Name: "entropy", Unit: "bits"}, {Name: "tokens"}},
			Rows:    [][]any{{0.4375, 2}, {0.9125, 2}, {1.3875, 3}, {1.8625, 1}},
		},
	}
	report, err := viz.NewReport(viz.Study{
		Routing: summary(),
		Extra:   []viz.Section{{ID: "mine", Title: "My section", Blocks: []viz.Block{viz.Figures{List: []viz.Figure{mine}}}}},
	})
	if err != nil {
		panic(err)
	}
	var page, picture strings.Builder
	if err := report.WriteHTML(&page); err != nil {
		panic(err)
	}
	if err := viz.WriteSVG(&picture, mine, viz.Style{Dark: true}); err != nil {
		panic(err)
	}
	if err := mine.Table().WriteCSV(os.Stdout); err != nil {
		panic(err)
	}
	fmt.Println(strings.Contains(page.String(), "Entropy of the router"), strings.Contains(picture.String(), "router entropy (bits)"))
	// Output:
	// entropy (bits),tokens
	// 0.4375,2
	// 0.9125,2
	// 1.3875,3
	// 1.8625,1
	// true true
}

// Recall of a predictor with 95 % intervals, for a paper. An SVG can be converted
// to PDF.
func ExampleLines() {
	f := viz.Lines{
		Info:  viz.Info{Name: "recall", Title: "Recall by distance"},
		XAxis: "distance (layers)", YAxis: "recall@2 (%)", IntegerX: true,
		References: []viz.Reference{{Value: 25, Label: "chance"}},
		Curves: []viz.Curve{
			{Name: "transition", X: []float64{1, 2, 4}, Y: []float64{58, 51, 44}, Low: []float64{57, 50, 42}, High: []float64{59, 52, 46}},
			{Name: "frequency", X: []float64{1, 2, 4}, Y: []float64{40, 40, 40}},
		},
	}
	var b strings.Builder
	if err := viz.WriteSVG(&b, f, viz.Style{Width: 500}); err != nil {
		panic(err)
	}
	fmt.Println(strings.Contains(b.String(), `viewBox="0 0 500 `))
	// Output: true
}

// A report of one's own figures: text from data is never part of the page's code.
func ExampleReport_WriteHTML() {
	document := viz.Journey{
		Dataset: "demo", Document: "1", Layers: 1, TopK: 1,
		Pieces: []string{"Hello", " </script>"}, Experts: []int32{1, 0}, Weights: []float32{1, 1},
	}
	r := viz.Report{
		Title: "A tiny model",
		Facts: []viz.Fact{{Label: "tokens", Value: "2"}},
		Sections: []viz.Section{{ID: "tokens", Title: "Tokens", Blocks: []viz.Block{viz.Figures{List: []viz.Figure{
			viz.TokenText{Info: viz.Info{Name: "text", Title: "Layer 0"}, Journey: document, Experts: 2},
			viz.HeatMap{Info: viz.Info{Name: "usage"}, Data: [][]float64{{50}, {50}}, RowAxis: "expert", ColumnAxis: "layer", Value: "share", Unit: "%"},
		}}}}},
	}
	var b strings.Builder
	if err := r.WriteHTML(&b); err != nil {
		panic(err)
	}
	fmt.Println(strings.Contains(b.String(), "</script>\""), strings.Count(b.String(), "</script>"))
	// Output: false 2
}

// The paths of two tokens of a document, and its text at the last layer.
func ExampleTokenPaths() {
	sample := viz.Sampler{
		Model:  trace.Model{Layers: 2, Experts: 3, TopK: 1},
		Pieces: func(tokens []int32) []string { return []string{"The", " cat", " sat"}[:len(tokens)] },
	}
	if err := sample.Add(&trace.Document{ID: "1", Tokens: []int32{5, 6, 7}, Experts: []int32{0, 1, 0, 2, 1, 1}}); err != nil {
		panic(err)
	}
	document := sample.Journeys()[0]
	f := viz.Panels{
		Info: viz.Info{Name: "journey"},
		Figures: []viz.Figure{
			viz.TokenPaths{Info: viz.Info{Title: "Paths"}, Journey: document, Experts: 3, Tokens: []int{1, 2}},
			viz.TokenText{Info: viz.Info{Title: "Layer 1"}, Journey: document, Experts: 3, Layer: 1},
		},
	}
	if err := f.Figures[0].Table().WriteCSV(os.Stdout); err != nil {
		panic(err)
	}
	var b strings.Builder
	if err := viz.WritePNG(&b, f, viz.Style{}); err != nil {
		panic(err)
	}
	fmt.Println(b.Len() > 0)
	// Output:
	// token,text,layer,choice,expert,weight
	// 1," cat",0,0,0,
	// 1," cat",1,0,2,
	// 2," sat",0,0,1,
	// 2," sat",1,0,1,
	// true
}

// The flow of tokens from the experts of one layer to those of the next.
func ExampleSankey() {
	f := viz.Sankey{
		Info:   viz.Info{Name: "flow", Title: "First choices"},
		Stages: []string{"layer 0", "layer 1"},
		Flows:  [][][]float64{{{30, 10}, {0, 20}}},
		Unit:   "tokens",
	}
	if err := viz.WriteSVG(io.Discard, f, viz.Style{}); err != nil {
		panic(err)
	}
	if err := f.Table().WriteCSV(os.Stdout); err != nil {
		panic(err)
	}
	// Output:
	// from,expert,to,to expert,flow (tokens)
	// layer 0,0,layer 1,0,30
	// layer 0,0,layer 1,1,10
	// layer 0,1,layer 1,1,20
}

// A report that compares two traces.
func ExampleCompare() {
	report, err := viz.Compare(viz.Study{Name: "before", Routing: summary()}, viz.Study{Name: "after", Routing: summary()})
	if err != nil {
		panic(err)
	}
	for _, s := range report.Sections {
		fmt.Println(s.ID)
	}
	// Output:
	// comparison
	// usage
	// layers
	// course
}
