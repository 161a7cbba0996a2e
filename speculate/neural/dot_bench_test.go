package neural

import (
	"fmt"
	"testing"
)

// BenchmarkMatrix measures products with 64 matrices of 16 MB in turn, as the
// heads of a network do, for one row and for a group of rows.
func BenchmarkMatrix(b *testing.B) {
	const in, out, copies, n = 256, 256, 64, 64
	w, x, y := make([]float32, in*out), make([]float32, n*in), make([]float32, n*out)
	for i := range x {
		x[i] = 1 / float32(i+1)
	}
	for i := range w {
		w[i] = 1 / float32(i+2)
	}
	layouts := map[string]func(in, out int, w []float32) matrix{"32 bits": newFull}
	if vectors {
		layouts["8 bits"] = newMatrix
	}
	for name, layout := range layouts {
		var ms [copies]matrix
		for i := range ms {
			ms[i] = layout(in, out, w)
		}
		for _, rows := range []int{1, n} {
			b.Run(fmt.Sprintf("%s/%d rows", name, rows), func(b *testing.B) {
				i := 0
				for b.Loop() {
					ms[i%copies].addRows(y, x, rows, out, in)
					i++
				}
				b.ReportMetric(float64(2*in*out*rows)*float64(i)/1e9/b.Elapsed().Seconds(), "GFLOP/s")
			})
		}
		if ms[0].words == nil {
			b.Run(name+"/plain", func(b *testing.B) {
				for b.Loop() {
					ms[0].addPlain(y[:out], x[:in])
				}
			})
		}
	}
}
