package viz

import (
	"fmt"
	"math"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

// some returns at most limit of the numbers 0..n-1, evenly spaced, the first and
// the last among them.
func some(n, limit int) []int {
	if limit < 1 || n < 1 {
		return nil
	}
	limit = min(limit, n)
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

// maxCells is the maximum number of cells of a report's choice of figures.
const maxCells = 40000

// transitionMaps shows, for layers and their next, the share of each expert
// given the first choice before it, in percent. Large models show some layers.
func transitionMaps(r *trace.Summary) (f Figures) {
	f.Label = "Layers"
	e := max(1, r.Model.Experts)
	for _, i := range some(len(r.Transitions), maxCells/(e*e)) {
		t := r.Transitions[i]
		sums := make([]int64, e)
		for i, row := range t.FirstCounts {
			for _, v := range row {
				sums[i] += v
			}
		}
		f.add(fmt.Sprintf("%d to %d", t.From, t.From+1), HeatMap{
			Info: Info{Name: fmt.Sprintf("transition-%d", t.From), Title: fmt.Sprintf("From layer %d to layer %d", t.From, t.From+1),
				Caption: "Of the tokens with this first choice, the share of each next first choice. Every row adds up to 100 %; grey: never chosen."},
			// 0 of 0 is NaN: no value.
			Data:    newGrid(e, e, func(i, j int) float64 { return 100 * float64(t.FirstCounts[i][j]) / float64(sums[i]) }),
			RowAxis: fmt.Sprintf("first choice at layer %d", t.From), ColumnAxis: fmt.Sprintf("first choice at layer %d", t.From+1),
			Value: "share of the row", Unit: "%", Reference: even(100 / float64(e)),
		})
	}
	return f
}

// information shows the mutual information of successive layers, in bits.
func information(r *trace.Summary) Lines {
	first, all := Curve{Name: "first choices"}, Curve{Name: "all pairs of choices"}
	for _, t := range r.Transitions {
		first.add(float64(t.From), t.FirstMutualInformation)
		all.add(float64(t.From), t.MutualInformation)
	}
	return Lines{
		Info: Info{Name: "information", Title: "Information about the next layer",
			Caption: "Mutual information of the choices at a layer and at the next. The entropy of a choice is at most log2 E bits."},
		XAxis: "from layer", YAxis: "mutual information (bits)", IntegerX: true, Curves: []Curve{first, all},
	}
}

// flows are Sankey diagrams of the first choices through runs of four layers.
func flows(r *trace.Summary) (f Figures) {
	f.Label = "Layers"
	const run = 3
	n := len(r.Transitions)
	var starts []int
	for s := 0; s+run < n; s += run {
		starts = append(starts, s)
	}
	if n > 0 {
		starts = append(starts, max(0, n-run))
	}
	for _, k := range some(len(starts), 6) {
		from := starts[k]
		to := min(from+run, n)
		s := Sankey{
			Info: Info{Name: fmt.Sprintf("flow-%d", from), Title: fmt.Sprintf("First choices, layers %d to %d", from, to),
				Caption: "The height of a node is the number of tokens whose first choice is this expert; the width of a ribbon is the number of tokens that go from one expert to the other. Its colour is that of the expert on its left."},
			Unit: "tokens", Stages: []string{fmt.Sprint("layer ", from)},
		}
		for i, t := range r.Transitions[from:to] {
			e := len(t.FirstCounts)
			s.Flows = append(s.Flows, newGrid(e, e, func(i, j int) float64 { return float64(t.FirstCounts[i][j]) }))
			s.Stages = append(s.Stages, fmt.Sprint("layer ", from+i+1))
		}
		f.add(fmt.Sprintf("%d to %d", from, to), s)
	}
	return f
}

// coactivationMaps shows for layers the share of tokens that chose both of two
// experts, in percent. Large models show some layers.
func coactivationMaps(r *trace.Summary) (f Figures) {
	f.Label = "Layer"
	if r.Model.TopK < 2 || r.Tokens == 0 {
		return f
	}
	e := max(1, r.Model.Experts)
	k := float64(r.Model.TopK)
	for _, l := range some(len(r.Coactivation), maxCells/(e*e)) {
		f.add(strconv.Itoa(l), HeatMap{
			Info: Info{Name: fmt.Sprintf("together-%d", l), Title: fmt.Sprintf("Chosen together at layer %d", l),
				Caption: "Share of the tokens that chose both experts."},
			Data: newGrid(e, e, func(i, j int) float64 {
				if i == j {
					return math.NaN()
				}
				return 100 * float64(r.Coactivation[l][i][j]) / float64(r.Tokens)
			}),
			RowAxis: "expert", ColumnAxis: "expert", Value: "share of tokens", Unit: "%",
			Reference: even(100 * k * (k - 1) / (float64(e) * math.Max(1, float64(e-1)))),
		})
	}
	return f
}
