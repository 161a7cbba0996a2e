package speculate

import (
	"fmt"
	"iter"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// streamed returns n short documents of different texts that are made while they are read, and
// after how many bytes of live memory reading them took at most.
func streamed(n int) (Data, *uint64) {
	const tokens, checks = 3, 12
	m := trace.Model{Name: "streamed", Layers: 4, Experts: 5, TopK: 2, Vocabulary: 1 << 20}
	peak := new(uint64)
	read := func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for i := range n {
				if (i+1)%(n/checks) == 0 {
					runtime.GC()
					var s runtime.MemStats
					runtime.ReadMemStats(&s)
					*peak = max(*peak, s.HeapAlloc)
				}
				d := &trace.Document{Dataset: fmt.Sprint("set-", i%7), ID: fmt.Sprintf("a document with a long name, number %d", i)}
				for t := range tokens {
					d.Tokens = append(d.Tokens, int32(i*tokens+t))
					for l := range m.Layers {
						e := int32(i+t*3+l) % 5
						d.Experts = append(d.Experts, e, (e+1+int32(t))%5)
					}
				}
				if !yield(d, nil) {
					return
				}
			}
		}
	}
	return Data{Header: trace.Header{Model: m, NoWeights: true}, Documents: read}, peak
}

// TestMemory reads eight times as many documents. What stays in memory of a document
// is a hash of its name, and while Split reads, its name.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures memory")
	}
	const few = 6000
	hs := LayersAhead(1)
	predictors := func() []Predictor { return []Predictor{&Frequency{}, &Transition{}, &Path{}} }
	ps := predictors()
	train, _ := streamed(100)
	require.NoError(t, Fit(t.Context(), train, hs, ps...))
	perDocument := map[string]float64{"fit": 50, "calibrate": 50, "evaluate": 50, "split": 250, "in memory": 50}
	for name, work := range map[string]func(Data) error{
		"fit": func(d Data) error { return Fit(t.Context(), d, hs, predictors()...) },
		"calibrate": func(d Data) error {
			_, err := Calibrate(t.Context(), d, EvaluateOptions{Horizons: hs}, ps...)
			return err
		},
		"evaluate": func(d Data) error {
			_, err := Evaluate(t.Context(), d, EvaluateOptions{Horizons: hs, Resamples: 40}, ps...)
			return err
		},
		"split": func(d Data) error {
			parts, err := Split(t.Context(), d, Fractions{Valid: .2, Test: .3}, 1)
			if err == nil {
				err = Fit(t.Context(), parts.Train, hs, predictors()...)
			}
			return err
		},
		"in memory": func(d Data) error {
			d.tokens = d.Documents // as of a trace on disk
			_, err := d.InMemory(t.Context(), 100_000)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var peaks [2]uint64
			for i, n := range []int{few, 8 * few} {
				d, peak := streamed(n)
				require.NoError(t, work(d))
				peaks[i] = *peak
			}
			grown := float64(peaks[1]) - float64(peaks[0])
			t.Logf("%d and %d bytes in use, %.0f for a document", peaks[0], peaks[1], grown/7/few)
			assert.Less(t, grown/7/few, perDocument[name])
		})
	}
}
