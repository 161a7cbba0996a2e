package viz

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// roundTrace is one document of L=3 layers, E=5, K=1: layer l of token t chooses
// expert (t+l)%4.
func roundTrace(tokens int) speculate.Data {
	r := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Layers: 3, Experts: 5, TopK: 1}, NoWeights: true},
		Rule:   tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{int32((s.Position + s.Layer) % 4)} }),
	}
	return speculate.Slice(r.Header, []*trace.Document{r.Document("", "round", make([]int32, tokens))})
}

func TestExpertCache(t *testing.T) {
	ctx := context.Background()
	data := roundTrace(10)
	points, err := prefetch.HitRates(ctx, data, prefetch.Config{}, []int{9, 12})
	require.NoError(t, err)
	r, err := prefetch.Simulate(ctx, data, prefetch.Config{Capacity: 4, Load: 3 * time.Millisecond, Compute: 2 * time.Millisecond, Predictor: speculate.Oracle{},
		Horizon: speculate.Horizon{Layers: 1}, Prefetch: 2, Events: 1000})
	require.NoError(t, err)
	study := CacheStudy{Names: []string{"LRU"}, Rates: [][]prefetch.Point{points}, Labels: []string{"ahead"}, Costs: []*prefetch.Result{r},
		Timeline: r, From: 1, To: 2}
	s, err := study.section(trace.Model{Layers: 3})
	require.NoError(t, err)
	require.Len(t, s.Blocks, 3)
	lines := s.Blocks[0].(Figures).List[0].(Lines)
	assert.Equal(t, Curve{Name: "LRU", X: []float64{3, 4}, Y: []float64{0, 60}}, lines.Curves[0])
	// 10 misses of 3 ms and 20 late by 1 ms, 60 ms of compute, in 10 tokens.
	assert.Equal(t, fmt.Sprintf("[[ahead %v 0 %v 3 0 5 %v]]", 100*4./15, 100*2./3, 10/.11), fmt.Sprint(s.Blocks[1].(Table).Rows))
	line := s.Blocks[2].(Figures).List[0].(timeline)
	var got []string
	for _, e := range line.Events {
		got = append(got, fmt.Sprintf("%s %s %.0f-%.0f", e.Kind, e.Label, e.Start, e.End))
	}
	want := "copy on demand 0.1 0-3; wait  0-3; compute 0 3-5; prefetch 1.2 3-6; wait  5-6; compute 1 6-8; prefetch 2.3 6-9; wait  8-9; compute 2 9-11"
	assert.Equal(t, want, strings.Join(got, "; "))
	for _, b := range s.Blocks {
		if f, ok := b.(Figures); ok {
			assert.NoError(t, f.List[0].check())
		}
	}
	assert.Empty(t, prefetchTimeline(r, stacks{}, 20, 21).Events)
	study.Names = nil
	_, err = study.section(trace.Model{Layers: 3})
	assert.Error(t, err, "a curve without a name")
}
