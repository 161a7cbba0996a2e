package viz

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"fmt"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

func TestToneContrast(t *testing.T) {
	for _, s := range []Style{{}, {Dark: true}} {
		ground := s.tone("ground").c
		for _, v := range tones {
			want := 3.0
			switch v.name {
			case "ground", "grid", "missing": // not required to understand a figure
				continue
			case "ink", "soft":
				want = 4.5
			}
			assert.GreaterOrEqual(t, contrast(s.tone(v.name).c, ground), want, "dark %v", s.Dark)
		}
		for _, n := range []int{1, 2, 3, 8, 60, 128} {
			for e := range n {
				assert.GreaterOrEqual(t, contrast(s.tone("ink").c, expertGround(e, n, s.Dark)), 4.5, "dark %v", s.Dark)
			}
		}
	}
	// Text in cells.
	for i := range 101 {
		for _, stops := range [][]uint32{viridis, blueOrange} {
			c := ramp(stops, float64(i)/100)
			assert.GreaterOrEqual(t, contrast(textOn(c).c, c), 4.5, "text on %s has a contrast of %.2f", hexString(c), contrast(textOn(c).c, c))
		}
	}
	// Without colour: lightness increases along the map.
	for i := 1; i < len(viridis); i++ {
		assert.Greater(t, luminance(rgb(viridis[i])), luminance(rgb(viridis[i-1])))
	}
}

// TestWCAG compares contrasts with published values.
func TestWCAG(t *testing.T) {
	assert.InDelta(t, 21, contrast(rgb(0), rgb(0xffffff)), 1e-9)
	assert.InDelta(t, 4.54, contrast(rgb(0x767676), rgb(0xffffff)), 0.005) // the lightest grey of level AA
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		got  []tick
		want string
	}{
		{linearTicks(0, 1, 5), "0.0 0.2 0.4 0.6 0.8 1.0"},
		{linearTicks(-3, 12, 4), "0 5 10"},
		{linearTicks(0, 12000, 3), "0 5,000 10,000"},
		{linearTicks(0.9991, 0.9997, 3), "0.9992 0.9994 0.9996"},
		{linearTicks(2, 2, 3), "2"},
		{integerTicks(0, 15, 5), "0 4 8 12"},
		{integerTicks(1, 4, 9), "1 2 3 4"},
		{integerTicks(0, 0, 9), "0"},
		{powerTicks(2, 1, 40), "1 2 4 8 16 32"},
		{powerTicks(10, 0.01, 1), "0.01 0.1 1"},
	} {
		var labels []string
		for _, k := range c.got {
			labels = append(labels, k.label)
		}
		assert.Equal(t, c.want, strings.Join(labels, " "))
	}
}

func checkSVG(t *testing.T, f Figure, s Style) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, WriteSVG(&b, f, s), "%s", f.Describe().Name)
	assert.NotContains(t, b.String(), "NaN", "%s: a coordinate is not a number", f.Describe().Name)
	assert.NotContains(t, b.String(), "Inf", "%s: a coordinate is not a number", f.Describe().Name)
	d := xml.NewDecoder(&b)
	d.Strict = true
	var texts []string
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err, "%s: %v", f.Describe().Name, err)
		if c, ok := tok.(xml.CharData); ok {
			texts = append(texts, strings.TrimSpace(string(c)))
		}
	}
	return strings.Join(texts, "|")
}

func TestFiguresDraw(t *testing.T) {
	for _, f := range sampleFigures() {
		for _, s := range []Style{{}, {Dark: true}, {Width: 358, NoTitle: true}} {
			checkSVG(t, f, s)
		}
		assert.NoError(t, f.Table().check())
		var a, b bytes.Buffer
		require.NoError(t, WriteSVG(&a, f, Style{}))
		require.NoError(t, WriteSVG(&b, f, Style{}))
		assert.Equal(t, b.Bytes(), a.Bytes(), "%s: two pictures of one figure differ", f.Describe().Name)
	}
}

