package neural

// matrix is a weight matrix [in,out] in the order in which it is read. out is
// padded to stride columns and cut into blocks of columns; each block, [in,width],
// is contiguous. Weights have 32 bits or 8.
type matrix struct {
	in, out, stride int
	w               []float32 // blocks of 64, 16 and 8 columns; or else
	words           []uint32  // blocks of 32 columns of 8 bits, see newBytes
	rows, cols      []float32 // scales of words: [in] and [out], padded
}

// lane divides strides.
const lane = 8

// newMatrix lays out w [in,out]. A large matrix gets 8 bits where there is a
// kernel for them; without one they would be slower than 32.
func newMatrix(in, out int, w []float32) matrix {
	if vectors && in*out >= byteFrom {
		if m, loss := newBytes(in, out, w); loss < byteLoss {
			return m
		}
	}
	return newFull(in, out, w)
}

// byteFrom is the number of weights from which a matrix gets 8 bits. Decisions
// read the weights of all layers, so large matrices come from memory, and their
// size decides the time. Smaller matrices, such as routers, keep 32 bits, and so
// do those that 8 bits would change by more than byteLoss of their size (normally
// distributed weights change by 1/130).
var byteFrom = 1 << 13

const byteLoss = 1. / 40

func padTo(n, lane int) int { return (n + lane - 1) / lane * lane }

// blockWidth returns the width of the next block of 32 bits of n columns.
func blockWidth(n int) int {
	switch {
	case n >= 64:
		return 64
	case n >= 16:
		return 16
	default:
		return 8
	}
}

func newFull(in, out int, w []float32) matrix {
	m := matrix{in: in, out: out, stride: padTo(out, lane)}
	m.w = make([]float32, in*m.stride)
	for j := 0; j < m.stride; {
		width := blockWidth(m.stride - j)
		for i := range in {
			copy(m.w[j*in+i*width:][:width], w[i*out+min(j, out):i*out+min(j+width, out)])
		}
		j += width
	}
	return m
}

// addTo adds x m to out: x [in], out [stride]. The order of each sum does not
// depend on how rows are grouped.
func (m *matrix) addTo(out, x []float32) {
	m.addRow(out[:m.stride], x[:m.in])
}

// addRows is addTo for n rows: x [n,xStride], out [n,outStride]. The first in and
// stride elements of each are used.
func (m *matrix) addRows(out, x []float32, n, outStride, xStride int) {
	r := m.addTwos(out, x, n, outStride, xStride)
	for ; r < n; r++ {
		m.addTo(out[r*outStride:], x[r*xStride:])
	}
}

// addPlain is addRow without vector instructions, for weights of 32 bits.
func (m *matrix) addPlain(out, x []float32) {
	for j := 0; j < m.stride; {
		width := blockWidth(m.stride - j)
		sums := out[j : j+width]
		for i, xi := range x {
			if xi == 0 {
				continue
			}
			for k, w := range m.w[j*m.in+i*width:][:width] {
				sums[k] += xi * w
			}
		}
		j += width
	}
}

func reluPlain(x []float32) {
	for i, v := range x {
		x[i] = max(v, 0)
	}
}

func addReluPlain(h, g []float32) {
	for i, v := range g {
		h[i] += max(v, 0)
	}
}
