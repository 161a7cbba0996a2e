package mixtral_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
	"github.com/stretchr/testify/require"
)

type sums int

func (k sums) String() string { return fmt.Sprint("sums ", int(k)) }

// BenchmarkMeshSum measures what a layer's sum over two devices of [T,4096] float32 takes
// within a program.
func BenchmarkMeshSum(b *testing.B) {
	plugin := os.Getenv(xlaVariable)
	if plugin == "" {
		b.Skipf("set %s to an XLA plugin", xlaVariable)
	}
	backend, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(b, err)
	defer backend.Finalize()
	d := xla.NewDevice(backend, 2)
	for _, t := range []int{1, 512} {
		x, err := xla.Upload(d, make([]float32, t*4096), t, 4096)
		require.NoError(b, err)
		half := make([]float32, t*4096)
		for i := range half {
			half[i] = .5
		}
		factor, err := xla.Upload(d, half, t, 4096)
		require.NoError(b, err)
		var programs xla.Programs[sums]
		run := func(k int) float64 {
			start := time.Now()
			out, err := programs.Run(d, sums(k), func(in []*Node) []*Node {
				y := in[0]
				for range k { // times what may differ between the devices: XLA computes sums of equal terms without their devices
					y = d.Sum(Mul(y, in[1]))
				}
				return []*Node{y}
			}, x, factor)
			require.NoError(b, err)
			seconds := time.Since(start).Seconds()
			xla.Free(out...)
			return seconds * 1e6
		}
		b.Run(fmt.Sprintf("T=%d", t), func(b *testing.B) {
			const few, many = 1, 33
			var times [2][]float64
			for range 3 { // compile
				run(few)
				run(many)
			}
			for b.Loop() {
				times[0], times[1] = append(times[0], run(few)), append(times[1], run(many))
			}
			b.ReportMetric(0, "ns/op")
			for _, t := range times {
				slices.Sort(t)
			}
			middle := len(times[0]) / 2
			b.ReportMetric((times[1][middle]-times[0][middle])/(many-few), "us/sum")
			b.ReportMetric(times[0][middle], "us/program")
		})
		xla.Free(x, factor)
		programs.Close()
	}
}