func TestPNGSize(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, WritePNG(&b, sampleUsage(1, 5, 3), Style{Width: 300, Density: 1.5}))
	img, err := png.Decode(&b)
	require.NoError(t, err)
	assert.Equal(t, 450, img.Bounds().Dx())
}

// renamed is a figure with a name.
type renamed struct {
	Figure
	name string
}

func (r renamed) Describe() Info { return Info{Name: r.name, Title: "T"} }

// TestSmallAndLarge draws figures of nothing, of one value and of many.
func TestSmallAndLarge(t *testing.T) {
	one := Journey{Layers: 1, TopK: 1, Pieces: []string{"x"}, Experts: []int32{0}}
	none := Journey{Layers: 1, TopK: 2, Pieces: []string{"x"}, Experts: []int32{0, -1}, Weights: []float32{1, 0}}
	many := sampleJourney(3, "d", "1", 50, 27, 128, 6)
	for i, c := range []struct {
		f    Figure
		text string // in the picture
	}{
		{HeatMap{}, "Nothing to draw"},
		{HeatMap{Data: [][]float64{}, Value: "usage"}, "no usage were given"},
		{HeatMap{Data: [][]float64{{}, {}}}, "Nothing to draw"},
		{HeatMap{Data: [][]float64{{7}}, RowAxis: "expert"}, "expert"},
		{HeatMap{Data: [][]float64{{math.NaN()}}}, "0"},
		{HeatMap{Data: [][]float64{{0}, {0}}}, "0"},
		{HeatMap{Data: [][]float64{{1, 2, 3}, {4, 5, 6}}}, "6"},
		{sampleUsage(2, 128, 1), "uniform"},
		{sampleUsage(2, 1, 128), "uniform"},
		{sampleUsage(2, 128, 128), "uniform"},
		{Lines{}, "Nothing to draw"},
		{Lines{Curves: []Curve{{Name: "a"}, {}}}, "Nothing to draw"},
		{Lines{Curves: []Curve{{Name: "a", X: []float64{3}, Y: []float64{4}}}, IntegerX: true}, "a"},
		{Lines{Curves: []Curve{{Name: "a", X: []float64{1, 2, 3}, Y: []float64{4, math.NaN(), 5}}}}, "a"},
		{Lines{Curves: []Curve{{Name: "b", X: []float64{1, 2}, Y: []float64{2, 5}}}, LogX: true}, "b"},
		{Drawing{}, "no drawing"},
		{Panels{}, "Nothing to draw"},
		{Panels{Figures: []Figure{HeatMap{}, sampleUsage(1, 2, 2)}, Shared: true}, "Nothing to draw"},
		{TokenText{}, "no tokens"},
		{TokenText{Journey: Journey{Layers: 4, TopK: 2}}, "no tokens"},
		{TokenText{Journey: one, Experts: 1}, "x"},
		{TokenText{Journey: none, Experts: 1, Choice: 1}, "x"},
		{TokenText{Journey: many, Experts: 128, Layer: 26, Choice: 5}, "Hecla"},
		{TokenPaths{}, "Nothing to draw"},
		{TokenPaths{Journey: one, Experts: 1, Tokens: []int{0}}, "layer"},
		{TokenPaths{Journey: none, Experts: 1, Tokens: []int{0}}, "layer"},
		{TokenPaths{Journey: many, Experts: 128, Tokens: []int{0, 1, 49}}, "layer"},
	} {
		f := renamed{c.f, fmt.Sprintf("figure-%d", i)}
		for _, s := range []Style{{}, {Width: 240}} {
			assert.Contains(t, strings.Join(strings.FieldsFunc(checkSVG(t, f, s), func(r rune) bool { return r == '|' || r == ' ' }), " "), c.text)
		}
		assert.NoError(t, WritePNG(io.Discard, f, Style{Density: 0.5}))
	}
}

