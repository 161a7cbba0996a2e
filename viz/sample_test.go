package viz

import (
	"flag"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

var gallery = flag.String("gallery", "", "write every sample figure to this folder, to look at")

const sampleProse = `"Landlord," said I, going up to him as cool as Mt. Hecla in a snow-storm, "stop whittling. You and I must understand one another, and that too without delay. I come to your house and want a bed; you tell me you can only give me half a one."
func (r *Reader) Next() (*Document, error) { return nil, io.EOF } // <b>not bold</b> </script><script>alert(1)</script>
Das Gericht entscheidet durch Beschluß. 床前明月光，疑是地上霜。`

// sampleJourney is a document of T tokens with routing that repeats.
func sampleJourney(seed uint64, dataset, id string, tokens, layers, experts, topK int) Journey {
	r := rand.New(rand.NewPCG(seed, 7))
	j := Journey{Dataset: dataset, Document: id, Layers: layers, TopK: topK}
	var words []string
	for _, f := range strings.SplitAfter(sampleProse, " ") {
		for len(f) > 5 && r.IntN(2) == 0 {
			rs := []rune(f)
			if len(rs) < 4 {
				break
			}
			words = append(words, string(rs[:3]))
			f = string(rs[3:])
		}
		words = append(words, f)
	}
	for t := range tokens {
		j.Pieces = append(j.Pieces, words[t%len(words)])
		for l := range layers {
			perm := r.Perm(experts)
			if t > 0 && r.Float64() < 0.3 {
				prev := int(j.Experts[((t-1)*layers+l)*topK])
				for i, e := range perm {
					if e == prev {
						perm[0], perm[i] = perm[i], perm[0]
					}
				}
			}
			rest := 1.0
			for k := range topK {
				w := rest
				if k < topK-1 {
					w = rest * (0.5 + 0.45*r.Float64())
				}
				rest -= w
				j.Experts = append(j.Experts, int32(perm[k]))
				j.Weights = append(j.Weights, float32(w))
			}
		}
	}
	return j
}

func sampleUsage(seed uint64, experts, layers int) HeatMap {
	r := rand.New(rand.NewPCG(seed, 3))
	v := make([]float64, experts*layers)
	for l := range layers {
		sum := 0.0
		for e := range experts {
			x := math.Exp(0.35 * r.NormFloat64())
			v[e*layers+l], sum = x, sum+x
		}
		for e := range experts {
			v[e*layers+l] *= 100 / sum
		}
	}
	return HeatMap{
		Info: Info{Name: fmt.Sprintf("usage-%d", seed), Title: "Expert usage by layer"},
		Data: newGrid(experts, layers, func(e, l int) float64 { return v[e*layers+l] }), RowAxis: "expert", ColumnAxis: "layer", Value: "share of choices", Unit: "%",
		Reference: &Reference{100 / float64(experts), "uniform"},
	}
}

var sampleNames = []string{"fiction", "drama", "speeches", "reference", "math", "code", "reasoning", "technical", "legal-de", "poetry-zh"}

func sampleRecall() Lines {
	f := Lines{
		Info:  Info{Name: "recall", Title: "Recall of the routed experts, by distance", Caption: "Share of the K routed experts among the K predicted, h layers ahead."},
		XAxis: "distance h (layers)", YAxis: "recall@2 (%)", IntegerX: true,
		References: []Reference{{25, "chance"}},
	}
	for i, n := range []string{"frequency", "previous token", "transition", "token id", "gate reuse", "inter-layer", "statistics-aware", "ensemble"} {
		s := Curve{Name: n}
		for h := 1; h <= 4; h++ {
			y := 34 + 6.5*float64(i) - float64(h*i)*0.9
			s.X, s.Y = append(s.X, float64(h)), append(s.Y, y)
			s.Low, s.High = append(s.Low, y-0.8), append(s.High, y+0.9)
		}
		f.Curves = append(f.Curves, s)
	}
	return f
}

func sampleLayers(name, title, y string, base float64) Lines {
	f := Lines{Info: Info{Name: name, Title: title}, XAxis: "layer", YAxis: y, IntegerX: true}
	r := rand.New(rand.NewPCG(5, 5))
	for _, n := range []string{"all data sets"} {
		s := Curve{Name: n}
		for l := range 16 {
			v := base - 0.3*r.Float64()
			s.X, s.Y = append(s.X, float64(l)), append(s.Y, v)
			s.Low, s.High = append(s.Low, v-0.03), append(s.High, v+0.02)
		}
		f.Curves = append(f.Curves, s)
	}
	return f
}

func sampleTraining() Lines {
	f := Lines{Info: Info{Name: "training", Title: "Training of the ensemble"}, XAxis: "step", YAxis: "loss (nats)"}
	for i, n := range []string{"training", "validation"} {
		s := Curve{Name: n}
		for k := range 200 {
			s.X = append(s.X, float64(k*10))
			s.Y = append(s.Y, 1.2+0.1*float64(i)+math.Exp(-float64(k)/30)+0.02*math.Sin(float64(k*(i+3))))
		}
		f.Curves = append(f.Curves, s)
	}
	return f
}

func sampleBars() bars {
	b := bars{Info: Info{Name: "bars", Title: "Hit rate by policy"}, Axis: "hit rate (%)", Categories: []string{"LRU", "LFU", "frequency prior", "predictor: ensemble, h = 2", "oracle"}}
	for i, n := range []string{"mini-mixtral", "DeepSeek-V2-Lite"} {
		g := Curve{Name: n}
		for k := range b.Categories {
			v := 40 + 11*float64(k) - 7*float64(i)
			g.addInterval(0, v, v-2, v+3)
		}
		b.Groups = append(b.Groups, g)
	}
	return b
}

func sampleSankey(stages, experts int) Sankey {
	s := Sankey{Info: Info{Name: fmt.Sprint("sankey-", experts), Title: "First choices from layer to layer"}, Unit: "tokens"}
	r := rand.New(rand.NewPCG(4, 4))
	mass := make([]float64, experts)
	for i := range mass {
		mass[i] = 50 + 100*r.Float64()
	}
	for k := range stages {
		s.Stages = append(s.Stages, fmt.Sprint("layer ", 4+k))
		if k == 0 {
			continue
		}
		v := make([]float64, experts*experts)
		next := make([]float64, experts)
		for i := range experts {
			row, sum := make([]float64, experts), 0.0
			for j := range row {
				row[j] = math.Pow(r.Float64(), 4)
				sum += row[j]
			}
			for j := range row {
				v[i*experts+j] = mass[i] * row[j] / sum
				next[j] += v[i*experts+j]
			}
		}
		s.Flows, mass = append(s.Flows, newGrid(experts, experts, func(i, j int) float64 { return v[i*experts+j] })), next
	}
	return s
}

func sampleTimeline() timeline {
	t := timeline{Info: Info{Name: "timeline", Title: "One token with prefetch, two layers ahead"}, Unit: "ms", Lanes: []string{"compute", "copy", "wait"}}
	now := 0.0
	for l := range 12 {
		t.Events = append(t.Events, event{0, now, now + 0.8, "compute", fmt.Sprint(l)}, event{1, now + 0.2, now + 1.1, "prefetch", fmt.Sprint(l + 2)})
		now += 0.8
		if l%5 == 3 {
			t.Events = append(t.Events, event{1, now + 0.3, now + 1.2, "fetch on demand", fmt.Sprint(l + 1)}, event{2, now, now + 1.2, "stall", ""})
			now += 1.2
		}
	}
	return t
}

func sampleScatter() Lines {
	s := Lines{Info: Info{Name: "cost", Title: "Recall against the time of a decision"}, XAxis: "time of a decision (µs)", YAxis: "recall@2 (%)", LogX: true, Height: 320, named: true}
	for i, n := range []string{"frequency", "previous token", "transition", "token id", "gate reuse", "inter-layer", "statistics-aware", "ensemble"} {
		y := 34 + 6.5*float64(i)
		c := Curve{Name: n}
		if n == "transition" || n == "inter-layer" { // below the frontier
			y -= 8
		} else {
			s.frontier = append(s.frontier, n)
		}
		c.addInterval(math.Pow(2.1, float64(i))*0.06, y, y-1, y+1)
		s.Curves = append(s.Curves, c)
	}
	return s
}

// sampleDrawing is a histogram of gonum/plot.
func sampleDrawing() Drawing {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "router entropy (bits)", "tokens"
	var v plotter.Values
	r := rand.New(rand.NewPCG(6, 6))
	for range 500 {
		v = append(v, 1.6+0.4*r.NormFloat64())
	}
	h, err := plotter.NewHist(v, 20)
	if err != nil {
		panic(err)
	}
	h.FillColor = color.NRGBA{R: 0x4b, G: 0x9f, B: 0xd5, A: 255}
	p.Add(h)
	p.Legend.Add("layer 7", h)
	p.Legend.Top = true
	return Drawing{Info: Info{Name: "drawing", Title: "A histogram of gonum/plot"}, Draw: p.Draw}
}

func sampleFigures() []Figure {
	journey := sampleJourney(1, "fiction", "fiction/00015", 140, 16, 8, 2)
	panels := Panels{Info: Info{Name: "usage-by-dataset", Title: "Expert usage by data set"}, Columns: 4, Shared: true}
	for i, n := range sampleNames {
		h := sampleUsage(uint64(i+10), 8, 16)
		h.Title = n
		panels.Figures = append(panels.Figures, h)
	}
	diff := sampleUsage(4, 8, 16)
	diff.Info = Info{Name: "usage-difference", Title: "Difference of usage: decode against prefill"}
	diff.Diverging, diff.Center, diff.Unit, diff.Value, diff.Reference = true, 0, "points", "difference of share", nil
	for _, row := range diff.Data {
		for j := range row {
			row[j] -= 12.5
		}
	}
	wide := sampleUsage(9, 128, 27)
	wide.Name = "usage-128"
	return []Figure{
		sampleUsage(1, 8, 16), panels, diff, wide, sampleRecall(),
		Panels{Info: Info{Name: "balance", Title: "Balance of the experts by layer"}, Figures: []Figure{
			sampleLayers("entropy", "Entropy of usage", "entropy (bits)", 3), sampleLayers("gini", "Gini coefficient", "Gini (0 even, 1 one expert)", 0.4)}},
		sampleTraining(),
		TokenText{Info: Info{Name: "token-text", Title: "Fiction, document 00015, layer 7: first choice"}, Journey: journey, Layer: 7, Experts: 8},
		sampleBars(), sampleSankey(4, 8), sampleSankey(3, 64), sampleTimeline(), sampleScatter(),
		TokenPaths{Info: Info{Name: "token-paths", Title: "Paths of three tokens through the layers"}, Journey: journey, Experts: 8, Tokens: []int{3, 17, 40}},
		sampleDrawing(), sampleOffload("offload-policies", 1, 30), sampleOffload("offload-extreme", 15, 0.001), sampleStalls(),
	}
}

// sampleOffloadRuns are policies with speeds from slow times 1.7, and longer names in
// an extreme.
func sampleOffloadRuns(fast, slow float64) (runs []OffloadRun) {
	for i, n := range []string{"on demand", "LRU", "decayed LFU", "prefetch: gate reuse", "prefetch: routing transformer, four layers ahead and the next token", "host", "oracle"} {
		c := prefetch.Counts{Requests: 100000, Hits: int64(14000 * i), Late: int64(200 * i), Host: int64(1000 * (i % 2)), Prefetched: int64(900 * i), Used: int64(800 * i)}
		c.Misses = c.Requests - c.Hits - c.Late - c.Host
		r := offloaded(slow*math.Pow(1.7*fast, float64(i)), c)
		for l := range 16 {
			r.Layers = append(r.Layers, prefetch.Counts{StallSeconds: (6 - float64(i)) / slow * (2 + math.Sin(float64(l))) / 1000})
		}
		simulated := *r
		simulated.TokensPerSecond *= .93
		run := OffloadRun{Name: n, Measured: r, Simulated: &simulated}
		if i == 2 {
			run.Simulated = nil
		}
		runs = append(runs, run)
	}
	return runs
}

func sampleOffload(name string, fast, slow float64) Figure {
	s, err := OffloadSection(nil, sampleOffloadRuns(fast, slow))
	if err != nil {
		panic(err)
	}
	p := s.Blocks[0].(Figures).List[0].(Panels)
	p.Name = name
	return p
}

func sampleStalls() Figure {
	s, err := OffloadSection(nil, sampleOffloadRuns(1, 30))
	if err != nil {
		panic(err)
	}
	return s.Blocks[1].(Figures).List[0]
}

func TestGallery(t *testing.T) {
	if *gallery == "" {
		t.Skip("needs -gallery DIR")
	}
	assert.NoError(t, sampleReport().Save(*gallery+"/report.html", ""))
	for _, f := range sampleFigures() {
		_, err := Save(*gallery, f, Style{})
		assert.NoError(t, err)
		for name, s := range map[string]Style{"dark": {Dark: true}, "narrow": {Width: 358}} {
			w, err := os.Create(*gallery + "/" + f.Describe().Name + "." + name + ".png")
			require.NoError(t, err)
			assert.NoError(t, WritePNG(w, f, s))
			w.Close()
		}
	}
}

// sampleReport is a report of the size that the quickstart makes.
func sampleReport() Report {
	j := journeys{Info: Info{Name: "journey", Title: "Token journey", Caption: "A token's colour is its expert at the chosen layer; the path below follows it through all layers."}, Layers: 16, Experts: 8, TopK: 2}
	for i, n := range sampleNames {
		for k := range 10 {
			j.Documents = append(j.Documents, sampleJourney(uint64(100*i+k), n, fmt.Sprintf("%s/%05d", n, k), 256, 16, 8, 2))
		}
	}
	figs := sampleFigures()
	table := Table{Info: Info{Name: "recall-table", Title: "Recall by predictor and distance"}, Columns: []Column{
		{Name: "predictor"}, {Name: "h = 1", Unit: "%", Digits: 1, Best: 1}, {Name: "h = 2", Unit: "%", Digits: 1, Best: 1}, {Name: "parameters"}}}
	for i, c := range sampleRecall().Curves {
		table.Rows = append(table.Rows, []any{c.Name, c.Y[0], c.Y[1], i * 1234})
	}
	formulas := Table{Info: Info{Name: "formulas", Title: "Texts that look like formulas"}, Columns: []Column{{Name: "=a"}, {Name: "b"}},
		Rows: [][]any{{"=1+1", -1}, {"-x", -2.5}, {"@SUM(A1)", 3}, {"plain", 0}}}
	var one []Figure
	for i, f := range figs[1].(Panels).Figures {
		h := f.(HeatMap)
		h.Title = "Expert usage: " + sampleNames[i]
		one = append(one, h)
	}
	return Report{
		Title: "Routing of mini-mixtral",
		Lead:  "Ten domains, 100 documents, every routing decision of 16 layers.",
		Facts: []Fact{{"tokens", "25,600", "100 documents"}, {"data sets", "10", ""}, {"layers", "16", ""}, {"experts", "8", "top-2"},
			{"best recall@2, one layer ahead", "73.1 %", "ensemble [72.3, 74.0]"}, {"mean entropy", "2.93 bits", "of 3"}},
		Sections: []Section{
			{ID: "usage", Title: "Usage", Text: []string{"How often each expert was chosen."}, Blocks: []Block{Figures{List: figs[:2]}, Figures{Label: "Data set", List: one, Options: sampleNames}, Figures{List: []Figure{figs[5]}}}},
			{ID: "tokens", Title: "Tokens", Blocks: []Block{j, Figures{List: []Figure{figs[7], figs[13], figs[14]}}}},
			{ID: "prediction", Title: "Prediction", Blocks: []Block{Figures{List: []Figure{figs[4]}}, table, formulas, Figures{List: figs[6:7]}, Figures{List: figs[8:13]}, Figures{List: figs[15:]}}},
		},
		Source: []Fact{{"program", "expertspec quickstart", ""}, {"checkpoint", "mini-mixtral", "sha256 0a0f…"}},
	}
}
