package speculate

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/trace"
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
	h, doc, ctx := testHeader(), testDocs(1, 40, 9)[0], context.Background()
	hs := []Horizon{{Layers: 1}, {Layers: 2}, {KnownID: true}}
	for _, hz := range hs {
		p := &sleeper{takes: 50 * time.Microsecond, asked: map[[2]int]int{}, h: hz}
		d, err := Latency(ctx, p, h, doc, hs, time.Hour)
		if err != nil || d < 50*time.Microsecond || d > 500*time.Microsecond {
			t.Errorf("%v: a decision of 50 us measured as %v, %v", hz, d, err)
		}
		for x, n := range p.asked {
			if n != 1 || x[1] < hz.FirstLayer() {
				t.Errorf("%v: token %d, layer %d was asked %d times", hz, x[0], x[1], n)
			}
		}
		if want := len(doc.Tokens) * (tL - hz.FirstLayer()); len(p.asked) != want {
			t.Errorf("%v: %d (token, layer) asked, want %d", hz, len(p.asked), want)
		}
	}
	slow := &sleeper{takes: time.Millisecond, asked: map[[2]int]int{}, h: hs[0]}
	if _, err := Latency(ctx, slow, h, doc, hs, 6*time.Millisecond); err != nil || len(slow.asked) > 4*(tL-1) {
		t.Errorf("asked %d times of 1 ms in 6 ms, %v", len(slow.asked), err)
	}
	if d, err := Latency(ctx, slow, h, doc, hs[1:], time.Second); d != 0 || err != nil {
		t.Errorf("no horizon supported: %v, %v", d, err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := Latency(stopped, slow, h, doc, hs, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Latency(ctx, slow, h, &trace.Document{Dataset: "a", ID: "none"}, hs, time.Second); err == nil || !strings.Contains(err.Error(), "a/none") {
		t.Errorf("a document without tokens: %v", err)
	}
}

func TestMeasureCosts(t *testing.T) {
	ps, _, test := fitted(t)
	o := EvaluateOptions{Horizons: testHorizons, Resamples: 100}
	r, err := Evaluate(context.Background(), test, o, ps...)
	if err != nil {
		t.Fatal(err)
	}
	r.Costs, err = MeasureCosts(context.Background(), test, testHorizons, map[string]Cost{"ensemble": {TrainSeconds: 12}}, ps...)
	if err != nil {
		t.Fatal(err)
	}
	members := int64(0)
	for _, p := range ps {
		c := r.Costs[p.Name()]
		switch p.Name() {
		case "oracle":
			if c != (Cost{}) {
				t.Errorf("the oracle costs %+v", c)
			}
			continue
		case "frequency":
			if c.Parameters != tL*tE {
				t.Errorf("frequency: %d parameters, want one for each of %d layers and %d experts", c.Parameters, tL, tE)
			}
		case "gate reuse":
			if c.Parameters != 0 {
				t.Errorf("gate reuse: %d parameters, though all are the model's", c.Parameters)
			}
		case "ensemble":
			if c.Parameters <= members || c.TrainSeconds != 12 {
				t.Errorf("ensemble: %+v, want the %d parameters of its members, and weights", c, members)
			}
		}
		members += c.Parameters
		if c.Microseconds <= 0 || c.Microseconds > 1e4 {
			t.Errorf("%s: a decision takes %g us", p.Name(), c.Microseconds)
		}
	}
	for by, want := range map[string]string{"all": "decision (us)", "layer": "layer", "dataset": "documents", "phase": "prefill"} {
		var b bytes.Buffer
		if err := r.WriteMeasures(&b, by); err != nil || !strings.Contains(b.String(), want) || strings.Count(b.String(), "\n") < len(ps) {
			t.Errorf("by %s: %v\n%s", by, err, &b)
		}
	}
	if err := r.WriteMeasures(&bytes.Buffer{}, "token"); err == nil {
		t.Error(`rows by "token" were written`)
	}
}
