package neural

import (
	"os"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The gradients of product, which lays one out itself, are those of GoMLX's Einsum.
func TestProductGradient(t *testing.T) {
	names := []string{"go:ops_sequential"}
	if plugin := os.Getenv("EXPERTSPEC_TEST_XLA"); plugin != "" {
		names = append(names, "xla:"+plugin)
	}
	for _, name := range names {
		backend, err := mixtral.OpenBackend(name)
		require.NoError(t, err)
		defer backend.Finalize()
		for _, s := range [][2]int{{3, 7}, {7, 3}, {5, 5}} {
			const g, b = 2, 4
			random := func(seed, n int, dims ...int) *tensors.Tensor {
				x := make([]float32, n)
				for i := range x {
					x[i] = float32((i*i*31+seed*17)%23)/23 - .5
				}
				return tensors.FromFlatDataAndDimensions(x, dims...)
			}
			x, w := random(1, g*b*s[0], g, b, s[0]), random(2, g*s[0]*s[1], g, s[0], s[1])
			gradients := func(product func(x, w *graph.Node) *graph.Node) (flat [3][]float32) {
				e := graph.MustNewExec(backend, func(x, w *graph.Node) []*graph.Node {
					h := product(graph.Sin(x), graph.Square(w)) // neither is a leaf, and x is used twice
					loss := graph.ReduceAllSum(graph.Square(graph.Add(h, graph.ReduceAllSum(x))))
					return append(graph.Gradient(loss, x, w), h)
				})
				defer e.Finalize()
				for i, r := range e.MustCall(x, w) {
					require.NoError(t, tensors.ConstFlatData(r, func(v []float32) { flat[i] = append(flat[i], v...) }))
				}
				return flat
			}
			got := gradients(product)
			want := gradients(func(x, w *graph.Node) *graph.Node { return graph.Einsum("gbi,gio->gbo", x, w) })
			for i := range want {
				assert.InDeltaSlice(t, want[i], got[i], 1e-4, "%s, %v, %d", name, s, i)
				assert.NotZero(t, want[i][3])
			}
		}
	}
}
