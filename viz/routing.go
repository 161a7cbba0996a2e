package viz

import (
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace"
)

// UsageMap maps the share of each expert among the choices of each layer, in
// percent: [E,L].
func UsageMap(g *trace.GroupSummary, name, title string) HeatMap {
	h := HeatMap{
		Info:    Info{Name: name, Title: title, Caption: "Share of each expert among all choices of a layer; every column adds up to 100 %."},
		RowAxis: "expert", ColumnAxis: "layer", Value: "share of choices", Unit: "%",
	}
	if len(g.Layers) == 0 || len(g.Layers[0].Share) == 0 {
		return h
	}
	d := Dense{R: len(g.Layers[0].Share), C: len(g.Layers)}
	for e := range d.R {
		for _, l := range g.Layers {
			d.Values = append(d.Values, 100*l.Share[e])
		}
	}
	even := 100 / float64(d.R)
	h.Data, h.Reference = d, &Reference{even, "even: " + short(even, 3)}
	return h
}

// UsagePanels sets the usage maps of all data sets side by side.
func UsagePanels(r *trace.Summary) Panels {
	p := Panels{
		Info:    Info{Name: "usage-by-dataset", Title: "Expert usage by data set", Caption: "All in one range of colours."},
		Columns: 4, Shared: true,
	}
	for i := range r.Datasets {
		g := &r.Datasets[i]
		p.Figures = append(p.Figures, UsageMap(g, "usage", datasetName(g.Dataset)))
	}
	return p
}

func datasetName(s string) string { return orElse(s, "(unnamed)") }

// byLayer is a curve of one value a layer; NaN leaves a layer out.
func byLayer(name string, layers []trace.LayerSummary, value func(*trace.LayerSummary) float64) Curve {
	var s Series
	for i := range layers {
		s.X, s.Y = append(s.X, float64(layers[i].Layer)), append(s.Y, value(&layers[i]))
	}
	return Curve{name, s}
}

// Balance draws by layer how evenly the experts are used: entropy, Gini
// coefficient, coefficient of variation and the number of experts in use.
func Balance(r *trace.Summary) Panels {
	e := r.Model.Experts
	layers := r.Overall.Layers
	line := func(title, axis string, refs []Reference, all, first func(*trace.LayerSummary) float64) Lines {
		return Lines{
			Info: Info{Name: "panel", Title: title}, XAxis: "layer", YAxis: axis, IntegerX: true, References: refs, Height: 240,
			Curves: []Curve{byLayer("all choices", layers, all), byLayer("first choice", layers, first)},
		}
	}
	active := line("Active experts", "experts in use", []Reference{{float64(e), "all E"}},
		func(l *trace.LayerSummary) float64 { return float64(l.Usage.Active) }, func(l *trace.LayerSummary) float64 { return float64(l.FirstUsage.Active) })
	active.YRange = [2]float64{0, float64(max(e, 1))}
	return Panels{
		Info: Info{Name: "balance", Title: "Balance of the experts by layer",
			Caption: "Entropy of the usage, at most log2 E bits; Gini coefficient and coefficient of variation, 0 where all experts are used alike; experts chosen at least once."},
		Figures: []Figure{
			line("Entropy", "entropy (bits)", []Reference{{math.Log2(float64(max(e, 1))), "even, log2 E"}},
				func(l *trace.LayerSummary) float64 { return l.Usage.Entropy }, func(l *trace.LayerSummary) float64 { return l.FirstUsage.Entropy }),
			line("Gini coefficient", "Gini coefficient", []Reference{{0, "even"}},
				func(l *trace.LayerSummary) float64 { return l.Usage.Gini }, func(l *trace.LayerSummary) float64 { return l.FirstUsage.Gini }),
			line("Coefficient of variation", "coefficient of variation", []Reference{{0, "even"}},
				func(l *trace.LayerSummary) float64 { return l.Usage.CV }, func(l *trace.LayerSummary) float64 { return l.FirstUsage.CV }),
			active,
		},
	}
}

// EntropyMap maps the normalised entropy of the usage by data set and layer.
func EntropyMap(r *trace.Summary) HeatMap {
	h := HeatMap{
		Info: Info{Name: "entropy-by-dataset", Title: "Evenness of use by data set",
			Caption: "Entropy of the usage as a share of its maximum, log2 E: 100 % where all experts are used alike. Short data sets are a little too low."},
		RowAxis: "data set", ColumnAxis: "layer", Value: "entropy, of its maximum", Unit: "%",
	}
	if len(r.Datasets) == 0 {
		return h
	}
	d := Dense{R: len(r.Datasets), C: len(r.Overall.Layers)}
	for _, g := range r.Datasets {
		h.Rows = append(h.Rows, datasetName(g.Dataset))
		for _, l := range g.Layers {
			d.Values = append(d.Values, 100*l.Usage.Normalized)
		}
	}
	h.Data = d
	return h
}

