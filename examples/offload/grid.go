package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/viz"
)

// grid is what -load and -resident ask for.
type grid struct {
	loads    []time.Duration
	resident []float64 // percent
}

func newGrid(loads, resident string) (g grid, err error) {
	for _, s := range cli.List(loads) {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return g, fmt.Errorf("-load %q: must be a positive time, as 3ms", s)
		}
		g.loads = append(g.loads, d)
	}
	for _, s := range cli.List(resident) {
		x, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		if err != nil || !(x > 0 && x <= 100) {
			return g, fmt.Errorf("-resident %q: must be a percentage above 0, at most 100", s)
		}
		g.resident = append(g.resident, x)
	}
	return g, nil
}

// configs returns cfg in each cell: of each time of reading, with each number of experts.
func (g *grid) configs(cfg prefetch.Config, slots []int) (cfgs []prefetch.Config) {
	for _, load := range g.loads {
		for _, n := range slots {
			c := cfg
			if c.Capacity = n; load > 0 {
				c.Load, c.Latency = load, 0
			}
			cfgs = append(cfgs, c)
		}
	}
	return cfgs
}

// cell is a column of the table: a link, and a share of experts that are resident.
type cell struct {
	LoadSeconds float64 `json:"load_seconds"`
	Resident    float64 `json:"resident"`
	// Take is the row to take, of those that do not know the future.
	Take string `json:"take"`
	// Milliseconds a token, of that row, of the best one without a predictor, and of the
	// best one that knows the future; 0: none.
	Milliseconds float64 `json:"ms_per_token"`
	Without      float64 `json:"without_ms_per_token"`
	Bound        float64 `json:"bound_ms_per_token"`
}

func (c cell) String() string { return fmt.Sprintf("%v %.0f%%", load(c.LoadSeconds), 100*c.Resident) }

// load rounds a time of reading for reading.
func load(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	digits := time.Duration(math.Pow(10, max(0, math.Floor(math.Log10(float64(max(1, d))))-2)))
	return d.Round(digits)
}

// advice is which row to take.
type advice struct {
	Cells []cell `json:"cells"`
	// Take is the row that loses least to the best of each cell, where that is most, and
	// Loss how much of its time that is.
	Take string             `json:"take"`
	Loss float64            `json:"loss"`
	rows [][]*cli.Telemetry // [row][cell]
}

// near is the share of time by which rows are equal: the one without a predictor is
// then taken, or else the one that decides faster.
const near = .01

// newAdvice compares simulations, those of a row one after the other.
func newAdvice(all []*cli.Telemetry, columns int) *advice {
	a := &advice{rows: slices.Collect(slices.Chunk(all, columns))}
	losses := make([]float64, len(a.rows))
	for i, t := range a.rows[0] {
		c := cell{LoadSeconds: t.LoadSeconds, Resident: t.Decode.Resident}
		at := make([]float64, len(a.rows))
		least := func(best *float64, x float64) {
			if *best == 0 || x < *best {
				*best = x
			}
		}
		best := 0.
		for j, r := range a.rows {
			at[j] = milliseconds(r[i])
			switch {
			case future(r[i]):
				least(&c.Bound, at[j])
				continue
			case r[i].Decode.Predictor == "":
				least(&c.Without, at[j])
			}
			least(&best, at[j])
		}
		for j := range at {
			at[j] = at[j]/best - 1
			losses[j] = max(losses[j], at[j])
		}
		if j := a.choose(at); j >= 0 {
			c.Take, c.Milliseconds = a.rows[j][i].Label, milliseconds(a.rows[j][i])
		}
		a.Cells = append(a.Cells, c)
	}
	if j := a.choose(losses); j >= 0 {
		a.Take, a.Loss = a.rows[j][0].Label, losses[j]
	}
	return a
}

// choose returns the row with the least loss, or one that is close and decides in less
// time; -1: all know the future.
func (a *advice) choose(losses []float64) int {
	least, best := math.Inf(1), -1
	for j, r := range a.rows {
		if !future(r[0]) {
			least = min(least, losses[j])
		}
	}
	for j, r := range a.rows {
		if !future(r[0]) && losses[j] <= least+near && (best < 0 || r[0].DecisionSeconds < a.rows[best][0].DecisionSeconds ||
			r[0].DecisionSeconds == a.rows[best][0].DecisionSeconds && losses[j] < losses[best]) {
			best = j
		}
	}
	return best
}

