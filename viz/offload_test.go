package viz

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// offloaded is a result of three layers.
func offloaded(speed float64, c prefetch.Counts, stalls ...float64) *prefetch.Result {
	r := &prefetch.Result{Resident: .5, Tokens: 4, Total: c, TokensPerSecond: speed, Seconds: 4 / speed}
	for _, s := range stalls {
		r.Layers = append(r.Layers, prefetch.Counts{StallSeconds: s})
		r.StallPerToken += s / 4
	}
	return r
}

func TestOffloadSection(t *testing.T) {
	runs := []OffloadRun{
		{Name: "LRU", Measured: offloaded(10, prefetch.Counts{Requests: 40, Hits: 30, Misses: 10, Transfers: 10}, .004, .008, .012), Simulated: offloaded(11, prefetch.Counts{Requests: 40, Hits: 40}, 0, 0, 0)},
		{Name: "prefetch", Measured: offloaded(16, prefetch.Counts{Requests: 40, Hits: 33, Late: 2, Misses: 5, Prefetched: 12, Used: 8, Wasted: 4}, 0, 0, .002)},
		{Name: "simulated only", Simulated: offloaded(1e6, prefetch.Counts{Requests: 3, Hits: 3}, 0, 0, 0)},
	}
	s, err := OffloadSection([]string{"Text."}, runs)
	require.NoError(t, err)
	panels := s.Blocks[0].(Figures).List[0].(Panels)
	speed, needed := panels.Figures[0].(bars), panels.Figures[1].(parts)
	assert.Equal(t, []string{"LRU", "prefetch", "simulated only"}, speed.Categories)
	assert.Equal(t, "[10 16 NaN] [11 NaN 1e+06]", fmt.Sprint(speed.Groups[0].Y, speed.Groups[1].Y))
	assert.Equal(t, []string{"resident", "prefetched", "late", "missing"}, needed.Names)
	assert.Equal(t, [][]float64{{75, 0, 0, 25}, {67.5, 15, 5, 12.5}, {100, 0, 0, 0}}, needed.Values)
	stalls := s.Blocks[1].(Figures).List[0].(Lines)
	assert.Equal(t, []float64{1, 2, 3}, stalls.Curves[0].Y)
	assert.Equal(t, "[prefetch measured 50 16 62.5 0.5 0 5 12.5 33.333333333333336]", fmt.Sprint(s.Blocks[2].(Table).Rows[2]))
	runs[1].Measured.Total = prefetch.Counts{Requests: 10, Hits: 4, Host: 6}
	s, err = OffloadSection(nil, runs)
	require.NoError(t, err)
	needed = s.Blocks[0].(Figures).List[0].(Panels).Figures[1].(parts)
	assert.Equal(t, [][]float64{{75, 0, 0, 0, 25}, {40, 0, 60, 0, 0}, {100, 0, 0, 0, 0}}, needed.Values)
	var html bytes.Buffer
	require.NoError(t, Report{Title: "x", Sections: []Section{s}}.WriteHTML(&html))
	assert.Contains(t, html.String(), "computed by the host")
	_, err = OffloadSection(nil, append(runs, OffloadRun{Name: "empty"}))
	assert.ErrorContains(t, err, `run 3, "empty"`)
	s, err = OffloadSection(nil, nil)
	require.NoError(t, err)
	assert.NoError(t, Report{Title: "x", Sections: []Section{s}}.WriteHTML(&html), "without runs")
}

func TestPartsCheck(t *testing.T) {
	f := parts{Info: Info{Name: "x"}, Categories: []string{"a", "b"}, Names: []string{"p", "q"}, Values: [][]float64{{30, 70}, {math.NaN(), math.NaN()}}}
	assert.NoError(t, f.check())
	for _, bad := range [][]float64{{30}, {30, 80}, {-1, 5}} {
		f.Values[0] = bad
		assert.Error(t, f.check(), "%v", bad)
	}
}