// mixtralRepeats are the first choices repeated at layers 0, 15 and 31 of
// Mixtral 8x7B, in percent: Table 5 of arXiv 2401.04088.
var mixtralRepeats = []struct {
	name   string
	values [3]float64
}{
	{"Mixtral 8x7B, ArXiv", [3]float64{14.0, 27.9, 22.7}},
	{"Mixtral 8x7B, Github", [3]float64{14.9, 28.1, 19.7}},
	{"Mixtral 8x7B, Wikipedia", [3]float64{14.4, 23.6, 25.3}},
}

// Repeats draws by layer how often a token goes to the expert of the token
// before it. Models of 8 experts stand beside Mixtral 8x7B (Table 5 of arXiv
// 2401.04088), whose layers 0, 15 and 31 are put at the same share of the depth.
func Repeats(r *trace.Summary) Figure {
	layers := r.Overall.Layers
	p := Panels{
		Info: Info{Name: "repeats", Title: "Repeated assignment by layer",
			Caption: "Share of consecutive tokens with the same first choice, and with at least one expert in common. Dashed: a router that draws at random."},
	}
	percent := func(f func(*trace.LayerSummary) float64) func(*trace.LayerSummary) float64 {
		return func(l *trace.LayerSummary) float64 { return 100 * f(l) }
	}
	first := Lines{
		Info: Info{Name: "panel", Title: "Same first choice"}, XAxis: "layer", YAxis: "repeated (%)", IntegerX: true,
		Curves: []Curve{byLayer("this trace", layers, percent(func(l *trace.LayerSummary) float64 { return l.RepeatedFirst }))},
	}
	both := Lines{
		Info: Info{Name: "panel", Title: "An expert in common"}, XAxis: "layer", YAxis: "repeated (%)", IntegerX: true,
		Curves: []Curve{byLayer("this trace", layers, percent(func(l *trace.LayerSummary) float64 { return l.RepeatedAny }))},
	}
	if len(layers) > 0 {
		v, w := 100*layers[0].RandomRepeatedFirst, 100*layers[0].RandomRepeatedAny
		first.References = []Reference{{v, "random " + short(v, 3)}}
		both.References = []Reference{{w, "random " + short(w, 3)}}
	}
	if n := float64(len(layers) - 1); r.Model.Experts == 8 && r.Model.TopK == 2 && n > 1 {
		for _, m := range mixtralRepeats {
			first.Curves = append(first.Curves, Curve{m.name, Series{X: []float64{0, 15 * n / 31, n}, Y: m.values[:]}})
		}
		p.Caption += " Mixtral 8x7B: Table 5 of arXiv 2401.04088, its layers 0, 15 and 31 at the same share of the depth."
	}
	p.Figures = []Figure{first}
	if r.Model.TopK > 1 {
		p.Figures = append(p.Figures, both)
	}
	return p
}

// Proportions map the share of each expert by data set at the first, the middle
// and the last layer, as Figure 7 of arXiv 2401.04088 does.
func Proportions(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "proportions", Title: "Data sets and their experts",
			Caption: "Share of each expert among the choices of a data set, at the first, the middle and the last layer. Rows that differ are domains that the router tells apart."},
		Columns: 1, Shared: true,
	}
	n := len(r.Overall.Layers)
	e := r.Model.Experts
	if e <= 16 {
		p.Columns = 3
	}
	for _, l := range some(n, 3) {
		h := HeatMap{
			Info:    Info{Name: "panel", Title: fmt.Sprint("Layer ", l)},
			RowAxis: "data set", ColumnAxis: "expert", Value: "share of choices", Unit: "%",
			Reference: &Reference{100 / float64(max(1, e)), "even: " + short(100/float64(max(1, e)), 3)},
		}
		d := Dense{R: len(r.Datasets), C: e}
		for _, g := range r.Datasets {
			h.Rows = append(h.Rows, datasetName(g.Dataset))
			for _, v := range g.Layers[l].Share {
				d.Values = append(d.Values, 100*v)
			}
		}
		if d.R > 0 {
			h.Data = d
		}
		p.Figures = append(p.Figures, h)
	}
	return p
}

