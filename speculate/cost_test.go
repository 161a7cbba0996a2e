package speculate

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sleeper takes a known time, and counts what it is asked.
type sleeper struct {
	Frequency
	takes time.Duration
	asked map[[2]int]int // (token, layer)
	h     Horizon
}

func (s *sleeper) Name() string            { return "sleeper" }
func (s *sleeper) Supports(h Horizon) bool { return h == s.h }
func (s *sleeper) Predict(views []View, out []float32) error {
	for _, v := range views {
		s.asked[[2]int{v.Token(), v.Layer()}]++
	}
	for began := time.Now(); time.Since(began) < s.takes; {
	}
	return nil
}

func TestLatency(t *testing.T) {
	h, doc, ctx := testHeader(), testDoc(40, 9), t.Context()
	hs := []Horizon{{Layers: 1}, {Layers: 2}, {KnownID: true}}
	for _, hz := range hs {
		p := &sleeper{takes: 50 * time.Microsecond, asked: map[[2]int]int{}, h: hz}
		d, err := latency(ctx, p, h, doc, hs, time.Hour)
		require.NoError(t, err, "%v", hz)
		assert.GreaterOrEqual(t, d, 50*time.Microsecond, "%v", hz)
		assert.LessOrEqual(t, d, 500*time.Microsecond, "%v", hz)
		for x, n := range p.asked {
			assert.Equal(t, 1, n, "%v: token %d, layer %d", hz, x[0], x[1])
			assert.GreaterOrEqual(t, x[1], hz.FirstLayer(), "%v: token %d, layer %d", hz, x[0], x[1])
		}
		assert.Len(t, p.asked, len(doc.Tokens)*(tL-hz.FirstLayer()), "%v", hz)
	}
	slow := &sleeper{takes: time.Millisecond, asked: map[[2]int]int{}, h: hs[0]}
	_, err := latency(ctx, slow, h, doc, hs, 6*time.Millisecond)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(slow.asked), 4*(tL-1))
	d, err := latency(ctx, slow, h, doc, hs[1:], time.Second)
	assert.EqualValues(t, 0, d)
	assert.NoError(t, err)
	stopped, stop := context.WithCancel(ctx)
	stop()
	_, err = latency(stopped, slow, h, doc, hs, time.Second)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = latency(ctx, slow, h, &trace.Document{Dataset: "a", ID: "none"}, hs, time.Second)
	assert.ErrorContains(t, err, "none")
}

func TestMeasureCosts(t *testing.T) {
	ps, test := fitted(t), testData(30, 50, 3)
	o := EvaluateOptions{Horizons: testHorizons, Resamples: 100}
	r, err := Evaluate(t.Context(), test, o, ps...)
	require.NoError(t, err)
	r.Costs, err = MeasureCosts(t.Context(), test, testHorizons, map[string]Cost{"ensemble": {TrainSeconds: 12}}, ps...)
	require.NoError(t, err)
	members := int64(0)
	for _, p := range ps {
		c := r.Costs[p.Name()]
		switch p.Name() {
		case "oracle":
			assert.Equal(t, (Cost{}), c)
			continue
		case "frequency":
			assert.Equal(t, int64(tL*tE), c.Parameters)
		case "gate reuse":
			assert.Equal(t, int64(0), c.Parameters)
		case "ensemble":
			assert.Greater(t, c.Parameters, members)
			assert.Equal(t, float64(12), c.TrainSeconds)
		}
		members += c.Parameters
		assert.Greater(t, c.Microseconds, float64(0), p.Name())
		assert.LessOrEqual(t, c.Microseconds, 1e4, p.Name())
	}
	frontier, below := r.Frontier(testHorizons[0])
	assert.NotContains(t, append(frontier, below...), "oracle")
	assert.NotEmpty(t, frontier)
	for by, want := range map[string]string{"all": "below them: ", "layer": "layer", "dataset": "documents", "phase": "prefill"} {
		var b bytes.Buffer
		require.NoError(t, r.WriteMeasures(&b, by), "by %s", by)
		assert.Contains(t, b.String(), want, "by %s", by)
		assert.GreaterOrEqual(t, strings.Count(b.String(), "\n"), len(ps), "by %s", by)
	}
	assert.Error(t, r.WriteMeasures(&bytes.Buffer{}, "token"))
}

// The frontier is what no other predictor reaches in as little time.
func TestFrontier(t *testing.T) {
	h, other := Horizon{Layers: 1}, Horizon{Layers: 2}
	r := &Results{Shape: Shape{TopK: 2}, Horizons: []Horizon{h, other}, Costs: map[string]Cost{}}
	for _, p := range []struct {
		name       string
		us, recall float64
	}{{"slow and good", 9, .9}, {"as slow", 9, .8}, {"quick", 1, .3}, {"worse than quick", 2, .2}, {"as good as quick", 3, .3}, {"middle", 4, .5}, {"unknown", 0, .99}, {"oracle", 0, 1}, {"twin", 9, .9}} {
		r.Predictors = append(r.Predictors, p.name)
		r.Costs[p.name] = Cost{Microseconds: p.us}
		r.Rows = append(r.Rows, Row{Predictor: p.name, Horizon: h, By: "all", RecallK: p.recall})
	}
	frontier, below := r.Frontier(h)
	assert.Equal(t, []string{"quick", "middle", "slow and good"}, frontier)
	assert.Equal(t, []string{"worse than quick", "as good as quick", "twin", "as slow"}, below)
	frontier, below = r.Frontier(other)
	assert.Empty(t, append(frontier, below...))
	var b bytes.Buffer
	require.NoError(t, r.WriteMeasures(&b, "all"))
	assert.Regexp(t, `quick +h=1 .* 1\.00 \*`, b.String())
	assert.NotRegexp(t, `as slow .*\*`, strings.Split(b.String(), "\n* ")[0])
	assert.Contains(t, b.String(), "* h=1: no other finds more in as little time; below them: worse than quick, as good as quick, twin, as slow\n")
	assert.NotContains(t, b.String(), "* h=2")
}
