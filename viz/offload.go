package viz

import (
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate/prefetch"
)

// OffloadRun is decoding with some of the experts elsewhere, by a policy.
type OffloadRun struct {
	// Name is the policy's.
	Name string
	// Measured is a real run, and Simulated what a simulation says about it. One of
	// them may be nil.
	Measured, Simulated *prefetch.Result
}

// result is the run, or its simulation.
func (r OffloadRun) result() *prefetch.Result {
	if r.Measured != nil {
		return r.Measured
	}
	return r.Simulated
}

// OffloadSection is the part of a report about runs of one model: speed, what became
// of experts that were needed, and stalls by layer. It belongs to [Study].Extra or to
// a [Report] of its own.
func OffloadSection(text []string, runs []OffloadRun) (Section, error) {
	s := Section{ID: "offload", Title: "Experts elsewhere", Text: text}
	speed := bars{Info: Info{Name: "offload-speed", Title: "Speed"}, Axis: "tokens/s"}
	needed := parts{Info: Info{Name: "offload-experts", Title: "Experts when they were needed"}, Axis: "share of requests (%)",
		Names: []string{"resident", "prefetched", "computed by the host", "late", "missing"}}
	stalls := Lines{Info: Info{Name: "offload-stalls", Title: "Waiting for experts by layer", Caption: "Time that a layer waited for experts, mean over decoded tokens."},
		XAxis: "layer", YAxis: "stall (ms/token)", IntegerX: true}
	measured, simulated := Curve{Name: "measured"}, Curve{Name: "simulated"}
	host := false
	for i, r := range runs {
		if r.Measured == nil && r.Simulated == nil {
			return s, fmt.Errorf("viz: offload: run %d, %q, has neither a measurement nor a simulation", i, r.Name)
		}
		x := r.result()
		speed.Categories, needed.Categories = append(speed.Categories, r.Name), append(needed.Categories, r.Name)
		measured.Y, simulated.Y = append(measured.Y, tokensPerSecond(r.Measured)), append(simulated.Y, tokensPerSecond(r.Simulated))
		needed.Values = append(needed.Values, neededShares(&x.Total))
		host = host || x.Total.Host > 0
		c := Curve{Name: r.Name}
		for l := range x.Layers {
			c.add(float64(l), 1000*x.Layers[l].StallSeconds/math.Max(1, float64(x.Tokens)))
		}
		stalls.Curves = append(stalls.Curves, c)
	}
	if !host {
		needed.Names = slices.Delete(needed.Names, 2, 3)
		needed.tones = slices.Delete(slices.Clone(partTones), 2, 3)
		for i, v := range needed.Values {
			needed.Values[i] = slices.Delete(v, 2, 3)
		}
	}
	for _, c := range []Curve{measured, simulated} {
		if hasValue(c.Y) {
			speed.Groups = append(speed.Groups, c)
		}
	}
	_, needed.row = speed.heights() // side by side
	s.add(Panels{Info: Info{Name: "offload-policies", Title: "Decoding by policy",
		Caption: "Left: tokens decoded in a second. Right: what became of the experts that layers needed: resident already, prefetched in time, late (still being prefetched), or missing (copied on demand)."},
		Figures: []Figure{speed, needed}})
	s.add(stalls)
	s.Blocks = append(s.Blocks, offloadTable(runs))
	return s, nil
}

func hasValue(y []float64) bool {
	for _, v := range y {
		if !math.IsNaN(v) {
			return true
		}
	}
	return false
}

func tokensPerSecond(r *prefetch.Result) float64 {
	if r == nil {
		return math.NaN()
	}
	return r.TokensPerSecond
}

// neededShares are percentages of requests: resident, prefetched in time, computed by
// the host, late, missing.
func neededShares(c *prefetch.Counts) []float64 {
	inTime := max(0, c.Used-c.Late)
	shares := []float64{float64(c.Hits - inTime), float64(inTime), float64(c.Host), float64(c.Late), float64(c.Misses)}
	for i := range shares {
		shares[i] *= 100 / float64(c.Requests) // NaN without requests
	}
	return shares
}

// offloadTable has a row for each run and for each simulation.
func offloadTable(runs []OffloadRun) Table {
	t := Table{
		Info: Info{Name: "offload-runs", Title: "Decoding by policy", Caption: "wasted: share of prefetches that were not needed; stall: time that layers waited for experts."},
		Columns: []Column{{Name: "policy"}, {Name: "kind"}, {Name: "resident", Unit: "%", Digits: 1}, {Name: "speed", Unit: "tokens/s", Digits: 1, Best: 1}, {Name: "time per token", Unit: "ms", Digits: 2, Best: -1},
			{Name: "stall per token", Unit: "ms", Digits: 2, Best: -1}, {Name: "copied per token", Unit: "experts", Digits: 2}, {Name: "late", Unit: "%", Digits: 1}, {Name: "missing", Unit: "%", Digits: 1}, {Name: "wasted", Unit: "%", Digits: 1}},
	}
	for _, run := range runs {
		for i, r := range []*prefetch.Result{run.Measured, run.Simulated} {
			if r == nil {
				continue
			}
			c := &r.Total
			percent := func(a, b int64) float64 { return 100 * float64(a) / float64(b) }
			t.Rows = append(t.Rows, []any{run.Name, []string{"measured", "simulated"}[i], 100 * r.Resident, r.TokensPerSecond, 1000 * r.Seconds / float64(r.Tokens),
				1000 * r.StallPerToken, r.TransfersPerToken, percent(c.Late, c.Requests), percent(c.Misses, c.Requests), percent(c.Wasted, c.Prefetched)})
		}
	}
	return t
}