// Positions draws what changes along the document: repeats, entropy of the
// usage and, where logits were recorded, of the router.
func Positions(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "positions", Title: "Along the document",
			Caption: "Means over layers, in ranges of positions that double: 1, 2-3, 4-7 and so on, drawn at their middle (position 0 is left out). Ranges of few tokens have too low an entropy of use."},
	}
	var first, shared, even, router Series
	for _, b := range r.Positions {
		if b.From < 1 || b.Tokens == 0 {
			continue
		}
		x := math.Sqrt(float64(b.From) * float64(b.To))
		add := func(s *Series, v float64) { s.X, s.Y = append(s.X, x), append(s.Y, v) }
		add(&first, 100*b.RepeatedFirst)
		add(&shared, 100*b.RepeatedAny)
		add(&even, 100*b.Normalized)
		if b.RouterEntropy != nil {
			add(&router, *b.RouterEntropy)
		}
	}
	line := func(title, axis string, c ...Curve) Lines {
		return Lines{Info: Info{Name: "panel", Title: title}, XAxis: "position (tokens)", YAxis: axis, LogX: true, Curves: c, Height: 250}
	}
	repeats := line("Repeated assignment", "repeated (%)", Curve{"same first choice", first})
	if r.Model.TopK > 1 {
		repeats.Curves = append(repeats.Curves, Curve{"an expert in common", shared})
	}
	p.Figures = []Figure{repeats, line("Evenness of use", "entropy, of its maximum (%)", Curve{"", even})}
	if router.Len() > 0 {
		p.Figures = append(p.Figures, line("Uncertainty of the router", "entropy of the router (bits)", Curve{"", router}))
	}
	return p
}

// Locality draws the local routing consistency of arXiv 2505.16056: how well
// one set of experts serves a window of tokens.
func Locality(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "locality", Title: "Consistency within windows of tokens",
			Caption: "Segment routing best performance (left): how well a router that keeps its experts for a whole window can do, as an F1 score. Segment cache best hit rate (right): the share of choices that a cache of the window's most used experts serves (arXiv 2505.16056)."},
	}
	layers := r.Overall.Layers
	if len(layers) == 0 || len(layers[0].Local) == 0 {
		return p
	}
	srp := Lines{Info: Info{Name: "panel", Title: "One set of experts a window"}, XAxis: "layer", YAxis: "F1 score", IntegerX: true}
	hit := Lines{Info: Info{Name: "panel", Title: "A cache of the window's experts"}, XAxis: "layer", YAxis: "hit rate (%)", IntegerX: true}
	for i, seg := range layers[0].Local {
		if seg.Windows == 0 {
			continue
		}
		srp.Curves = append(srp.Curves, byLayer(fmt.Sprintf("%d tokens", seg.Segment), layers, func(l *trace.LayerSummary) float64 { return l.Local[i].SRP }))
		for k, c := range seg.Cache {
			hit.Curves = append(hit.Curves, byLayer(fmt.Sprintf("%d tokens, %d experts", seg.Segment, c.Experts), layers,
				func(l *trace.LayerSummary) float64 { return 100 * l.Local[i].Cache[k].HitRate }))
		}
	}
	p.Figures = []Figure{srp, hit}
	return p
}

// Certainty draws by layer the mean routing weight of each choice and, where
// logits were recorded, the entropy of the router.
func Certainty(r *trace.Summary) Panels {
	p := Panels{Info: Info{Name: "certainty", Title: "How sure the router is",
		Caption: "Mean routing weight of each choice; entropy of the softmax over all router logits, mean over tokens."}}
	layers := r.Overall.Layers
	var weights Lines
	for k := range r.Model.TopK {
		c := byLayer(fmt.Sprintf("choice %d", k+1), layers, func(l *trace.LayerSummary) float64 {
			if k >= len(l.MeanWeights) {
				return math.NaN()
			}
			return l.MeanWeights[k]
		})
		weights.Curves = append(weights.Curves, c)
	}
	weights.Info, weights.XAxis, weights.YAxis, weights.IntegerX = Info{Name: "panel", Title: "Routing weights"}, "layer", "mean routing weight", true
	entropy := Lines{Info: Info{Name: "panel", Title: "Entropy of the router"}, XAxis: "layer", YAxis: "entropy (bits)", IntegerX: true,
		References: []Reference{{math.Log2(float64(max(1, r.Model.Experts))), "even, log2 E"}},
		Curves: []Curve{byLayer("", layers, func(l *trace.LayerSummary) float64 {
			if l.RouterEntropy == nil {
				return math.NaN()
			}
			return *l.RouterEntropy
		})}}
	for _, f := range []Lines{weights, entropy} {
		if _, _, _, _, any := f.ranges(); any {
			p.Figures = append(p.Figures, f)
		}
	}
	return p
}
