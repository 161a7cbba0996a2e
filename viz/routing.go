package viz

import (
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace"
)

// panel is the Info of a figure within [Panels], which needs a title only.
func panel(title string) Info { return Info{Name: "panel", Title: title} }

// even returns the reference of an even spread, in percent.
func even(v float64) *Reference { return &Reference{v, "even: " + short(v, 3)} }

// usageMap shows the share of each expert in the choices of each layer of a model, in
// percent, [E,L].
func usageMap(m trace.Model, g *trace.GroupSummary, name, title string) HeatMap {
	h := HeatMap{
		Info:    Info{Name: name, Title: title, Caption: "Share of each expert in all choices of a layer. Every column adds up to 100 %."},
		RowAxis: "expert", ColumnAxis: "layer", Value: "share of choices", Unit: "%",
	}
	if len(g.Layers) == 0 || len(g.Layers[0].Share) == 0 {
		return h
	}
	experts := len(g.Layers[0].Share)
	h.Columns = stacksOf(m).names
	h.Data = newGrid(experts, len(g.Layers), func(e, l int) float64 {
		if routed(&g.Layers[l]) == 0 {
			return math.NaN()
		}
		return 100 * g.Layers[l].Share[e]
	})
	h.Reference = even(100 / float64(experts))
	return h
}

// usagePanels shows the usage maps of all data sets side by side.
func usagePanels(r *trace.Summary) Panels {
	p := Panels{
		Info:    Info{Name: "usage-by-dataset", Title: "Expert usage by data set", Caption: "All panels have the same range of colours."},
		Columns: 4, Shared: true,
	}
	for i := range r.Datasets {
		g := &r.Datasets[i]
		p.Figures = append(p.Figures, usageMap(r.Model, g, "usage", datasetName(g.Dataset)))
	}
	return p
}

func datasetName(s string) string { return orElse(s, "(unnamed)") }

// byLayer returns a curve of a value of each layer, NaN where it routed no token.
func byLayer(name string, layers []trace.LayerSummary, value func(*trace.LayerSummary) float64) Curve {
	c := Curve{Name: name}
	for i := range layers {
		y := math.NaN()
		if routed(&layers[i]) > 0 {
			y = value(&layers[i])
		}
		c.add(float64(layers[i].Layer), y)
	}
	return c
}

// layerLines is a panel of curves by layer.
func layerLines(r *trace.Summary, title, axis string, curves ...Curve) Lines {
	return Lines{Info: panel(title), XAxis: "layer", YAxis: axis, IntegerX: true, Curves: curves, layers: stacksOf(r.Model)}
}

// balance shows by layer how evenly the experts are used.
func balance(r *trace.Summary) Panels {
	e := float64(max(r.Model.Experts, 1))
	layers := r.Overall.Layers
	line := func(title, axis string, ref Reference, value func(trace.Usage) float64) Lines {
		l := layerLines(r, title, axis,
			byLayer("all choices", layers, func(l *trace.LayerSummary) float64 { return value(l.Usage) }),
			byLayer("first choice", layers, func(l *trace.LayerSummary) float64 { return value(l.FirstUsage) }))
		l.References, l.Height = []Reference{ref}, 240
		return l
	}
	active := line("Active experts", "experts in use", Reference{float64(r.Model.Experts), "all E"}, func(u trace.Usage) float64 { return float64(u.Active) })
	active.YRange = [2]float64{0, e}
	return Panels{
		Info: Info{Name: "balance", Title: "Balance of the experts by layer",
			Caption: "Entropy of the usage, at most log2 E bits; Gini coefficient and coefficient of variation, 0 if all experts are used equally; number of experts chosen at least once."},
		Figures: []Figure{
			line("Entropy", "entropy (bits)", Reference{math.Log2(e), "even, log2 E"}, func(u trace.Usage) float64 { return u.Entropy }),
			line("Gini coefficient", "Gini coefficient", Reference{0, "even"}, func(u trace.Usage) float64 { return u.Gini }),
			line("Coefficient of variation", "coefficient of variation", Reference{0, "even"}, func(u trace.Usage) float64 { return u.CV }),
			active,
		},
	}
}

