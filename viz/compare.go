package viz

import (
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// Compare returns the report of a, preceded by a comparison with b: routing,
// balance, predictability and cost of prefetch, as a table and as figures. The
// studies must have different names. Layers are placed by their share of the
// depth and usage is relative to an even spread, so that models of different
// depths and numbers of experts can be compared.
func Compare(a, b Study) (Report, error) {
	if a.Routing == nil || b.Routing == nil {
		return Report{}, fmt.Errorf("viz: comparison of %q and %q: a study has no Routing", a.Name, b.Name)
	}
	a.Name, b.Name = a.name(), b.name()
	if a.Name == b.Name {
		return Report{}, fmt.Errorf("viz: comparison: both studies are named %q", a.Name)
	}
	if a.Title == "" {
		a.Title = a.Name + " against " + b.Name
	}
	r, err := NewReport(a)
	r.Sections = append([]Section{compareSection(a, b)}, r.Sections...)
	return r, err
}

// compareSection is the section of a report that compares two studies.
func compareSection(a, b Study) Section {
	s := Section{ID: "comparison", Title: "Comparison"}
	s.Text = []string{"Two traces, " + a.Name + " and " + b.Name + ", side by side. Layers are placed by their share of the depth, so that models of different depths can be compared. " +
		"Chance is what a router that chooses evenly, or a predictor that guesses, reaches in that model."}
	s.Blocks = append(s.Blocks, comparisonTable(a, b))
	s.add(compareLayers(a, b))
	s.add(Panels{Info: Info{Name: "comparison-usage", Title: "Usage relative to an even spread", Caption: "1: as often as if all experts were used equally."},
		Figures: []Figure{relativeUsage(a), relativeUsage(b)}, Shared: true})
	if d := usageDifference(a, b); len(d.Data) > 0 {
		s.add(d)
	}
	if f := comparePredictors(a, b); len(f.Groups) > 0 {
		s.add(compareDistance(a, b), f)
	}
	if f := comparePrefetch(a, b); len(f.Figures) > 0 {
		s.add(f)
	}
	s.Blocks = append(s.Blocks, beside(a, b))
	return s
}

// meanOver returns the mean of a value over the layers that routed tokens, NaN without
// such layers.
func meanOver(layers []trace.LayerSummary, value func(*trace.LayerSummary) float64) float64 {
	sum, n := 0.0, 0
	for i := range layers {
		if routed(&layers[i]) > 0 {
			sum += value(&layers[i])
			n++
		}
	}
	return sum / float64(n)
}

// comparisonTable has a row for each measure and a column for each study.
func comparisonTable(a, b Study) Table {
	t := Table{Info: Info{Name: "comparison-table", Title: "Side by side", Caption: "Means over layers. Above chance: (value − chance) / (1 − chance)."},
		Columns: []Column{{Name: "measure"}, {Name: a.Name, Digits: 2}, {Name: b.Name, Digits: 2}}}
	row := func(name, unit string, f func(Study) float64) {
		x, y := f(a), f(b)
		if unit != "" {
			name += " (" + unit + ")"
		}
		switch {
		case math.IsNaN(x) && math.IsNaN(y):
		case unit == "" && x == math.Trunc(x) && y == math.Trunc(y): // counts
			t.Rows = append(t.Rows, []any{name, int(x), int(y)})
		default:
			t.Rows = append(t.Rows, []any{name, x, y})
		}
	}
	mean := func(f func(*trace.LayerSummary) float64) func(Study) float64 {
		return func(s Study) float64 { return meanOver(s.Routing.Overall.Layers, f) }
	}
	row("tokens", "", func(s Study) float64 { return float64(s.Routing.Tokens) })
	row("documents", "", func(s Study) float64 { return float64(s.Routing.Documents) })
	row("MoE layers", "", func(s Study) float64 { return float64(s.Routing.Model.Layers) })
	row("experts per layer", "", func(s Study) float64 { return float64(s.Routing.Model.Experts) })
	row("experts per token (top-k)", "", func(s Study) float64 { return float64(s.Routing.Model.TopK) })
	row("share of experts that a token uses", "%", func(s Study) float64 {
		return 100 * float64(s.Routing.Model.TopK) / float64(s.Routing.Model.Experts)
	})
	row("active experts", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * float64(l.Usage.Active) / float64(len(l.Counts)) }))
	row("entropy of use", "bits", mean(func(l *trace.LayerSummary) float64 { return l.Usage.Entropy }))
	row("entropy of use, share of its maximum", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized }))
	row("Gini coefficient", "", mean(func(l *trace.LayerSummary) float64 { return l.Usage.Gini }))
	row("coefficient of variation", "", mean(func(l *trace.LayerSummary) float64 { return l.Usage.CV }))
	row("same first choice as the previous token", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedFirst }))
	row("same first choice, at random", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RandomRepeatedFirst }))
	row("an expert in common with the previous token", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedAny }))
	row("an expert in common, at random", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RandomRepeatedAny }))
	row("information about the next layer's first choice", "bits", func(s Study) float64 { return meanInformation(s.Routing) })
	row("the same, share of its maximum", "%", func(s Study) float64 {
		return 100 * meanInformation(s.Routing) / math.Log2(float64(s.Routing.Model.Experts))
	})
	for _, p := range sharedPredictors(a, b) {
		row("recall@K of "+p+", 1 layer ahead", "%", func(s Study) float64 { return 100 * recallAhead(s.Results, p).RecallK })
		row("the same, above chance", "%", func(s Study) float64 { return 100 * aboveChance(s.Results, recallAhead(s.Results, p).RecallK) })
	}
	return t
}

