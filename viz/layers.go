package viz

import (
	"fmt"
	"math"

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
	e, x := max(1, r.Model.Experts), stacksOf(r.Model)
	for _, i := range some(len(r.Transitions), maxCells/(e*e)) {
		t := r.Transitions[i]
		sums := make([]int64, e)
		for i, row := range t.FirstCounts {
			for _, v := range row {
				sums[i] += v
			}
		}
		from, to := x.layer(t.From), x.layer(t.From+1)
		f.add(fmt.Sprintf("%s to %s", x.number(t.From), x.number(t.From+1)), HeatMap{
			Info: Info{Name: fmt.Sprintf("transition-%d", t.From), Title: fmt.Sprintf("From %s to %s", from, to),
				Caption: "Of the tokens with this first choice, the share of each next first choice. Every row adds up to 100 %; grey: never chosen."},
			// 0 of 0 is NaN: no value.
			Data:    newGrid(e, e, func(i, j int) float64 { return 100 * float64(t.FirstCounts[i][j]) / float64(sums[i]) }),
			RowAxis: "first choice at " + from, ColumnAxis: "first choice at " + to,
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
		XAxis: "from layer", YAxis: "mutual information (bits)", IntegerX: true, Curves: []Curve{first, all}, layers: stacksOf(r.Model),
	}
}

// flows are Sankey diagrams of the first choices through runs of four layers.
func flows(r *trace.Summary) (f Figures) {
	f.Label = "Layers"
	const run = 3
	var runs [][]trace.TransitionSummary // of a stack
	for ts := r.Transitions; len(ts) > 0; {
		n := 1
		for n < len(ts) && ts[n].From == ts[n-1].From+1 {
			n++
		}
		for s := 0; s+run < n; s += run {
			runs = append(runs, ts[s:s+run])
		}
		runs, ts = append(runs, ts[max(0, n-run):n]), ts[n:]
	}
	x := stacksOf(r.Model)
	for _, k := range some(len(runs), 6) {
		from := runs[k][0].From
		to := from + len(runs[k])
		s := Sankey{
			Info: Info{Name: fmt.Sprintf("flow-%d", from), Title: fmt.Sprintf("First choices, layers %s to %s", x.number(from), x.number(to)),
				Caption: "The height of a node is the number of tokens whose first choice is this expert; the width of a ribbon is the number of tokens that go from one expert to the other. Its colour is that of the expert on its left."},
			Unit: "tokens", Stages: []string{x.layer(from)},
		}
		for i, t := range runs[k] {
			e := len(t.FirstCounts)
			s.Flows = append(s.Flows, newGrid(e, e, func(i, j int) float64 { return float64(t.FirstCounts[i][j]) }))
			s.Stages = append(s.Stages, x.layer(from+i+1))
		}
		f.add(fmt.Sprintf("%s to %s", x.number(from), x.number(to)), s)
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
	k, x := float64(r.Model.TopK), stacksOf(r.Model)
	for _, l := range some(len(r.Coactivation), maxCells/(e*e)) {
		tokens := float64(r.Tokens)
		if x.names != nil {
			tokens = float64(routed(&r.Overall.Layers[l]))
		}
		f.add(x.number(l), HeatMap{
			Info: Info{Name: fmt.Sprintf("together-%d", l), Title: "Chosen together at " + x.layer(l),
				Caption: "Share of the tokens that chose both experts."},
			Data: newGrid(e, e, func(i, j int) float64 {
				if i == j {
					return math.NaN()
				}
				return 100 * float64(r.Coactivation[l][i][j]) / tokens
			}),
			RowAxis: "expert", ColumnAxis: "expert", Value: "share of tokens", Unit: "%",
			Reference: even(100 * k * (k - 1) / (float64(e) * math.Max(1, float64(e-1)))),
		})
	}
	return f
}
