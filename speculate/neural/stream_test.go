package neural

import (
	"fmt"
	"iter"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// streamed returns n documents of eight tokens that are made while they are read, and the
// most bytes that were in use then.
func streamed(n int) (speculate.Data, *uint64) {
	m := trace.Model{Name: "streamed", Layers: 3, Experts: 5, TopK: 2, Vocabulary: 50}
	peak := new(uint64)
	read := func() iter.Seq2[*trace.Document, error] {
		return func(yield func(*trace.Document, error) bool) {
			for i := range n {
				if i%256 == 255 {
					runtime.GC()
					var s runtime.MemStats
					runtime.ReadMemStats(&s)
					*peak = max(*peak, s.HeapAlloc)
				}
				d := &trace.Document{Dataset: "set", ID: fmt.Sprint(i)}
				for t := range 8 {
					d.Tokens = append(d.Tokens, int32(i*t%50))
					for l := range m.Layers {
						e := int32(i+t*3+l) % 5
						d.Experts = append(d.Experts, e, (e+1+int32(t%4))%5)
					}
				}
				if !yield(d, nil) {
					return
				}
			}
		}
	}
	return speculate.Data{Header: trace.Header{Model: m, NoWeights: true}, Documents: read}, peak
}

// TestTrainingMemory trains once over the documents of a trace and over those of one
// eight times as large, which do not fit into the pool.
func TestTrainingMemory(t *testing.T) {
	const few, pool = 1024, 128 << 10
	for name, train := range map[string]func(d, valid speculate.Data, o TrainOptions) error{
		"MLP": func(d, valid speculate.Data, o TrainOptions) error {
			_, err := TrainMLP(t.Context(), InterLayer(4), d, valid, o)
			return err
		},
		"transformer": func(d, valid speculate.Data, o TrainOptions) error {
			_, err := TrainTransformer(t.Context(), routingTransformer(1, 32, 8), d, valid, o)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var peaks [2]float64
			for i, n := range []int{few, 8 * few} {
				d, peak := streamed(n)
				valid, _ := streamed(20)
				require.NoError(t, train(d, valid, TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1), Tokens: int64(8 * n),
					Batch: 256, ValidTokens: 64, PoolBytes: pool}))
				peaks[i] = float64(*peak)
			}
			t.Logf("%.0f and %.0f bytes in use", peaks[0], peaks[1])
			assert.Less(t, peaks[1], peaks[0]+8*pool) // all documents would take 4 MB more and their views
		})
	}
}
