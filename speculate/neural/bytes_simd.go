//go:build goexperiment.simd && amd64

package neural

import (
	"math"
	"simd/archsimd"
	"unsafe"
)

// newBytes lays out w [in,out] in 8 bits. Weight (i,j) is rows[i] cols[j] b, where b
// from -128 to 128 is byte c of a word, signed, with the lower bytes of the word as
// its fraction. So b is read by a shift to the left and a conversion; it is the
// nearest value with that fraction. A word holds columns k, k+8, k+16 and k+24 of
// its block, lowest byte first.
//
// newBytes also returns the mean change of a weight in relation to the mean size of
// weights, after scaling by rows and columns.
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
			continue // the whole row is multiplied by 0
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

// wordAt returns the index of row i of the block that begins at column j. Kernels
// read chunks of rows; the blocks of a chunk are contiguous.
func (m *matrix) wordAt(i, j int) int {
	lo := i / chunk * chunk
	return (lo*len(m.cols) + j*min(chunk, m.in-lo) + (i-lo)*32) / 4
}

// addBytes is addRow for weights of 8 bits.
func (m *matrix) addBytes(out, x []float32) {
	var some [chunk]term
	var y [chunk]float32
	var last [32]float32
	for lo := 0; lo < m.in; lo += chunk {
		hi := min(lo+chunk, m.in)
		scale(&y, x[lo:hi], m.rows[lo:])
		list := nonZero(&some, y[:hi-lo], 0)
		j := 0
		for ; j+32 <= m.stride; j += 32 {
			bytes32(arrayAt[[32]float32](out, j), arrayAt[[32]float32](m.cols, j), list, unsafe.Pointer(&m.words[m.wordAt(lo, j)]))
		}
		if j < m.stride {
			copy(last[:], out[j:])
			bytes32(&last, arrayAt[[32]float32](m.cols, j), list, unsafe.Pointer(&m.words[m.wordAt(lo, j)]))
			copy(out[j:], last[:])
		}
	}
}

// scale writes x rows to y; rows is padded to whole vectors.
func scale(y *[chunk]float32, x, rows []float32) {
	i := 0
	for ; i+8 <= len(x); i += 8 {
		load(arrayAt[[8]float32](x, i)).Mul(load(arrayAt[[8]float32](rows, i))).Store((*[8]float32)(y[i:]))
	}
	if i < len(x) {
		var rest [8]float32 // archsimd's partial load is not safe to checkptr
		copy(rest[:], x[i:])
		load(&rest).Mul(load(arrayAt[[8]float32](rows, i))).Store((*[8]float32)(y[i:]))
	}
}

// bytes32 adds to 32 sums. It has one operation a line and no helpers, because the
// compiler orders operations by line: unpacking all weights first would take more
// registers than there are.
func bytes32(out, cols *[32]float32, list []term, w unsafe.Pointer) {
	var a, b, c, d archsimd.Float32x8
	for _, t := range list {
		p := archsimd.LoadInt32x8((*[8]int32)(unsafe.Add(w, uintptr(t.row)*32)))
		v := archsimd.BroadcastUint32x8(t.bits).AsFloat32x8()
		a = p.ShiftAllLeft(24).ConvertToFloat32().MulAdd(v, a)
		b = p.ShiftAllLeft(16).ConvertToFloat32().MulAdd(v, b)
		c = p.ShiftAllLeft(8).ConvertToFloat32().MulAdd(v, c)
		d = p.ConvertToFloat32().MulAdd(v, d)
	}
	addScaled(out, cols, a, b, c, d)
}

// addScaled adds sums of 32 columns times cols to out.
func addScaled(out, cols *[32]float32, a, b, c, d archsimd.Float32x8) {
	a.MulAdd(load((*[8]float32)(cols[0:])), load((*[8]float32)(out[0:]))).Store((*[8]float32)(out[0:]))
	b.MulAdd(load((*[8]float32)(cols[8:])), load((*[8]float32)(out[8:]))).Store((*[8]float32)(out[8:]))
	c.MulAdd(load((*[8]float32)(cols[16:])), load((*[8]float32)(out[16:]))).Store((*[8]float32)(out[16:]))
	d.MulAdd(load((*[8]float32)(cols[24:])), load((*[8]float32)(out[24:]))).Store((*[8]float32)(out[24:]))
}

// bytesTwo is bytes32 for two rows, x and y [n], at once. Their zeros are not
// dropped, which changes no sum.
func bytesTwo(outX, outY, cols *[32]float32, x, y *[chunk]float32, n int, w unsafe.Pointer) {
	var a, b, c, d, e, f, g, h archsimd.Float32x8
	px, py := unsafe.Pointer(x), unsafe.Pointer(y)
	for i := range uintptr(n) {
		p := archsimd.LoadInt32x8((*[8]int32)(unsafe.Add(w, i*32)))
		u := archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(px, i*4))).AsFloat32x8()
		v := archsimd.BroadcastUint32x8(*(*uint32)(unsafe.Add(py, i*4))).AsFloat32x8()
		q := p.ShiftAllLeft(24).ConvertToFloat32()
		a = u.MulAdd(q, a)
		e = v.MulAdd(q, e)
		q = p.ShiftAllLeft(16).ConvertToFloat32()
		b = u.MulAdd(q, b)
		f = v.MulAdd(q, f)
		q = p.ShiftAllLeft(8).ConvertToFloat32()
		c = u.MulAdd(q, c)
		g = v.MulAdd(q, g)
		q = p.ConvertToFloat32()
		d = u.MulAdd(q, d)
		h = v.MulAdd(q, h)
	}
	addScaled(outX, cols, a, b, c, d)
	addScaled(outY, cols, e, f, g, h)
}

// addTwos processes pairs of rows of addRows for weights of 8 bits, and returns the
// number of rows.
func (m *matrix) addTwos(out, x []float32, n, outStride, xStride int) int {
	n = n / 2 * 2
	if !vectors || m.words == nil {
		return 0
	}
	var y, z [chunk]float32
	var lastX, lastY [32]float32
	for r := 0; r < n; r += 2 {
		outX, outY := out[r*outStride:][:m.stride], out[(r+1)*outStride:][:m.stride]
		for lo := 0; lo < m.in; lo += chunk {
			hi := min(lo+chunk, m.in)
			scale(&y, x[r*xStride:][lo:hi], m.rows[lo:])
			scale(&z, x[(r+1)*xStride:][lo:hi], m.rows[lo:])
			add := func(outX, outY *[32]float32, j int) {
				bytesTwo(outX, outY, arrayAt[[32]float32](m.cols, j), &y, &z, hi-lo, unsafe.Pointer(&m.words[m.wordAt(lo, j)]))
			}
			j := 0
			for ; j+32 <= m.stride; j += 32 {
				add(arrayAt[[32]float32](outX, j), arrayAt[[32]float32](outY, j), j)
			}
			if j < m.stride {
				copy(lastX[:], outX[j:])
				copy(lastY[:], outY[j:])
				add(&lastX, &lastY, j)
				copy(outX[j:], lastX[:])
				copy(outY[j:], lastY[:])
			}
		}
	}
	archsimd.ClearAVXUpperBits()
	return n
}
