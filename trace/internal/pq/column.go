package pq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
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

	rows    int64        // of the row group
	pages   bytes.Buffer // finished data pages
	unpack  int64        // their size unpacked
	npages  int32
	pending int // values of the unfinished page

	ints   []int32 // unfinished page of Int32, Counter, Index16, Index32
	raw    []byte  // unfinished page of Float32, Float16
	index  []uint32
	absent bool // the row group has a value -1

	strings map[string]uint32
	order   []string
	runs    []run // of the whole row group

	low, high int32 // of scalar integers
	body      []byte
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

// AppendInts appends whole rows of integers.
func (c *ColumnWriter) AppendInts(values []int32) error {
	for len(values) > 0 {
		n := min(len(values), c.most*c.width-c.pending)
		c.ints = append(c.ints, values[:n]...)
		values = values[n:]
		if err := c.grow(n); err != nil {
			return err
		}
	}
	return nil
}

// AppendFloats appends whole rows of floating-point numbers. A finite number
// that overflows a half float is an error.
func (c *ColumnWriter) AppendFloats(values []float32) error {
	for len(values) > 0 {
		n := min(len(values), c.most*c.width-c.pending)
		if c.spec.Kind == Float16 {
			if err := c.fits(values[:n]); err != nil {
				return err
			}
			c.raw = appendHalves(c.raw, values[:n])
		} else {
			c.raw = appendFloats(c.raw, values[:n])
		}
		values = values[n:]
		if err := c.grow(n); err != nil {
			return err
		}
	}
	return nil
}

// fits checks that no finite number overflows a half float.
func (c *ColumnWriter) fits(values []float32) error {
	if Magnitude(values) < halfLoss {
		return nil
	}
	for i, v := range values {
		if FloatToHalf(v)&0x7fff == 0x7c00 && !math.IsInf(float64(v), 0) {
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

// grow accounts for n appended values and ends a full page.
func (c *ColumnWriter) grow(n int) error {
	c.pending += n
	if c.pending < c.most*c.width {
		return nil
	}
	return c.endPage()
}

// endPage encodes the unfinished page. Pages are of version 1, whose levels
// are compressed with the values: those of equal lists vanish.
func (c *ColumnWriter) endPage() error {
	if c.pending == 0 {
		return nil
	}
	c.body = c.body[:0]
	if c.spec.Width > 0 {
		c.body = appendLevels(c.body, c.pending, c.width)
	}
	switch c.spec.Kind {
	case Int32:
		for _, v := range c.ints {
			c.body = binary.LittleEndian.AppendUint32(c.body, uint32(v))
		}
	case Counter:
		c.body = appendDelta(c.body, c.ints)
	case Index16, Index32:
		if err := c.encodeIndex(); err != nil {
			return err
		}
	default:
		if c.spec.Split {
			c.body = appendSplit(c.body, c.raw, len(c.raw)/c.pending)
		} else {
			c.body = append(c.body, c.raw...)
		}
	}
	if c.spec.Width == 0 && len(c.ints) > 0 {
		c.bounds()
	}
	if c.spec.Width > 0 {
		c.rows += int64(c.pending / c.width)
	} else {
		c.rows += int64(c.pending)
	}
	err := c.emit(c.pending, c.spec.dataEncoding())
	c.ints, c.raw, c.pending = c.ints[:0], c.raw[:0], 0
	return err
}

// encodeIndex appends the dictionary indexes of the page. The dictionary is
// the identity, followed by -1 where it occurs, so that pages can be written
// before the row group's values are all known.
func (c *ColumnWriter) encodeIndex() error {
	n := c.spec.Values
	c.index = c.index[:0]
	most := uint32(n - 1)
	for i, v := range c.ints {
		if v < -1 || int(v) >= n {
			return fmt.Errorf("column %q: %d (value %d) is not in -1..%d", c.spec.Name, v, i, n-1)
		}
		if v < 0 {
			v = int32(n)
			most = uint32(n)
			c.absent = true
		}
		c.index = append(c.index, uint32(v))
	}
	width := uint(max(1, bits.Len32(most)))
	c.body = append(c.body, byte(width))
	c.body = appendPacked(c.body, c.index, width)
	return nil
}

// appendLevels appends the levels of n values in lists of width.
func appendLevels(dst []byte, n, width int) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = appendRepetition(dst, n, width)
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

// bounds widens the statistics by the unfinished page.
func (c *ColumnWriter) bounds() {
	if c.npages == 0 {
		c.low, c.high = c.ints[0], c.ints[0]
	}
	for _, v := range c.ints {
		c.low, c.high = min(c.low, v), max(c.high, v)
	}
}

// emit ends a data page of n values whose body is ready.
func (c *ColumnWriter) emit(n int, e format.Encoding) error {
	size, err := c.w.page(&c.pages, format.PageHeader{
		Type: format.DataPage,
		DataPageHeader: thrift.New(format.DataPageHeader{
			NumValues:               int32(n),
			Encoding:                e,
			DefinitionLevelEncoding: format.RLE,
			RepetitionLevelEncoding: format.RLE,
		}),
	}, c.body)
	c.unpack += size
	c.npages++
	return err
}

// emitStrings encodes the whole row group as one page of runs.
func (c *ColumnWriter) emitStrings() error {
	width := uint(max(1, bits.Len(uint(len(c.order)-1))))
	c.body = append(c.body[:0], byte(width))
	for _, r := range c.runs {
		c.body = appendRun(c.body, r.value, r.n, width)
	}
	return c.emit(int(c.rows), format.RLEDictionary)
}

// dictionary returns the body of the dictionary page and its entries, if any.
func (c *ColumnWriter) dictionary() (b []byte, n int) {
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
		if c.absent {
			b = binary.LittleEndian.AppendUint32(b, math.MaxUint32)
			n++
		}
	}
	return b, n
}
