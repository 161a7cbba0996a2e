//go:build !(goexperiment.simd && amd64)

package neural

// addRow adds x m to out: x [in], out [stride].
func (m *matrix) addRow(out, x []float32) { m.addPlain(out, x) }

// addTwos does as many rows of addRows as it can in pairs, none, and says how many.
func (m *matrix) addTwos(out, x []float32, n, outStride, xStride int) int { return 0 }

// relu replaces x [n*8] by max(x, 0).
func relu(x []float32) { reluPlain(x) }

// addRelu adds max(g, 0) to h, [n*8].
func addRelu(h, g []float32) { addReluPlain(h, g) }