func TestRefused(t *testing.T) {
	ok := Info{Name: "a"}
	j := Journey{Layers: 2, TopK: 1, Pieces: []string{"x"}, Experts: []int32{0, 5}}
	for _, c := range []struct {
		f    Figure
		s    Style
		want string
	}{
		{HeatMap{Info: Info{Name: "A b"}}, Style{}, `"A b"`},
		{HeatMap{Info: Info{Name: "../x"}}, Style{}, "name"},
		{HeatMap{Info: ok}, Style{Width: 5}, "width"},
		{HeatMap{Info: ok}, Style{Density: math.NaN()}, "density"},
		{HeatMap{Info: ok, Data: [][]float64{{1, 2}, {3}}}, Style{}, "row 1 has 1 values"},
		{HeatMap{Info: ok, Data: [][]float64{{math.Inf(1)}}}, Style{}, "+Inf"},
		{HeatMap{Info: ok, Data: [][]float64{{1}}, Rows: []string{"a", "b"}}, Style{}, "2 row"},
		{HeatMap{Info: ok, Data: make([][]float64, 5000)}, Style{}, "4096"},
		{Lines{Info: ok, Curves: []Curve{{Name: "c", X: []float64{1}}}}, Style{}, `curve "c"`},
		{Lines{Info: ok, Curves: []Curve{{Name: "c", X: []float64{1}, Y: []float64{1}, Low: []float64{}}}}, Style{}, "0 low"},
		{Lines{Info: ok, Curves: []Curve{{Name: "c", X: []float64{0}, Y: []float64{1}}}, LogX: true}, Style{}, "logarithmic"},
		{Lines{Info: ok, Curves: []Curve{{Name: "c", X: []float64{1}, Y: []float64{math.Inf(-1)}}}}, Style{}, "-Inf"},
		{Lines{Info: ok, Height: -1}, Style{}, "height"},
		{Drawing{Info: ok, Height: math.NaN()}, Style{}, "height"},
		{Drawing{Info: ok, Numbers: Table{Rows: [][]any{{1}}}}, Style{}, "1 values for 0 columns"},
		{Sankey{Info: ok, Stages: []string{"a"}, Flows: [][][]float64{{{1}}}}, Style{}, "1 stages"},
		{Sankey{Info: ok, Stages: []string{"a", "b"}, Flows: [][][]float64{{{-1}}}}, Style{}, "negative"},
		{Sankey{Info: ok, Stages: []string{"a", "b", "c"}, Flows: [][][]float64{{{1, 2}}, {{1}}}}, Style{}, "2 experts enter b and 1 leave it"},
		{TokenText{Info: ok, Journey: j, Layer: 2}, Style{}, "layer 2"},
		{TokenText{Info: ok, Journey: j, To: 9}, Style{}, "0..9 of 1"},
		{TokenPaths{Info: ok, Journey: j, Tokens: []int{1}}, Style{}, "token 1 of 1"},
		{TokenPaths{Info: ok, Journey: j, Tokens: []int{0}, Experts: 3}, Style{}, "expert 5 of 3"},
		{TokenPaths{Info: ok, Journey: j, Tokens: make([]int, 9)}, Style{}, "at most 8"},
	} {
		err := WriteSVG(io.Discard, c.f, c.s)
		assert.ErrorContains(t, err, c.want)
	}
	_, err := journeyOf(&trace.Document{ID: "d", Experts: make([]int32, 7)}, trace.Model{Layers: 3, TopK: 2}, nil)
	assert.Error(t, err, "7 experts for 3 layers of top-2")
}

// TestTableCSV reads the numbers back with encoding/csv.
func TestTableCSV(t *testing.T) {
	tab := Table{Columns: []Column{{Name: "a"}, {Name: "b", Unit: "%"}}, Rows: [][]any{{"x,\"y\"\n", 0.1}, {"z", math.NaN()}, {"w", 3}}}
	var b bytes.Buffer
	require.NoError(t, tab.WriteCSV(&b))
	got, err := csv.NewReader(&b).ReadAll()
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprint([][]string{{"a", "b (%)"}, {"x,\"y\"\n", "0.1"}, {"z", ""}, {"w", "3"}}), fmt.Sprint(got))
	assert.Error(t, (Table{Columns: tab.Columns, Rows: [][]any{{"x"}}}).WriteCSV(io.Discard), "a short row")
}

