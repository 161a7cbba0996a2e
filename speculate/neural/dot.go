package neural

import "math"

// matrix is a weight matrix [in,out], laid out as it is read: out is padded to
// stride columns and cut into blocks, each [in,width] in one piece, so that
// memory is read from front to back.
type matrix struct {
	in, out, stride int
	w               []float32 // blocks of 64, 16 and 8 columns; or else
	half            []uint32  // blocks of 64 and 16 columns, see pack
}

// Strides are multiples of lane, and those of matrices of 16 bits of halfLane;
// a row of sums padded to halfLane fits either.
const (
	lane     = 8
	halfLane = 16
)

// halfFrom is the number of weights from which a matrix is held in 16 bits:
// decisions walk over all layers, so that large matrices come from memory, and
// their time is that of their bytes. Smaller ones, routers among them, keep
// every bit.
var halfFrom = 1 << 13

// blockWidth is the width of the block that starts where n columns are left.
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

func padTo(n, lane int) int { return (n + lane - 1) / lane * lane }

// newMatrix lays out w [in,out], in the precision that its size asks for.
func newMatrix(in, out int, w []float32) matrix {
	if in*out >= halfFrom {
		return newHalf(in, out, w)
	}
	return newFull(in, out, w)
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

func newHalf(in, out int, w []float32) matrix {
	m := matrix{in: in, out: out, stride: padTo(out, halfLane)}
	m.half = make([]uint32, in*m.stride/2)
	var row [64]float32
	for j := 0; j < m.stride; {
		width := blockWidth(m.stride - j)
		for i := range in {
			clear(row[:])
			copy(row[:width], w[i*out+min(j, out):i*out+min(j+width, out)])
			words := m.half[(j*in+i*width)/2:][:width/2]
			for k := range words {
				at := k/8*16 + k%8
				words[k] = pack(row[at], row[at+8])
			}
		}
		j += width
	}
	return m
}

// pack holds two weights in one word, as bfloat16, the upper halves of float32:
// a in the lower half, b in the upper. Columns k and k+8 of a block share a word.
func pack(a, b float32) uint32 { return round16(a) | round16(b)<<16 }

// round16 rounds to the nearest bfloat16, ties to even.
func round16(f float32) uint32 {
	u := math.Float32bits(f)
	return (u + 0x7fff + u>>16&1) >> 16
}

func unpack(w uint32) (a, b float32) {
	return math.Float32frombits(w << 16), math.Float32frombits(w &^ 0xffff)
}

// addTo adds x m to out: x [in], out [stride]. Each element of out is summed
// over x in an order of its own, so that a row's result does not depend on how
// rows are grouped.
func (m *matrix) addTo(out, x []float32) {
	m.addRow(out[:m.stride], x[:m.in])
}

// addRows is addTo for n rows: x [n,xStride], out [n,outStride], of which the
// first in and stride elements are used. Weights are read once for all of them.
func (m *matrix) addRows(out, x []float32, n, outStride, xStride int) {
	r := m.addFours(out, x, n, outStride, xStride)
	for ; r < n; r++ {
		m.addTo(out[r*outStride:], x[r*xStride:])
	}
}

// addPlain is addRow without vector instructions.
func (m *matrix) addPlain(out, x []float32) {
	for j := 0; j < m.stride; {
		width := blockWidth(m.stride - j)
		sums := out[j : j+width]
		for i, xi := range x {
			if xi == 0 {
				continue
			}
			if m.half == nil {
				for k, w := range m.w[j*m.in+i*width:][:width] {
					sums[k] += xi * w
				}
				continue
			}
			for k, w := range m.half[(j*m.in+i*width)/2:][:width/2] {
				at := k/8*16 + k%8
				a, b := unpack(w)
				sums[at] += xi * a
				sums[at+8] += xi * b
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
