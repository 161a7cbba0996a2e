// Package kernel computes products of activations with weights, and what is between
// them in a transformer, on the processor's cores. Weights are read in place: each
// once for a few rows of activations (Dots), once per panel of rows for many.
//
// A panel is 16 rows of activations, stored with the row as the last axis: x [N,K]
// is panels [P,K,16], P = N/16 rounded up, whose last rows may be anything. So every
// vector instruction works on 16 rows, there are no sums across a vector, and a
// product's result is the panels of the next product's argument.
//
// With AVX2 or AVX-512 the functions are assembly, since the compiler's vectors (Go
// 1.26, simd/archsimd) allocate 15 registers and copy the accumulators: 90 to 110
// GFLOP/s a core on a Zen 5 where tile2 computes 260 (BenchmarkPanels). Elsewhere
// they are plain Go.
package kernel

import (
	"fmt"
	"unsafe"
)

// Levels are the instructions that the functions of this package use, each those of
// the levels before too.
const (
	plain      = iota // those of the compiler
	avx2              // AVX2 and FMA
	avx512            // AVX-512 F, BW, DQ and VL
	avx512BF16        // products of pairs of bfloat16
)

var level = best

// Fast reports whether the functions of this package are assembly.
func Fast() bool { return level > plain }

// Lanes is the number of rows of a panel.
const Lanes = 16

// Matrix is a weight W [O,I], row-major: float32, bfloat16 (its bits), or int8 with
// a float32 scale for each row.
type Matrix struct {
	Rows, Columns int // O, I
	f32           []float32
	bf16          []uint16
	i8            []int8
	scale         []float32 // [O]
	round         bool      // Panels of int8 round activations to bfloat16
}

// F32 returns a matrix of float32.
func F32(w []float32, rows int) Matrix { return Matrix{Rows: rows, Columns: len(w) / rows, f32: w} }

// BF16 returns a matrix of bfloat16 bits.
func BF16(w []uint16, rows int) Matrix { return Matrix{Rows: rows, Columns: len(w) / rows, bf16: w} }

// Int8 returns a matrix of int8, whose rows are to be multiplied by scale [O]. If
// round, products of panels may round activations to bfloat16, as those of BF16 do.
func Int8(w []int8, scale []float32, round bool) Matrix {
	return Matrix{Rows: len(scale), Columns: len(w) / len(scale), i8: w, scale: scale, round: round}
}

// Bytes is the size of one row.
func (m *Matrix) Bytes() int {
	switch {
	case m.i8 != nil:
		return m.Columns
	case m.bf16 != nil:
		return 2 * m.Columns
	}
	return 4 * m.Columns
}

// PairRows reports whether Dots multiplies pairs of bfloat16: then its rows are
// those that PairRow makes.
func (m *Matrix) PairRows() bool { return level == avx512BF16 && m.bf16 != nil }

// PairPanels reports whether Panels multiplies pairs of bfloat16: then its panels
// are those that PairPanel makes.
func (m *Matrix) PairPanels() bool { return level == avx512BF16 && (m.bf16 != nil || m.round) }

// RowWidth is the number of float32 of a row for Dots: I, or that of pairs.
func (m *Matrix) RowWidth() int { return width(m.Columns, m.PairRows()) }

// PanelWidth is the number of vectors of a panel for Panels: I, or that of pairs.
func (m *Matrix) PanelWidth() int { return width(m.Columns, m.PairPanels()) }

func width(columns int, pairs bool) int {
	if pairs {
		return (columns + 1) / 2
	}
	return columns
}

// PairRow writes a row x [I], rounded to bfloat16, as pairs to dst [(I+1)/2].
func PairRow(dst, x []float32) {
	n := len(x)
	dst[(n+1)/2-1] = 0
	roundRow((*uint16)(unsafe.Pointer(&dst[0])), &x[0], n)
}

// PairPanel writes a panel x [I,16], rounded to bfloat16, as pairs of its columns to
// dst [(I+1)/2,16].
func PairPanel(dst, x []float32) {
	n := len(x) / Lanes
	_ = dst[(n+1)/2*Lanes-1]
	pairPanel(&dst[0], &x[0], n)
}

// check panics where rows [lo,hi) are not rows of m, or x is shorter than size:
// assembly does not check bounds.
func (m *Matrix) check(lo, hi, have, size int) {
	if lo < 0 || hi > m.Rows || have < size {
		panic(fmt.Sprintf("kernel: rows %d to %d of %d, %d values of %d", lo, hi, m.Rows, have, size))
	}
}