// TestCSVFormulas checks that no text of a data set is a formula in a spreadsheet,
// in any file that Save writes, and that numbers stay numbers.
func TestCSVFormulas(t *testing.T) {
	j := Journey{Dataset: "=d", Document: "@x", Layers: 1, TopK: 1, Experts: []int32{0, 0, 0, 0, 0, 0, 0, 0}, Weights: []float32{-0.5, 1, 1, 1, 1, 1, 1, 1},
		Pieces: []string{"=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1", " =1"}}
	dir := t.TempDir()
	for _, f := range []Figure{
		TokenText{Info: Info{Name: "text"}, Journey: j, Experts: 1},
		TokenPaths{Info: Info{Name: "paths"}, Journey: j, Experts: 1, Tokens: []int{0, 1, 2, 3}},
		HeatMap{Info: Info{Name: "heat"}, Data: [][]float64{{-2.5}}, Rows: []string{"-row"}, Columns: []string{"@column"}, RowAxis: "=axis", Value: "+value"},
		Lines{Info: Info{Name: "lines"}, Curves: []Curve{{Name: "=cmd|' /C calc'!A0", X: []float64{-1}, Y: []float64{-1e-9}}}},
		bars{Info: Info{Name: "bars"}, Categories: []string{"=a", "-b"}, Groups: []Curve{{Name: "+g", Y: []float64{-1, math.NaN()}}}},
		Panels{Info: Info{Name: "panels"}, Figures: []Figure{HeatMap{Info: Info{Name: "panel", Title: "=title"}, Data: [][]float64{{1}}}}},
		Drawing{Info: Info{Name: "drawing"}, Numbers: Table{Columns: []Column{{Name: "=head", Unit: "%"}}, Rows: [][]any{{-3}, {"=cell"}}}},
	} {
		paths, err := Save(dir, f, Style{})
		require.NoError(t, err)
		require.Len(t, paths, 3)
		raw, err := os.ReadFile(paths[2])
		require.NoError(t, err)
		rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
		require.NoError(t, err)
		for _, row := range rows {
			for _, cell := range row {
				if _, err := strconv.ParseFloat(cell, 64); err != nil {
					assert.NotRegexp(t, `^[=+\-@\t\r\n＝＋－＠]`, cell, f.Describe().Name)
				}
			}
		}
	}
	for in, want := range map[string]string{
		"=1": "'=1", "+1": "'+1", "-1": "'-1", "@a": "'@a", "\ta": "'\ta", "\ra": "'\ra", "\na": "'\na", "＝1": "'＝1",
		"": "", "a=1": "a=1", " =1": " =1", "'=1": "'=1", "–": "–", "\xff": "\xff",
	} {
		assert.Equal(t, want, csvText(in))
	}
	var b bytes.Buffer
	require.NoError(t, Table{Columns: []Column{{Name: "a"}, {Name: "b"}}, Rows: [][]any{{-3, -2.5}}}.WriteCSV(&b))
	assert.Equal(t, "a,b\n-3,-2.5\n", b.String())
}

