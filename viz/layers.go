package viz

import (
	"fmt"
	"math"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

// some returns at most limit of 0..n-1, the first and the last among them.
func some(n, limit int) []int {
	if limit < 1 || n < 1 {
		return nil
	}
	if n <= limit {
		limit = n
	}
	var out []int
	for i := range limit {
		k := 0
		if limit > 1 {
			k = (i*(n-1) + (limit-1)/2) / (limit - 1)
		}
		out = append(out, k)
	}
	return out
}

// maxCells bounds the cells that one choice of figures puts into a report.
const maxCells = 40000

// TransitionMaps map for layers and the next the chance of an expert given the
// first choice before it, in percent. Large models show some of the layers.
func TransitionMaps(r *trace.Summary) (figs []Figure, options []string) {
	e := max(1, r.Model.Experts)
	for _, i := range some(len(r.Transitions), maxCells/(e*e)) {
		t := r.Transitions[i]
		d := Dense{R: e, C: e, Values: make([]float64, 0, e*e)}
		for _, row := range t.FirstCounts {
			var sum int64
			for _, v := range row {
				sum += v
			}
			for _, v := range row {
				if sum == 0 {
					d.Values = append(d.Values, math.NaN())
				} else {
					d.Values = append(d.Values, 100*float64(v)/float64(sum))
				}
			}
		}
		figs = append(figs, HeatMap{
			Info: Info{Name: fmt.Sprintf("transition-%d", t.From), Title: fmt.Sprintf("From layer %d to layer %d", t.From, t.From+1),
				Caption: "Of the tokens with this first choice, where they go next. Every row adds up to 100 %; grey: never chosen."},
			Data: d, RowAxis: fmt.Sprintf("first choice at layer %d", t.From), ColumnAxis: fmt.Sprintf("first choice at layer %d", t.From+1),
			Value: "share of the row", Unit: "%", Reference: &Reference{100 / float64(e), "even: " + short(100/float64(e), 3)},
		})
		options = append(options, fmt.Sprintf("%d to %d", t.From, t.From+1))
	}
	return figs, options
}

// Information draws the mutual information of successive layers, in bits.
func Information(r *trace.Summary) Lines {
	l := Lines{
		Info: Info{Name: "information", Title: "What a layer says about the next",
			Caption: "Mutual information of the choices at a layer and the next. Entropy of a choice: at most log2 E bits."},
		XAxis: "from layer", YAxis: "mutual information (bits)", IntegerX: true,
	}
	var first, all Series
	for _, t := range r.Transitions {
		x := float64(t.From)
		first.X, first.Y = append(first.X, x), append(first.Y, t.FirstMutualInformation)
		all.X, all.Y = append(all.X, x), append(all.Y, t.MutualInformation)
	}
	if len(first.X) > 0 {
		l.Curves = []Curve{{"first choices", first}, {"all pairs of choices", all}}
	}
	return l
}

// Flows are Sankey diagrams of the first choices through runs of four layers.
func Flows(r *trace.Summary) (figs []Figure, options []string) {
	const run = 3
	n := len(r.Transitions)
	starts := []int{}
	for s := 0; s+run < n; s += run {
		starts = append(starts, s)
	}
	if n > 0 {
		starts = append(starts, max(0, n-run))
	}
	for _, k := range some(len(starts), 6) {
		s := starts[k]
		f := Sankey{
			Info: Info{Name: fmt.Sprintf("flow-%d", s), Title: fmt.Sprintf("First choices, layers %d to %d", s, min(s+run, n)),
				Caption: "A node is as high as the tokens that its expert saw as their first choice, a ribbon as wide as those that went on together; its colour is where they came from."},
			Unit: "tokens", Stages: []string{fmt.Sprint("layer ", s)},
		}
		for i := s; i < min(s+run, n); i++ {
			e := len(r.Transitions[i].FirstCounts)
			d := Dense{R: e, C: e, Values: make([]float64, 0, e*e)}
			for _, row := range r.Transitions[i].FirstCounts {
				for _, v := range row {
					d.Values = append(d.Values, float64(v))
				}
			}
			f.Flows, f.Stages = append(f.Flows, d), append(f.Stages, fmt.Sprint("layer ", i+1))
		}
		figs, options = append(figs, f), append(options, fmt.Sprintf("%d to %d", s, min(s+run, n)))
	}
	return figs, options
}

// CoactivationMaps map for layers the share of tokens that chose both of two
// experts, in percent. Large models show some of the layers.
func CoactivationMaps(r *trace.Summary) (figs []Figure, options []string) {
	if r.Model.TopK < 2 || r.Tokens == 0 {
		return nil, nil
	}
	e := max(1, r.Model.Experts)
	for _, l := range some(len(r.Coactivation), maxCells/(e*e)) {
		d := Dense{R: e, C: e, Values: make([]float64, 0, e*e)}
		for i, row := range r.Coactivation[l] {
			for j, v := range row {
				if i == j {
					d.Values = append(d.Values, math.NaN())
				} else {
					d.Values = append(d.Values, 100*float64(v)/float64(r.Tokens))
				}
			}
		}
		k := float64(r.Model.TopK)
		even := 100 * k * (k - 1) / (float64(e) * math.Max(1, float64(e-1)))
		figs = append(figs, HeatMap{
			Info: Info{Name: fmt.Sprintf("together-%d", l), Title: fmt.Sprintf("Chosen together at layer %d", l),
				Caption: "Share of the tokens that chose both experts."},
			Data: d, RowAxis: "expert", ColumnAxis: "expert", Value: "share of tokens", Unit: "%", Reference: &Reference{even, "even: " + short(even, 3)},
		})
		options = append(options, strconv.Itoa(l))
	}
	return figs, options
}