func meanInformation(r *trace.Summary) float64 {
	sum := 0.0
	for _, t := range r.Transitions {
		sum += t.FirstMutualInformation
	}
	return sum / float64(len(r.Transitions)) // NaN without transitions
}

// recallAhead returns the row of a predictor one layer ahead. Its RecallK is NaN
// for a predictor that was not evaluated.
func recallAhead(r *speculate.Results, predictor string) speculate.Row {
	if r != nil {
		for _, row := range r.Find(predictor, speculate.Horizon{Layers: 1}, "all") {
			return row
		}
	}
	return speculate.Row{RecallK: math.NaN()}
}

// aboveChance returns (recall - chance) / (1 - chance), NaN if chance is 1.
func aboveChance(r *speculate.Results, recall float64) float64 {
	if r == nil || r.Shape.Experts <= r.Shape.TopK {
		return math.NaN()
	}
	c := float64(r.Shape.TopK) / float64(r.Shape.Experts)
	return (recall - c) / (1 - c)
}

// sharedPredictors returns the predictors that both studies evaluated.
func sharedPredictors(a, b Study) []string {
	if a.Results == nil || b.Results == nil {
		return nil
	}
	return slices.DeleteFunc(withoutOracle(a.Results).Predictors, func(p string) bool { return !slices.Contains(b.Results.Predictors, p) })
}

// compareLayers shows evenness, repeats and information by share of the depth.
func compareLayers(a, b Study) Panels {
	line := func(title, axis string, curve func(Study) (n int, value func(i int) (layer int, y float64))) Lines {
		l := Lines{Info: panel(title), XAxis: "share of the depth (%)", YAxis: axis, Height: 250}
		for _, s := range []Study{a, b} {
			n, value := curve(s)
			var ls []int
			var ys []float64
			for i := range n {
				layer, y := value(i)
				ls, ys = append(ls, layer), append(ys, y)
			}
			l.Curves = append(l.Curves, stackCurves(s, ls, ys)...)
		}
		return l
	}
	layers := func(title, axis string, f func(*trace.LayerSummary) float64) Lines {
		return line(title, axis, func(s Study) (int, func(int) (int, float64)) {
			ls := s.Routing.Overall.Layers
			return len(ls), func(i int) (int, float64) {
				if routed(&ls[i]) == 0 {
					return i, math.NaN()
				}
				return i, f(&ls[i])
			}
		})
	}
	return Panels{
		Info: Info{Name: "comparison-layers", Title: "Layer by layer",
			Caption: "Entropy of the usage as a share of its maximum; Gini coefficient; repeated first choices above chance, (observed − random) / (1 − random); mutual information of the first choices at a layer and at the next."},
		Figures: []Figure{
			layers("Evenness of use", "entropy, share of its maximum (%)", func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized }),
			layers("Gini coefficient", "Gini coefficient", func(l *trace.LayerSummary) float64 { return l.Usage.Gini }),
			layers("Repeated first choice", "above chance (%)", func(l *trace.LayerSummary) float64 {
				random := l.RandomRepeatedFirst
				if random <= 0 || random >= 1 {
					return math.NaN()
				}
				return 100 * (l.RepeatedFirst - random) / (1 - random)
			}),
			line("Information about the next layer", "share of its maximum, log2 E (%)", func(s Study) (int, func(int) (int, float64)) {
				t, most := s.Routing.Transitions, math.Log2(float64(s.Routing.Model.Experts))
				return len(t), func(i int) (int, float64) { return t[i].From, 100 * t[i].FirstMutualInformation / most }
			}),
		},
	}
}

// stackCurves returns the curve of a study's values at layers by their share of the depth,
// or of a model with an encoder one for each stack.
func stackCurves(s Study, layers []int, values []float64) []Curve {
	x := stacksOf(s.Routing.Model)
	curves := []Curve{{Name: s.Name}}
	if x.names != nil {
		curves = []Curve{{Name: s.Name + ", encoder"}, {Name: s.Name + ", decoder"}}
	}
	for k := range curves {
		var of []float64
		for i, l := range layers {
			if x.names == nil || (l < x.split) == (k == 0) {
				of = append(of, values[i])
			}
		}
		for i, y := range of {
			at := 50.0
			if n := len(of); n > 1 {
				at = 100 * float64(i) / float64(n-1)
			}
			curves[k].add(at, y)
		}
	}
	return curves
}

