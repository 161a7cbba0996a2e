package pq

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

const (
	pageBytes = 1 << 20 // target of an unpacked page
	pageRows  = 8192    // and of its rows
	maxBound  = 256     // bytes of a string that statistics hold
)

// ColumnWriter collects one column of the current row group.
type ColumnWriter struct {
	w     *Writer
	spec  Spec
	width int // values a row
	most  int // rows of a page

	rows     int64   // of the row group
	pages    []*page // data pages, which are perhaps still being encoded
	buffered int     // bytes of appended numbers
	pending  int     // values of the unfinished page

	ints []int32 // unfinished page of Int32, Counter, Index16, Index32
	raw  []byte  // unfinished page of Float32, Float16, and Bool, a byte each

	strings map[string]uint32
	order   []string
	runs    []run // of the whole row group

	low, high int32 // of scalar integers
}

type run struct {
	value uint32
	n     int
}

func newColumnWriter(w *Writer, s Spec) *ColumnWriter {
	c := &ColumnWriter{w: w, spec: s, width: max(1, s.Width), strings: map[string]uint32{}}
	c.most = min(pageRows, max(1, pageBytes/(4*c.width)))
	return c
}

// AppendString appends n rows of the same string.
func (c *ColumnWriter) AppendString(s string, n int) {
	k, ok := c.strings[s]
	if !ok {
		k = uint32(len(c.order))
		c.strings[s] = k
		c.order = append(c.order, s)
	}
	c.rows += int64(n)
	if last := len(c.runs) - 1; last >= 0 && c.runs[last].value == k {
		c.runs[last].n += n
		return
	}
	c.runs = append(c.runs, run{k, n})
}

// AppendInts appends whole rows of integers. That an index is out of range is
// an error of FlushGroup.
func (c *ColumnWriter) AppendInts(values []int32) {
	for len(values) > 0 {
		n := min(len(values), c.most*c.width-c.pending)
		c.ints = append(c.ints, values[:n]...)
		values = values[n:]
		c.grow(n, 4)
	}
}

// AppendBools appends whole rows of booleans.
func (c *ColumnWriter) AppendBools(values []bool) {
	for len(values) > 0 {
		n := min(len(values), c.most*c.width-c.pending)
		for _, v := range values[:n] {
			b := byte(0)
			if v {
				b = 1
			}
			c.raw = append(c.raw, b)
		}
		values = values[n:]
		c.grow(n, 1)
	}
}

// AppendFloats appends whole rows of floating-point numbers. A finite number
// that overflows a half float is an error.
func (c *ColumnWriter) AppendFloats(values []float32) error {
	size := 4
	if c.spec.Kind == Float16 {
		size = 2
	}
	for len(values) > 0 {
		n := min(len(values), c.most*c.width-c.pending)
		if size == 2 {
			if err := c.fits(values[:n]); err != nil {
				return err
			}
			c.raw = floats.AppendHalves(c.raw, values[:n])
		} else {
			c.raw = appendFloats(c.raw, values[:n])
		}
		values = values[n:]
		c.grow(n, size)
	}
	return nil
}

// fits checks that no finite number overflows a half float.
func (c *ColumnWriter) fits(values []float32) error {
	if floats.Magnitude(values) < math.Float32bits(65520) { // rounds to infinity
		return nil
	}
	for i, v := range values {
		if floats.ToHalf(v)&0x7fff == 0x7c00 && !math.IsInf(float64(v), 0) {
			return fmt.Errorf("column %q: %g (value %d) does not fit float16", c.spec.Name, v, i)
		}
	}
	return nil
}

// extend returns b longer by n bytes of any content.
func extend(b []byte, n int) []byte { return slices.Grow(b, n)[:len(b)+n] }

