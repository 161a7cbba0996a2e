package viz

import (
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Side is one of two traces that are compared. Name tells it from the other.
type Side struct {
	Name    string
	Routing *trace.Summary
	// Results are those of an evaluation; nil: none.
	Results *speculate.Results
	// Prefetch are costs of running the model with most experts elsewhere, by
	// policy; nil: none.
	Prefetch []PrefetchCost
}

// PrefetchCost is what a policy of caching and prefetching costs on a trace.
type PrefetchCost struct {
	Policy string
	// Resident is the share of the experts that is kept, 0..1; HitRate the
	// share of choices that were there in time; Copied the experts copied a
	// token, counted in experts.
	Resident, HitRate, Copied float64
}

// Compare sets two traces side by side: shape of the routing, balance, entropy,
// predictability and cost of prefetch, as a table and as figures. Layers of
// models of different depth are put at their share of the depth, and usage is
// given relative to an even spread, so that models of different numbers of
// experts can be compared.
func Compare(a, b Side) (Section, error) {
	s := Section{ID: "comparison", Title: "Comparison"}
	if a.Routing == nil || b.Routing == nil {
		return s, fmt.Errorf("viz: comparison of %q and %q: one has no statistics of routing", a.Name, b.Name)
	}
	if a.Name == b.Name {
		return s, fmt.Errorf("viz: comparison: both sides are named %q", a.Name)
	}
	s.Text = []string{"Two traces side by side: " + a.Name + " and " + b.Name + ". Layers are placed by their share of the depth, so that models of different depth lie over each other; " +
		"chance is what a router that draws evenly, or a predictor that guesses, would reach in that model."}
	s.Blocks = []Block{ComparisonTable(a, b), Figures{List: []Figure{compareLayers(a, b)}}, Figures{List: []Figure{compareUsage(a, b)}}}
	if d := UsageDifference(a, b); d.Data != nil {
		s.Blocks = append(s.Blocks, Figures{List: []Figure{d}})
	}
	if f := comparePredictors(a, b); len(f.Groups) > 0 {
		s.Blocks = append(s.Blocks, Figures{List: []Figure{compareDistance(a, b), f}})
	}
	if f := comparePrefetch(a, b); len(f.Figures) > 0 {
		s.Blocks = append(s.Blocks, Figures{List: []Figure{f}})
	}
	figs, options := Beside(a, b)
	s.Blocks = append(s.Blocks, Figures{Label: "Side by side", List: figs, Options: options})
	return s, nil
}

// ComparisonTable is a row for each measure and a column for each trace.
func ComparisonTable(a, b Side) Table {
	t := Table{Info: Info{Name: "comparison-table", Title: "Side by side", Caption: "Means over layers. Above chance: the share of what guessing leaves open."},
		Columns: []Column{{Name: "measure"}, {Name: a.Name, Digits: 2}, {Name: b.Name, Digits: 2}}}
	row := func(name, unit string, f func(Side) float64) {
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
	mean := func(f func(*trace.LayerSummary) float64) func(Side) float64 {
		return func(s Side) float64 {
			sum := 0.0
			for i := range s.Routing.Overall.Layers {
				sum += f(&s.Routing.Overall.Layers[i])
			}
			return sum / float64(len(s.Routing.Overall.Layers))
		}
	}
	row("tokens", "", func(s Side) float64 { return float64(s.Routing.Tokens) })
	row("documents", "", func(s Side) float64 { return float64(s.Routing.Documents) })
	row("MoE layers", "", func(s Side) float64 { return float64(s.Routing.Model.Layers) })
	row("experts a layer", "", func(s Side) float64 { return float64(s.Routing.Model.Experts) })
	row("experts a token (top-k)", "", func(s Side) float64 { return float64(s.Routing.Model.TopK) })
	row("share of experts a token uses", "%", func(s Side) float64 {
		return 100 * float64(s.Routing.Model.TopK) / float64(s.Routing.Model.Experts)
	})
	row("active experts", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * float64(l.Usage.Active) / float64(len(l.Counts)) }))
	row("entropy of use", "bits", mean(func(l *trace.LayerSummary) float64 { return l.Usage.Entropy }))
	row("entropy of use, of its maximum", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized }))
	row("Gini coefficient", "", mean(func(l *trace.LayerSummary) float64 { return l.Usage.Gini }))
	row("coefficient of variation", "", mean(func(l *trace.LayerSummary) float64 { return l.Usage.CV }))
	row("same first choice as the token before", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedFirst }))
	row("same first choice, at random", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RandomRepeatedFirst }))
	row("an expert in common with the token before", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedAny }))
	row("an expert in common, at random", "%", mean(func(l *trace.LayerSummary) float64 { return 100 * l.RandomRepeatedAny }))
	row("information about the next layer's first choice", "bits", func(s Side) float64 { return meanInformation(s.Routing) })
	row("the same, of its maximum", "%", func(s Side) float64 {
		return 100 * meanInformation(s.Routing) / math.Log2(float64(s.Routing.Model.Experts))
	})
	for _, p := range sharedPredictors(a, b) {
		row("recall@K of "+p+", 1 layer ahead", "%", func(s Side) float64 { r, _ := recallOf(s.Results, p, 1); return 100 * r })
		row("the same, above chance", "%", func(s Side) float64 { return 100 * skill(s.Results, p, 1) })
	}
	return t
}

