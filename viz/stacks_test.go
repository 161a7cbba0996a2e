package viz

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// stacksSummary is of a model of an encoder of 2 layers and a decoder of 5.
func stacksSummary(t *testing.T, topK int) *trace.Summary {
	h := trace.Header{Model: trace.Model{Layers: 7, Experts: 4, TopK: topK, Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 2}, {Name: trace.Decoder, Layers: 5}}}, Dropped: true}
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
	require.NoError(t, err)
	r := tracetest.Router{Header: h, Rule: tracetest.Random(1), Prompt: 8, Capacity: 2}
	for _, d := range r.Documents(6, 30, 1) {
		require.NoError(t, s.Add(d))
	}
	return s.Summary()
}

// Layers are named by their stack, flows stay within it, and curves have a gap.
func TestStacks(t *testing.T) {
	r := stacksSummary(t, 2)
	x := stacksOf(r.Model)
	assert.Equal(t, []string{"encoder 0", "encoder 1", "decoder 0", "decoder 1", "decoder 2", "decoder 3", "decoder 4"}, x.names)
	assert.Equal(t, "decoder layer 1", x.layer(3))
	assert.Equal(t, [][2]int{{0, 2}, {2, 4}}, x.parts([]float64{0, 1, 2, 5}))
	assert.Equal(t, [][2]int{{0, 1}}, x.parts([]float64{5}))
	assert.Equal(t, [][2]int{{0, 3}}, stacks{}.parts([]float64{1, 2, 3}))
	one := stacksOf(trace.Model{Layers: 3, Experts: 4, TopK: 1})
	assert.Nil(t, one.names)
	assert.Equal(t, "layer 2", one.layer(2))
	assert.Equal(t, []string{"encoder 0 to encoder 1", "decoder 0 to decoder 3", "decoder 1 to decoder 4"}, flows(r).Options)
	assert.Equal(t, []string{"encoder 0 to encoder 1", "decoder 0 to decoder 1", "decoder 1 to decoder 2", "decoder 2 to decoder 3", "decoder 3 to decoder 4"}, transitionMaps(r).Options)
	// Of the encoder's tokens, each chose one pair of experts.
	sum := 0.0
	for _, row := range coactivationMaps(r).List[1].(HeatMap).Data {
		for _, v := range row {
			if v == v {
				sum += v
			}
		}
	}
	assert.InDelta(t, 200, sum, 1e-9)
	assert.Len(t, dropped(r).Curves, 1)
	// Without the decoder's tokens, its layers do not count.
	encoder := *r
	encoder.Overall.Layers = slices.Clone(r.Overall.Layers)
	for l := 2; l < 7; l++ {
		encoder.Overall.Layers[l] = trace.LayerSummary{Layer: l, Counts: make([]int64, 4), FirstCounts: make([]int64, 4), Share: make([]float64, 4)}
	}
	entropy := func(l *trace.LayerSummary) float64 { return l.Usage.Entropy }
	assert.InDelta(t, (r.Overall.Layers[0].Usage.Entropy+r.Overall.Layers[1].Usage.Entropy)/2, meanOver(encoder.Overall.Layers, entropy), 1e-12)
	assert.True(t, math.IsNaN(usageMap(r.Model, &encoder.Overall, "x", "").Data[1][4]))
	assert.True(t, math.IsNaN(byLayer("", encoder.Overall.Layers, entropy).Y[4]))
	curves := stackCurves(Study{Name: "m", Routing: r}, []int{0, 1, 2, 3, 4, 5, 6}, []float64{1, 2, 3, 4, 5, 6, 7})
	require.Len(t, curves, 2)
	assert.Equal(t, Curve{Name: "m, encoder", X: []float64{0, 100}, Y: []float64{1, 2}}, curves[0])
	assert.Equal(t, []float64{0, 25, 50, 75, 100}, curves[1].X)
	rows := dropped(r).Table().Rows
	assert.Equal(t, "encoder 1", rows[1][1])
	assert.Equal(t, 0., rows[2][2])
	r.Overall.Layers[0].Dropped = nil
	assert.Empty(t, dropped(r).Curves)
	events := []prefetch.Event{{Layer: 3, Kind: prefetch.Compute, End: 1}, {Layer: 4, Expert: 2, Kind: prefetch.Demand, End: .5}}
	tl := prefetchTimeline(&prefetch.Result{Events: events}, x, 0, 1)
	require.Len(t, tl.Events, 2)
	assert.Equal(t, []string{"1", "2.2"}, []string{tl.Events[0].Label, tl.Events[1].Label})
}