// Dots computes y[r*stride+o-lo] = row o of W times row r of x, for rows [lo,hi) of
// W and the n rows of x [N,RowWidth]: for few rows of x.
func (m *Matrix) Dots(y []float32, stride int, x []float32, n, lo, hi int) {
	if n == 0 || lo >= hi {
		return
	}
	width := m.RowWidth()
	m.check(lo, hi, len(x), n*width)
	_ = y[(n-1)*stride+hi-lo-1]
	var sums [4]float32
	for o := lo; o < hi; o += 4 {
		rows := min(4, hi-o)
		for r := range n {
			to := &sums
			out := y[r*stride+o-lo:]
			if rows == 4 {
				to = (*[4]float32)(out)
			}
			m.dots4(to, &x[r*width], o, rows)
			if m.scale != nil {
				for i := range rows {
					to[i] *= m.scale[o+i]
				}
			}
			if rows < 4 {
				copy(out[:rows], sums[:])
			}
		}
	}
}

// dots4 writes the products of x and rows [o,o+rows) of W.
func (m *Matrix) dots4(y *[4]float32, x *float32, o, rows int) {
	if rows == 4 {
		m.dotsOf(y, x, o, m.Columns)
		return
	}
	for i := range rows {
		var same [4]float32
		m.dotsOf(&same, x, o+i, 0)
		y[i] = same[0]
	}
}

// dotsOf writes the products of x and 4 rows of W, stride elements apart, from o.
func (m *Matrix) dotsOf(y *[4]float32, x *float32, o, stride int) {
	k := m.Columns
	at := o * k
	switch {
	case m.i8 != nil:
		w := &m.i8[at]
		if done := dotsI8(&y[0], x, w, stride, k); done < k {
			plainDots(y, x, w, stride, done, k)
		}
	case m.PairRows():
		dotsPairs(&y[0], (*uint16)(unsafe.Pointer(x)), &m.bf16[at], 2*stride, k)
	case m.bf16 != nil:
		w := &m.bf16[at]
		if done := dotsBF16(&y[0], x, w, 2*stride, k); done < k {
			plainDots(y, x, w, stride, done, k)
		}
	default:
		w := &m.f32[at]
		if done := dotsF32(&y[0], x, w, 4*stride, k); done < k {
			plainDots(y, x, w, stride, done, k)
		}
	}
}

// widen writes columns [from,from+len(dst)) of row o as float32.
func (m *Matrix) widen(dst []float32, o, from int) {
	at, n := o*m.Columns+from, len(dst)
	switch {
	case m.i8 != nil:
		src, scale := m.i8[at:at+n], m.scale[o]
		for i := widenI8(&dst[0], &src[0], scale, n); i < n; i++ {
			dst[i] = float32(src[i]) * scale
		}
	case m.bf16 != nil:
		src := m.bf16[at : at+n]
		for i := widenBF16(&dst[0], &src[0], n); i < n; i++ {
			dst[i] = widened(src[i])
		}
	default:
		copy(dst, m.f32[at:at+n])
	}
}

// Row writes row o as float32 to dst [I].
func (m *Matrix) Row(dst []float32, o int) { m.widen(dst[:m.Columns], o, 0) }

const (
	// TileRows is the number of rows of W that a tile computes.
	TileRows = 12
	// BlockRows is the maximum number of rows of W that a call of Panels computes:
	// their block stays in the processor's second-level cache.
	BlockRows = 96

	block = 256 // columns of W, or pairs of them, that are copied at a time
)

// Scratch is memory of one goroutine for Panels; its zero value is ready.
type Scratch struct {
	w [BlockRows * block]float32
	y []float32
}

// Bytes is the size of the scratch.
func (s *Scratch) Bytes() int64 { return int64(unsafe.Sizeof(*s)) + 4*int64(cap(s.y)) }

