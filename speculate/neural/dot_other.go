//go:build !(goexperiment.simd && amd64)

package neural

// vectors reports whether kernels use vector instructions.
const vectors = false

// newBytes is not called: there is no kernel for weights of 8 bits.
func newBytes(in, out int, w []float32) (matrix, float64) { return matrix{}, 1 }

// addRow adds x m to out: x [in], out [stride].
func (m *matrix) addRow(out, x []float32) { m.addPlain(out, x) }

// addTwos does as many rows of addRows as it can in pairs, none, and says how many.
func (m *matrix) addTwos(out, x []float32, n, outStride, xStride int) int { return 0 }

// relu replaces x [n*8] by max(x, 0).
func relu(x []float32) { reluPlain(x) }

// addRelu adds max(g, 0) to h, [n*8].
func addRelu(h, g []float32) { addReluPlain(h, g) }