func appendFloats(dst []byte, values []float32) []byte {
	at := len(dst)
	dst = extend(dst, 4*len(values))
	b := dst[at:]
	for i, v := range values {
		binary.LittleEndian.PutUint32(b[4*i:4*i+4], math.Float32bits(v))
	}
	return dst
}

// grow accounts for n appended values of size bytes and ends a full page.
func (c *ColumnWriter) grow(n, size int) {
	c.pending += n
	c.buffered += n * size
	if c.pending >= c.most*c.width {
		c.endPage()
	}
}

// endPage has the unfinished page encoded.
func (c *ColumnWriter) endPage() {
	if c.pending == 0 {
		return
	}
	if c.spec.Width == 0 && len(c.ints) > 0 {
		c.bounds()
	}
	c.rows += int64(c.pending / c.width)
	p := &page{n: c.pending, ints: c.ints, raw: c.raw}
	c.ints, c.raw, c.pending = spareInts.take(), spareBytes.take(), 0
	c.pages = append(c.pages, p)
	c.w.start(func() { c.encode(p) })
}

// appendLevels appends the levels of n values in lists of width, with the
// repetition levels as runs, which are short as they are, or as bits, which a
// compressor and checkLevels like best.
func appendLevels(dst []byte, n, width int, runs bool) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	if runs {
		row := repetitionRuns(width)
		for range n / width {
			dst = append(dst, row...)
		}
	} else {
		dst = appendRepetition(dst, n, width)
	}
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	at = len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = appendRun(dst, 1, n, 1)
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// appendSplit appends values of size bytes as one stream for each byte.
func appendSplit(dst, raw []byte, size int) []byte {
	for j := range size {
		for i := j; i < len(raw); i += size {
			dst = append(dst, raw[i])
		}
	}
	return dst
}

// appendRepetition appends the repetition levels of n values in lists of
// width: 0 at the start of a list and 1 elsewhere, as one packed run.
func appendRepetition(dst []byte, n, width int) []byte {
	groups := (n + 7) / 8
	dst = binary.AppendUvarint(dst, uint64(groups)<<1|1)
	start := len(dst)
	for range groups {
		dst = append(dst, 0xff)
	}
	for i := 0; i < n; i += width {
		dst[start+i/8] &^= 1 << (i % 8)
	}
	return dst
}

// repetitionRuns returns the repetition levels of one list of width as runs.
func repetitionRuns(width int) []byte {
	row := appendRun(nil, 0, 1, 1)
	if width > 1 {
		row = appendRun(row, 1, width-1, 1)
	}
	return row
}

// bounds widens the statistics by the unfinished page.
func (c *ColumnWriter) bounds() {
	if len(c.pages) == 0 {
		c.low, c.high = c.ints[0], c.ints[0]
	}
	for _, v := range c.ints {
		c.low, c.high = min(c.low, v), max(c.high, v)
	}
}

// emitStrings encodes the whole row group as one page of runs.
func (c *ColumnWriter) emitStrings() error {
	width := uint(max(1, bits.Len(uint(len(c.order)-1))))
	body := append(spareBytes.take(), byte(width))
	for _, r := range c.runs {
		body = appendRun(body, r.value, r.n, width)
	}
	p := &page{n: int(c.rows)}
	c.pages = append(c.pages, p)
	err := p.pack(c.dataHeader(p.n), body)
	spareBytes.give(body)
	return err
}

// dictionary returns the body of the dictionary page and its entries, if any.
func (c *ColumnWriter) dictionary() (b []byte, n int) {
	absent := slices.ContainsFunc(c.pages, func(p *page) bool { return p.absent })
	switch c.spec.Kind {
	case String:
		for _, s := range c.order {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
		return b, len(c.order)
	case Index16, Index32:
		n = c.spec.Values
		for i := range n {
			b = binary.LittleEndian.AppendUint32(b, uint32(i))
		}
		if absent {
			b = binary.LittleEndian.AppendUint32(b, math.MaxUint32)
			n++
		}
	}
	return b, n
}