// Panels returns the product of p panels x [P,PanelWidth,16] and rows [lo,hi) of W, at
// most BlockRows, [P,R,16] with R >= hi-lo, valid until the next call with s.
func (m *Matrix) Panels(s *Scratch, x []float32, p, lo, hi int) (y []float32, r int) {
	width := m.PanelWidth()
	m.check(lo, hi, len(x), p*width*Lanes)
	rows := hi - lo
	if rows > BlockRows {
		panic(fmt.Sprintf("kernel: %d rows of at most %d", rows, BlockRows))
	}
	r = (rows + TileRows - 1) / TileRows * TileRows
	if size := p * r * Lanes; len(s.y) < size {
		s.y = make([]float32, size)
	}
	clear(s.w[rows*block : r*block])
	for from := 0; from < width; from += block {
		k := min(block, width-from)
		for i := range rows {
			m.copy(s.w[i*block:][:k], lo+i, from)
		}
		for j := 0; j < p; j += 2 {
			for i := 0; i < r; i += TileRows {
				t := Tile{
					Y: s.y[(j*r+i)*Lanes:], X: x[(j*width+from)*Lanes:], W: s.w[i*block:],
					YS: r * Lanes, XS: width * Lanes, XK: Lanes, WS: block, WK: 1, K: k, Add: from > 0,
				}
				t.run(j+1 < p, m.PairPanels())
			}
		}
	}
	if m.i8 != nil && m.PairPanels() {
		for j := range p {
			y := s.y[j*r*Lanes:]
			scalePanel(&y[0], &y[0], &m.scale[lo], &ones[0], rows)
		}
	}
	return s.y, r
}

var ones = [Lanes]float32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}

// copy writes columns, or pairs of them, from a position of row o.
func (m *Matrix) copy(dst []float32, o, from int) {
	if !m.PairPanels() {
		m.widen(dst, o, from)
		return
	}
	dst[len(dst)-1] = 0
	at, n := o*m.Columns+2*from, min(2*len(dst), m.Columns-2*from)
	to := unsafe.Slice((*uint16)(unsafe.Pointer(&dst[0])), 2*len(dst))
	if m.i8 != nil {
		bytesBF16(&to[0], &m.i8[at : at+n][0], n)
		return
	}
	copy(to, m.bf16[at:at+n])
}

// Tile is a product of 12 rows of weights and one or two panels: Y[o,l] or, if Add,
// Y[o,l]+ = sum over k of W[o*WS+k*WK] * X[k*XK+l], with the second panel's Y and X
// at YS and XS. Strides are in elements.
type Tile struct {
	Y, X, W []float32
	YS, XS  int
	XK      int
	WS, WK  int
	K       int
	Add     bool
}

// Run computes the tile of one panel, or of two.
func (t *Tile) Run(two bool) {
	_ = t.W[(TileRows-1)*t.WS+(t.K-1)*t.WK]
	last := 0
	if two {
		last = 1
	}
	_ = t.X[last*t.XS+(t.K-1)*t.XK+Lanes-1]
	_ = t.Y[last*t.YS+TileRows*Lanes-1]
	t.run(two, false)
}

// run is Run without checks, of pairs of bfloat16 or of float32.
func (t *Tile) run(two, pairs bool) {
	y, x, w := unsafe.SliceData(t.Y), unsafe.SliceData(t.X), unsafe.SliceData(t.W)
	switch {
	case level == plain:
		t.plain(two)
	case pairs && two:
		pairTile2(y, x, w, 4*t.YS, 4*t.XS, 4*t.XK, 4*t.WS, 4*t.WK, t.K, t.Add)
	case pairs:
		pairTile1(y, x, w, 4*t.XK, 4*t.WS, 4*t.WK, t.K, t.Add)
	case two:
		tile2(y, x, w, 4*t.YS, 4*t.XS, 4*t.XK, 4*t.WS, 4*t.WK, t.K, t.Add)
	default:
		tile1(y, x, w, 4*t.XK, 4*t.WS, 4*t.WK, t.K, t.Add)
	}
}

// DotsOf writes y[o] = the first len(x) columns of row o of W, float32, times x.
func (m *Matrix) DotsOf(y, x []float32) {
	k := len(x)
	if k == 0 || k > m.Columns || len(y) > m.Rows || m.f32 == nil {
		panic(fmt.Sprintf("kernel: %d rows of %d, %d columns of %d", len(y), m.Rows, k, m.Columns))
	}
	stride := m.Columns
	for o := 0; o < len(y); o += 4 {
		var sums [4]float32
		rows := min(4, len(y)-o)
		if rows < 4 {
			for i := range rows {
				dotsPrefix(&sums, &x[0], &m.f32[(o+i)*stride], 0, k)
				y[o+i] = sums[0]
			}
			break
		}
		dotsPrefix(&sums, &x[0], &m.f32[o*stride], stride, k)
		copy(y[o:], sums[:])
	}
}

// dotsPrefix is dotsF32 with what it leaves.
func dotsPrefix(y *[4]float32, x, w *float32, stride, k int) {
	if done := dotsF32(&y[0], x, w, 4*stride, k); done < k {
		plainDots(y, x, w, stride, done, k)
	}
}
