//go:build !(goexperiment.simd && amd64)

package neural

// vectors is false: there are no kernels with vector instructions.
const vectors = false

// newBytes is never called; see newMatrix.
func newBytes(in, out int, w []float32) (matrix, float64) { return matrix{}, 1 }

// addRow adds x m to out: x [in], out [stride].
func (m *matrix) addRow(out, x []float32) { m.addPlain(out, x) }

// addTwos processes no rows.
func (m *matrix) addTwos(out, x []float32, n, outStride, xStride int) int { return 0 }

// relu replaces x [n*8] by max(x, 0).
func relu(x []float32) { reluPlain(x) }

// addRelu adds max(g, 0) to h, [n*8].
func addRelu(h, g []float32) { addReluPlain(h, g) }