func meanInformation(r *trace.Summary) float64 {
	sum := 0.0
	for _, t := range r.Transitions {
		sum += t.FirstMutualInformation
	}
	return sum / float64(len(r.Transitions)) // NaN where there is none
}

// recallOf is recall@K h layers ahead; NaN where it is not known.
func recallOf(r *speculate.Results, predictor string, h int) (float64, *speculate.Interval) {
	if r != nil {
		for _, row := range r.Find(predictor, speculate.Horizon{Layers: h}, "all") {
			return row.RecallK, row.RecallKInterval
		}
	}
	return math.NaN(), nil
}

// skill is (recall - chance) / (1 - chance), the share that guessing leaves open.
func skill(r *speculate.Results, predictor string, h int) float64 {
	x, _ := recallOf(r, predictor, h)
	if r == nil || r.Shape.Experts <= r.Shape.TopK {
		return math.NaN()
	}
	c := float64(r.Shape.TopK) / float64(r.Shape.Experts)
	return (x - c) / (1 - c)
}

func sharedPredictors(a, b Side) []string {
	if a.Results == nil || b.Results == nil {
		return nil
	}
	var out []string
	for _, p := range withoutOracle(a.Results).Predictors {
		if slices.Contains(b.Results.Predictors, p) {
			out = append(out, p)
		}
	}
	return out
}

// compareLayers draws evenness, repeats and information by share of the depth.
func compareLayers(a, b Side) Panels {
	depth := func(name string, n int, value func(i int) float64) Curve {
		var s Series
		for i := range n {
			x := 50.0
			if n > 1 {
				x = 100 * float64(i) / float64(n-1)
			}
			s.X, s.Y = append(s.X, x), append(s.Y, value(i))
		}
		return Curve{name, s}
	}
	layers := func(title, axis string, f func(*trace.LayerSummary) float64) Lines {
		l := Lines{Info: Info{Name: "panel", Title: title}, XAxis: "share of the depth (%)", YAxis: axis, Height: 250}
		for _, s := range []Side{a, b} {
			ls := s.Routing.Overall.Layers
			l.Curves = append(l.Curves, depth(s.Name, len(ls), func(i int) float64 { return f(&ls[i]) }))
		}
		return l
	}
	over := func(x, random float64) float64 {
		if random <= 0 || random >= 1 {
			return math.NaN()
		}
		return 100 * (x - random) / (1 - random)
	}
	info := Lines{Info: Info{Name: "panel", Title: "Information about the next layer"}, XAxis: "share of the depth (%)", YAxis: "of its maximum, log2 E (%)", Height: 250}
	for _, s := range []Side{a, b} {
		t := s.Routing.Transitions
		most := math.Log2(float64(s.Routing.Model.Experts))
		info.Curves = append(info.Curves, depth(s.Name, len(t), func(i int) float64 { return 100 * t[i].FirstMutualInformation / most }))
	}
	return Panels{
		Info: Info{Name: "comparison-layers", Title: "Layer by layer",
			Caption: "Entropy of the usage as a share of its maximum; Gini coefficient; repeated first choice above chance, (observed − random) / (1 − random); mutual information of the first choices of a layer and the next."},
		Figures: []Figure{
			layers("Evenness of use", "entropy, of its maximum (%)", func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized }),
			layers("Gini coefficient", "Gini coefficient", func(l *trace.LayerSummary) float64 { return l.Usage.Gini }),
			layers("Repeated first choice", "above chance (%)", func(l *trace.LayerSummary) float64 { return over(l.RepeatedFirst, l.RandomRepeatedFirst) }),
			info,
		},
	}
}

// relativeUsage is the usage relative to an even spread, [E,L].
func relativeUsage(s Side) HeatMap {
	h := UsageMap(&s.Routing.Overall, "panel", s.Name)
	d, ok := h.Data.(Dense)
	if !ok {
		return h
	}
	v := slices.Clone(d.Values)
	for i := range v {
		v[i] *= float64(d.R) / 100
	}
	h.Data, h.Value, h.Unit, h.Reference = Dense{d.R, d.C, v}, "use, relative to an even spread", "", &Reference{1, "even"}
	return h
}