// TestDrawing checks that a drawing of gonum/plot stays inside its figure and
// takes the colours of the theme.
func TestDrawing(t *testing.T) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = "<title> & more", "x"
	line, err := plotter.NewLine(plotter.XYs{{X: 1, Y: 2}, {X: 2, Y: 5}})
	require.NoError(t, err)
	line.Color = color.NRGBA{R: 255, A: 128}
	p.Add(line)
	d := Drawing{Info: Info{Name: "mine", Title: "Mine"}, Draw: p.Draw, Height: 200}
	for _, s := range []Style{{}, {Dark: true}} {
		text := checkSVG(t, d, s)
		assert.Contains(t, text, "<title> & more")
		var b bytes.Buffer
		require.NoError(t, WriteSVG(&b, d, s))
		assert.Contains(t, b.String(), `stroke="`+s.tone("ink").hex()+`"`)
		assert.Contains(t, b.String(), `stroke="#f00" stroke-opacity="0.5"`)
		assert.Contains(t, b.String(), `font-family="Liberation Serif`)
	}
	r := Report{Sections: []Section{{ID: "s", Blocks: []Block{Figures{List: []Figure{d}}}}}}
	var b bytes.Buffer
	require.NoError(t, r.WriteHTML(&b))
	assert.Contains(t, b.String(), `fill="var(--ground)"`)
	paths, err := Save(t.TempDir(), d, Style{})
	require.NoError(t, err)
	assert.Len(t, paths, 2, "PNG and SVG: there are no numbers")
}

// TestTextInside checks that all text of a picture is inside it at every width.
func TestTextInside(t *testing.T) {
	edge := sampleUsage(2, 128, 2) // "even" falls next to 0
	edge.Range, edge.Reference, edge.Name = [2]float64{0, 100}, &Reference{0.8, "even: 0.781"}, "edge"
	for _, f := range append(sampleFigures(), edge) {
		for _, width := range []float64{240, 358, 760} {
			s := Style{Width: width}.filled()
			h := pageHeight(f, s)
			c := &boundsCanvas{svgCanvas: *newSVG(h, false), t: t, name: f.Describe().Name, width: width}
			p := &pen{c: c, style: s, width: width, height: h}
			drawPage(p, f)
		}
	}
}

// boundsCanvas checks that horizontal text is inside the picture.
type boundsCanvas struct {
	svgCanvas
	t     *testing.T
	name  string
	width float64
}

func (c *boundsCanvas) FillString(f font.Face, p vg.Point, s string) {
	x, y := c.at(p)
	if m := c.top().m; math.Abs(m[1]) < 1e-9 && (x < -0.5 || x+f.Width(s).Points() > c.width+0.5 || y-f.Font.Size.Points()*0.7 < -0.5 || y > c.svgCanvas.height+0.5) {
		assert.Fail(c.t, "text outside", "%s, %g wide: %q is at %.1f..%.1f, %.1f", c.name, c.width, s, x, x+f.Width(s).Points(), y)
	}
}

// Predictors below the frontier of recall against time are named as such.
func TestRecallAgainstTime(t *testing.T) {
	h := speculate.Horizon{Layers: 1}
	r := &speculate.Results{Shape: speculate.Shape{Layers: 3, Experts: 8, TopK: 2}, Horizons: []speculate.Horizon{h}, Costs: map[string]speculate.Cost{}}
	for i, p := range []string{"quick", "below", "good", "unknown"} {
		r.Predictors = append(r.Predictors, p)
		r.Costs[p] = speculate.Cost{Microseconds: []float64{1, 20, 8, 0}[i]}
		r.Rows = append(r.Rows, speculate.Row{Predictor: p, Horizon: h, By: "all", RecallK: []float64{.3, .7, .9, .95}[i]})
	}
	f := recallAgainstTime(r, h)
	assert.Contains(t, f.Caption, "Below it, and grey: below.")
	table := f.Table()
	assert.Equal(t, "frontier", table.Columns[5].Name)
	for i, want := range []string{"yes", "no", "yes"} {
		assert.Equal(t, want, table.Rows[i][5], table.Rows[i])
	}
	var svg bytes.Buffer
	require.NoError(t, WriteSVG(&svg, f, Style{}))
	r.Costs["good"] = speculate.Cost{}
	r.Costs["below"] = speculate.Cost{Microseconds: .5}
	assert.Equal(t, []string{"below"}, recallAgainstTime(r, h).frontier)
}