// entropyMap shows the normalized entropy of the usage by data set and layer.
func entropyMap(r *trace.Summary) HeatMap {
	h := HeatMap{
		Info: Info{Name: "entropy-by-dataset", Title: "Evenness of use by data set",
			Caption: "Entropy of the usage as a share of its maximum, log2 E: 100 % if all experts are used equally. Values of short data sets are slightly too low."},
		RowAxis: "data set", ColumnAxis: "layer", Value: "entropy, share of its maximum", Unit: "%",
	}
	for _, g := range r.Datasets {
		h.Rows = append(h.Rows, datasetName(g.Dataset))
	}
	h.Data = newGrid(len(r.Datasets), len(r.Overall.Layers), func(i, l int) float64 {
		if routed(&r.Datasets[i].Layers[l]) == 0 {
			return math.NaN()
		}
		return 100 * r.Datasets[i].Layers[l].Usage.Normalized
	})
	if len(h.Data) > 0 {
		h.Columns = stacksOf(r.Model).names
	}
	return h
}

// mixtralRepeats are the shares of repeated first choices at layers 0, 15 and 31
// of Mixtral 8x7B, in percent: Table 5 of arXiv 2401.04088.
var mixtralRepeats = []struct {
	name   string
	values []float64
}{
	{"Mixtral 8x7B, ArXiv", []float64{14.0, 27.9, 22.7}},
	{"Mixtral 8x7B, Github", []float64{14.9, 28.1, 19.7}},
	{"Mixtral 8x7B, Wikipedia", []float64{14.4, 23.6, 25.3}},
}

// repeats shows by layer how often a token is routed to the expert of the token
// before it. Models of 8 experts and top-2 are compared with Mixtral 8x7B, whose
// layers 0, 15 and 31 are drawn at the same share of the depth.
func repeats(r *trace.Summary) Panels {
	layers := r.Overall.Layers
	p := Panels{
		Info: Info{Name: "repeats", Title: "Repeated assignment by layer",
			Caption: "Share of consecutive tokens with the same first choice, and with at least one expert in common. Dashed: a router that chooses at random."},
	}
	first := layerLines(r, "Same first choice", "repeated (%)", byLayer("this trace", layers, func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedFirst }))
	both := layerLines(r, "An expert in common", "repeated (%)", byLayer("this trace", layers, func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedAny }))
	if len(layers) > 0 {
		v, w := 100*layers[0].RandomRepeatedFirst, 100*layers[0].RandomRepeatedAny
		first.References = []Reference{{v, "random " + short(v, 3)}}
		both.References = []Reference{{w, "random " + short(w, 3)}}
	}
	if n := float64(len(layers) - 1); r.Model.Experts == 8 && r.Model.TopK == 2 && n > 1 {
		for _, m := range mixtralRepeats {
			first.Curves = append(first.Curves, Curve{Name: m.name, X: []float64{0, 15 * n / 31, n}, Y: m.values})
		}
		p.Caption += " Mixtral 8x7B: Table 5 of arXiv 2401.04088; its layers 0, 15 and 31 are drawn at the same share of the depth."
	}
	p.Figures = []Figure{first}
	if r.Model.TopK > 1 {
		p.Figures = append(p.Figures, both)
	}
	return p
}

// proportions shows the share of each expert by data set at the first, the
// middle and the last layer, as Figure 7 of arXiv 2401.04088 does.
func proportions(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "proportions", Title: "Data sets and their experts",
			Caption: "Share of each expert in the choices of a data set, at the first, the middle and the last layer. Where rows differ, the router distinguishes the domains."},
		Columns: 1, Shared: true,
	}
	e := r.Model.Experts
	if e <= 16 {
		p.Columns = 3
	}
	for _, l := range some(len(r.Overall.Layers), 3) {
		h := HeatMap{
			Info:    panel(sentence(stacksOf(r.Model).layer(l))),
			RowAxis: "data set", ColumnAxis: "expert", Value: "share of choices", Unit: "%",
			Reference: even(100 / float64(max(1, e))),
		}
		for _, g := range r.Datasets {
			h.Rows = append(h.Rows, datasetName(g.Dataset))
		}
		h.Data = newGrid(len(r.Datasets), e, func(i, j int) float64 { return 100 * r.Datasets[i].Layers[l].Share[j] })
		p.Figures = append(p.Figures, h)
	}
	return p
}