func milliseconds(t *cli.Telemetry) float64 {
	return 1000 * t.Decode.Seconds / float64(max(1, t.Decode.Tokens))
}

// future reports whether a row knows it.
func future(t *cli.Telemetry) bool {
	return t.Decode.Policy == prefetch.OPT || t.Decode.Predictor == speculate.Oracle{}.Name()
}

// write prints a row for each variant, with the least time of each column marked, and
// what to take.
func (a *advice) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "ms/token\tdecision us\t")
	for _, c := range a.Cells {
		fmt.Fprintf(tw, "%v \t", c)
	}
	fmt.Fprintln(tw)
	for _, r := range a.rows {
		decision := "-"
		if s := r[0].DecisionSeconds; s > 0 {
			decision = fmt.Sprintf("%.1f", 1e6*s)
		}
		fmt.Fprintf(tw, "%s\t%s\t", r[0].Label, decision)
		for i, t := range r {
			mark := " "
			if t.Label == a.Cells[i].Take && milliseconds(t) == a.Cells[i].Milliseconds {
				mark = "*"
			}
			fmt.Fprintf(tw, "%.2f%s\t", milliseconds(t), mark)
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "* to take: the fastest that does not know the future, or within %.0f %% of it the one without a predictor or that decides faster\n%s\n",
		100*near, strings.Join(a.sentences(), "\n"))
	return err
}

// sentences say what to take.
func (a *advice) sentences() (lines []string) {
	for _, c := range a.Cells {
		if c.Take == "" { // all rows know the future
			continue
		}
		line := fmt.Sprintf("%v: %s, %.2f ms/token", c, c.Take, c.Milliseconds)
		if gain := 1 - c.Milliseconds/c.Without; c.Without > 0 && gain > 0 {
			line += fmt.Sprintf(", %.0f %% less than without a predictor", 100*gain)
		}
		if c.Bound > 0 {
			line += fmt.Sprintf("; knowing the future %.2f", c.Bound)
		}
		lines = append(lines, line)
	}
	if slices.ContainsFunc(a.Cells, func(c cell) bool { return c.Take != a.Take }) {
		lines = append(lines, fmt.Sprintf("for all of these: %s, at most %.0f %% slower than the fastest", a.Take, 100*a.Loss))
	}
	return lines
}

// section is the part of a report about the table: milliseconds, and the time that rows
// save against the best one without a predictor.
func (a *advice) section() viz.Section {
	t := viz.Table{Info: viz.Info{Name: "offload-choice", Title: "Time per token",
		Caption: "Simulated, in ms by time of reading an expert and share of resident experts. Rows that know the future, oracle and opt, are bounds."},
		Columns: []viz.Column{{Name: "policy"}, {Name: "decision", Unit: "µs", Digits: 1}}}
	f := viz.HeatMap{Info: viz.Info{Name: "offload-saved", Title: "Time saved per token", Caption: "Against the fastest row without a predictor; negative: slower."},
		RowAxis: "policy", ColumnAxis: "time to read an expert, share of resident experts", Value: "time saved", Unit: "%", Diverging: true}
	for _, c := range a.Cells {
		t.Columns, f.Columns = append(t.Columns, viz.Column{Name: c.String(), Digits: 2}), append(f.Columns, c.String())
	}
	for _, r := range a.rows {
		row, saved := []any{r[0].Label, 1e6 * r[0].DecisionSeconds}, make([]float64, len(r))
		for i, x := range r {
			if row = append(row, milliseconds(x)); a.Cells[i].Without > 0 {
				saved[i] = 100 * (1 - milliseconds(x)/a.Cells[i].Without)
			}
		}
		t.Rows = append(t.Rows, row)
		f.Rows, f.Data = append(f.Rows, r[0].Label), append(f.Data, saved)
	}
	s := viz.Section{ID: "offload", Title: "Experts elsewhere", Text: a.sentences(), Blocks: []viz.Block{t}}
	if !slices.ContainsFunc(a.Cells, func(c cell) bool { return c.Without == 0 }) {
		s.Blocks = []viz.Block{viz.Figures{List: []viz.Figure{f}}, t}
	}
	return s
}