func compareUsage(a, b Side) Panels {
	return Panels{Info: Info{Name: "comparison-usage", Title: "Usage relative to an even spread", Caption: "1: as often as if all experts were used alike."},
		Figures: []Figure{relativeUsage(a), relativeUsage(b)}, Columns: 2, Shared: true}
}

// UsageDifference maps a's usage less b's, in percentage points; its Data is
// nil where the models have different numbers of layers or experts.
func UsageDifference(a, b Side) HeatMap {
	h := HeatMap{Info: Info{Name: "comparison-difference", Title: "Difference of usage: " + a.Name + " less " + b.Name},
		RowAxis: "expert", ColumnAxis: "layer", Value: "difference of share", Unit: "percentage points", Diverging: true}
	x, okX := UsageMap(&a.Routing.Overall, "x", "").Data.(Dense)
	y, okY := UsageMap(&b.Routing.Overall, "x", "").Data.(Dense)
	if !okX || !okY || x.R != y.R || x.C != y.C {
		return h
	}
	d := Dense{R: x.R, C: x.C}
	for i := range x.Values {
		d.Values = append(d.Values, x.Values[i]-y.Values[i])
	}
	h.Data = d
	return h
}

// compareDistance sets recall by distance of both sides beside each other.
func compareDistance(a, b Side) Panels {
	p := Panels{Info: Info{Name: "comparison-distance", Title: "Predictability by distance", Caption: "Recall of the K chosen experts among the first K named."}}
	for _, s := range []Side{a, b} {
		if s.Results == nil {
			continue
		}
		f := RecallByDistance(withoutOracle(s.Results))
		f.Info = Info{Name: "panel", Title: s.Name}
		p.Figures = append(p.Figures, f)
	}
	return p
}

// comparePredictors draws recall above chance, one layer ahead, by predictor.
func comparePredictors(a, b Side) Bars {
	f := Bars{Info: Info{Name: "comparison-predictors", Title: "Predictability above chance, 1 layer ahead",
		Caption: "(recall − chance) / (1 − chance): 0 is guessing, 100 % is knowing."}, Axis: "recall above chance (%)", Categories: sharedPredictors(a, b)}
	if len(f.Categories) == 0 {
		return f
	}
	for _, s := range []Side{a, b} {
		g := BarGroup{Name: s.Name}
		c := float64(s.Results.Shape.TopK) / float64(s.Results.Shape.Experts)
		for _, p := range f.Categories {
			g.Values = append(g.Values, 100*skill(s.Results, p, 1))
			lo, hi := math.NaN(), math.NaN()
			if _, i := recallOf(s.Results, p, 1); i != nil && c < 1 {
				lo, hi = 100*(i.Low-c)/(1-c), 100*(i.High-c)/(1-c)
			}
			g.Low, g.High = append(g.Low, lo), append(g.High, hi)
		}
		f.Groups = append(f.Groups, g)
	}
	return f
}

// comparePrefetch draws hit rate and copies by policy.
func comparePrefetch(a, b Side) Panels {
	p := Panels{Info: Info{Name: "comparison-prefetch", Title: "Cost of prefetch",
		Caption: "A simulation on the trace: the share of choices whose expert was there in time, and the experts copied a token."}, Columns: 1}
	var policies []string
	for _, c := range a.Prefetch {
		if slices.ContainsFunc(b.Prefetch, func(o PrefetchCost) bool { return o.Policy == c.Policy && o.Resident == c.Resident }) {
			policies = append(policies, policyName(c))
		}
	}
	if len(policies) == 0 {
		return p
	}
	bars := func(title, axis string, f func(PrefetchCost) float64) Bars {
		out := Bars{Info: Info{Name: "panel", Title: title}, Axis: axis, Categories: policies}
		for _, s := range []Side{a, b} {
			g := BarGroup{Name: s.Name}
			for _, n := range policies {
				i := slices.IndexFunc(s.Prefetch, func(c PrefetchCost) bool { return policyName(c) == n })
				g.Values = append(g.Values, f(s.Prefetch[i]))
			}
			out.Groups = append(out.Groups, g)
		}
		return out
	}
	p.Figures = []Figure{
		bars("Hit rate", "hit rate (%)", func(c PrefetchCost) float64 { return 100 * c.HitRate }),
		bars("Copies", "experts copied a token", func(c PrefetchCost) float64 { return c.Copied }),
	}
	return p
}

func policyName(c PrefetchCost) string {
	return fmt.Sprintf("%s, %s %% resident", c.Policy, short(100*c.Resident, 3))
}