// relativeUsage shows the usage relative to an even spread, [E,L].
func relativeUsage(s Study) HeatMap {
	h := usageMap(s.Routing.Model, &s.Routing.Overall, "panel", s.Name)
	for _, row := range h.Data {
		for j := range row {
			row[j] *= float64(len(h.Data)) / 100
		}
	}
	h.Value, h.Unit, h.Reference = "use relative to an even spread", "", &Reference{1, "even"}
	return h
}

// usageDifference shows a's usage minus b's, in percentage points. Data is empty
// if the models have different numbers of layers or experts.
func usageDifference(a, b Study) HeatMap {
	h := HeatMap{Info: Info{Name: "comparison-difference", Title: "Difference of usage: " + a.Name + " minus " + b.Name},
		RowAxis: "expert", ColumnAxis: "layer", Value: "difference of share", Unit: "percentage points", Diverging: true}
	x, y := usageMap(a.Routing.Model, &a.Routing.Overall, "x", "").Data, usageMap(b.Routing.Model, &b.Routing.Overall, "x", "").Data
	r, c := dims(x)
	if r2, c2 := dims(y); r == r2 && c == c2 {
		h.Data = newGrid(r, c, func(i, j int) float64 { return x[i][j] - y[i][j] })
		if h.Columns = stacksOf(a.Routing.Model).names; !slices.Equal(h.Columns, stacksOf(b.Routing.Model).names) {
			h.Columns = nil
		}
	}
	return h
}

// compareDistance shows recall by distance of both studies.
func compareDistance(a, b Study) Panels {
	p := Panels{Info: Info{Name: "comparison-distance", Title: "Predictability by distance", Caption: "Recall of the K chosen experts among the first K named."}}
	for _, s := range []Study{a, b} {
		f := recallByDistance(withoutOracle(s.Results))
		f.Info = panel(s.Name)
		p.Figures = append(p.Figures, f)
	}
	return p
}

// comparePredictors shows recall above chance, one layer ahead, by predictor.
func comparePredictors(a, b Study) bars {
	f := bars{Info: Info{Name: "comparison-predictors", Title: "Predictability above chance, 1 layer ahead",
		Caption: "(recall − chance) / (1 − chance): 0 for guesses, 100 % for perfect predictions."}, Axis: "recall above chance (%)", Categories: sharedPredictors(a, b)}
	if len(f.Categories) == 0 {
		return f
	}
	for _, s := range []Study{a, b} {
		g := Curve{Name: s.Name}
		for i, p := range f.Categories {
			row := recallAhead(s.Results, p)
			lo, hi := recallInterval(row)
			g.addInterval(float64(i), 100*aboveChance(s.Results, row.RecallK), 100*aboveChance(s.Results, lo/100), 100*aboveChance(s.Results, hi/100))
		}
		f.Groups = append(f.Groups, g)
	}
	return f
}

// comparePrefetch shows hit rate and copies by policy.
func comparePrefetch(a, b Study) Panels {
	p := Panels{Info: Info{Name: "comparison-prefetch", Title: "Cost of prefetch",
		Caption: "A simulation on the trace: the share of choices whose expert was resident in time, and the experts copied per token."}, Columns: 1}
	if a.Cache == nil || b.Cache == nil {
		return p
	}
	hit := bars{Info: panel("Hit rate"), Axis: "hit rate (%)", Groups: []Curve{{Name: a.Name}, {Name: b.Name}}}
	copies := bars{Info: panel("Copies"), Axis: "experts copied per token", Groups: []Curve{{Name: a.Name}, {Name: b.Name}}}
	for i, x := range a.Cache.Costs {
		// Capacities are whole numbers of experts, so that equal shares differ a little.
		var y *prefetch.Result
		distance := 0.05
		for j, r := range b.Cache.Costs {
			if d := math.Abs(x.Resident - r.Resident); a.Cache.Labels[i] == b.Cache.Labels[j] && d < distance {
				y, distance = r, d
			}
		}
		if y == nil {
			continue
		}
		name := fmt.Sprintf("%s, %s %% resident", a.Cache.Labels[i], short(100*x.Resident, 3))
		hit.Categories, copies.Categories = append(hit.Categories, name), append(copies.Categories, name)
		for k, r := range []*prefetch.Result{x, y} {
			hit.Groups[k].add(0, 100*r.HitRate)
			copies.Groups[k].add(0, r.TransfersPerToken)
		}
	}
	if len(hit.Categories) > 0 {
		p.Figures = []Figure{hit, copies}
	}
	return p
}
