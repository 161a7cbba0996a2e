package neural

import "math"

// matrix is a weight matrix [in,out], laid out as it is read, from front to
// back: out is padded to stride columns and cut into blocks, each [in,width] in
// one piece. Weights have 32 bits, or 8.
type matrix struct {
	in, out, stride int
	w               []float32 // blocks of 64, 16 and 8 columns; or else
	words           []uint32  // blocks of 32 columns, see newBytes
	rows, cols      []float32 // scales of words: [in] and [out], padded
}

// lane is what strides are multiples of.
const lane = 8

// chunk is how many elements of x are worked on at once.
const chunk = 128

// byteFrom is the number of weights from which a matrix is held in 8 bits:
// decisions walk over all layers, so that large matrices come from memory, and
// their time is that of their bytes. Smaller ones, routers among them, keep
// every bit; so do those that 8 bits would change by more than byteLoss of
// their size (normally distributed ones lose 1/130 or so).
var byteFrom = 1 << 13

const byteLoss = 1. / 40

// newMatrix lays out w [in,out], in the precision that its size asks for.
func newMatrix(in, out int, w []float32) matrix {
	if in*out >= byteFrom {
		if m, loss := newBytes(in, out, w); loss < byteLoss {
			return m
		}
	}
	return newFull(in, out, w)
}

func padTo(n, lane int) int { return (n + lane - 1) / lane * lane }

// blockWidth is the width of the block of 32 bits that starts where n columns are left.
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

// newBytes holds weight (i,j) as rows[i] cols[j] b, b a number from -128 to 128
// that stands in a word from byte c down: that byte, signed, and the bytes
// under it as its fraction. So it is read by a shift to the left and a
// conversion, and b is chosen to be the nearest with the fraction that it gets.
// A word holds columns k, k+8, k+16 and k+24 of its block, lowest byte first.
// It also returns the mean of what the weights lose, in size, to the mean of
// what they are, rows and columns scaled.
func newBytes(in, out int, w []float32) (matrix, float64) {
	m := matrix{in: in, out: out, stride: padTo(out, lane)}
	wide := padTo(out, 32)
	m.words, m.rows, m.cols = make([]uint32, in*wide/4), make([]float32, padTo(in, lane)), make([]float32, wide)
	for i := range in {
		sum := 0.0
		for _, v := range w[i*out : (i+1)*out] {
			sum += float64(v) * float64(v)
		}
		if m.rows[i] = float32(math.Sqrt(sum / float64(out))); m.rows[i] == 0 {
			continue // and all that stands in the row is multiplied by 0
		}
		for j, v := range w[i*out : (i+1)*out] {
			m.cols[j] = max(m.cols[j], float32(math.Abs(float64(v/m.rows[i])))/127/(1<<24))
		}
	}
	var lost, size float64
	for j := range out {
		c := j / 8 % 4
		for i := range in {
			if m.rows[i] == 0 || m.cols[j] == 0 {
				continue
			}
			word := &m.words[m.wordAt(i, j/32*32)+j%8]
			b := float64(w[i*out+j]) / float64(m.rows[i]) / float64(m.cols[j]) / (1 << 24)
			fraction := float64(*word) / float64(uint64(1)<<(8*c))
			n := math.Round(b - fraction)
			*word |= uint32(uint8(int8(n))) << (8 * c)
			lost += math.Abs(n + fraction - b)
			size += math.Abs(b)
		}
	}
	return m, lost / max(size, 1)
}

// wordAt is the place of row i of the block that begins at column j: blocks are
// cut into chunks of rows, as kernels read them, one chunk's blocks following
// each other.
func (m *matrix) wordAt(i, j int) int {
	lo := i / chunk * chunk
	return (lo*len(m.cols) + j*min(chunk, m.in-lo) + (i-lo)*32) / 4
}

// byteOf is 2^24 times the number from byte c of word down.
func byteOf(word uint32, c int) float32 { return float32(int32(word << (24 - 8*c))) }

// addTo adds x m to out: x [in], out [stride]. Each element of out is summed
// over x in an order of its own, so that a row's result does not depend on how
// rows are grouped.
func (m *matrix) addTo(out, x []float32) {
	m.addRow(out[:m.stride], x[:m.in])
}

// addRows is addTo for n rows: x [n,xStride], out [n,outStride], of which the
// first in and stride elements are used.
func (m *matrix) addRows(out, x []float32, n, outStride, xStride int) {
	r := m.addTwos(out, x, n, outStride, xStride)
	for ; r < n; r++ {
		m.addTo(out[r*outStride:], x[r*xStride:])
	}
}

// addPlain is addRow without vector instructions.
func (m *matrix) addPlain(out, x []float32) {
	if m.words != nil {
		m.addPlainBytes(out, x)
		return
	}
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

func (m *matrix) addPlainBytes(out, x []float32) {
	for j := 0; j < m.stride; j += 32 {
		var sums [32]float32
		for i, xi := range x {
			if xi *= m.rows[i]; xi == 0 {
				continue
			}
			for k, word := range m.words[m.wordAt(i, j):][:8] {
				for c := range 4 {
					sums[k+8*c] += xi * byteOf(word, c)
				}
			}
		}
		for k := range min(32, m.stride-j) {
			out[j+k] += sums[k] * m.cols[j+k]
		}
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