// positions shows what changes along a document: repeats, entropy of the usage
// and, if router logits were recorded, entropy of the router.
func positions(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "positions", Title: "Along the document",
			Caption: "Means over layers, for ranges of positions that double: 1, 2-3, 4-7 and so on, drawn at their middle. Position 0 is omitted. The entropy of ranges with few tokens is too low."},
	}
	first, shared := Curve{Name: "same first choice"}, Curve{Name: "an expert in common"}
	var use, router Curve
	for _, b := range r.Positions {
		if b.From < 1 || b.Tokens == 0 {
			continue
		}
		x := math.Sqrt(float64(b.From) * float64(b.To))
		first.add(x, 100*b.RepeatedFirst)
		shared.add(x, 100*b.RepeatedAny)
		use.add(x, 100*b.Normalized)
		if b.RouterEntropy != nil {
			router.add(x, *b.RouterEntropy)
		}
	}
	line := func(title, axis string, c ...Curve) Lines {
		return Lines{Info: panel(title), XAxis: "position (tokens)", YAxis: axis, LogX: true, Curves: c, Height: 250}
	}
	repeated := line("Repeated assignment", "repeated (%)", first)
	if r.Model.TopK > 1 {
		repeated.Curves = append(repeated.Curves, shared)
	}
	p.Figures = []Figure{repeated, line("Evenness of use", "entropy, share of its maximum (%)", use)}
	if len(router.X) > 0 {
		p.Figures = append(p.Figures, line("Uncertainty of the router", "entropy of the router (bits)", router))
	}
	return p
}

// locality shows the local routing consistency of arXiv 2505.16056: how well one
// set of experts serves a window of tokens.
func locality(r *trace.Summary) Panels {
	p := Panels{
		Info: Info{Name: "locality", Title: "Consistency within windows of tokens",
			Caption: "Segment routing best performance (left): the F1 score of the best router that keeps its experts for a whole window. Segment cache best hit rate (right): the share of choices that a cache of the most used experts of the window serves (arXiv 2505.16056)."},
	}
	layers := r.Overall.Layers
	if len(layers) == 0 || len(layers[0].Local) == 0 {
		return p
	}
	srp, hit := layerLines(r, "One set of experts per window", "F1 score"), layerLines(r, "A cache of the window's experts", "hit rate (%)")
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

// certainty shows by layer the mean routing weight of each choice and, if router
// logits were recorded, the entropy of the router.
func certainty(r *trace.Summary) Panels {
	p := Panels{Info: Info{Name: "certainty", Title: "Certainty of the router",
		Caption: "Mean routing weight of each choice; entropy of the softmax of all router logits, mean over tokens."}}
	layers := r.Overall.Layers
	weights := layerLines(r, "Routing weights", "mean routing weight")
	for k := range r.Model.TopK {
		weights.Curves = append(weights.Curves, byLayer(fmt.Sprintf("choice %d", k+1), layers, func(l *trace.LayerSummary) float64 {
			if k >= len(l.MeanWeights) {
				return math.NaN()
			}
			return l.MeanWeights[k]
		}))
	}
	entropy := layerLines(r, "Entropy of the router", "entropy (bits)", byLayer("", layers, func(l *trace.LayerSummary) float64 {
		if l.RouterEntropy == nil {
			return math.NaN()
		}
		return *l.RouterEntropy
	}))
	entropy.References = []Reference{{math.Log2(float64(max(1, r.Model.Experts))), "even, log2 E"}}
	for _, f := range []Lines{weights, entropy} {
		if !f.empty() {
			p.Figures = append(p.Figures, f)
		}
	}
	return p
}
