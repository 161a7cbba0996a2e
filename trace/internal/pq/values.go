package pq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/parquet-go/parquet-go/format"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

// take moves to the next page if the current one has no more values, checks the
// levels of the next values, at most n and at most a scratch buffer's, and
// returns how many they are. The caller reads exactly these.
func (c *Cursor) take(n int) (int, error) {
	for c.left == 0 {
		if _, err := c.next(0); err != nil {
			return 0, err
		}
	}
	n = min(n, c.left, len(c.scratch))
	if err := c.levels(n); err != nil {
		return 0, err
	}
	c.left -= n
	return n, nil
}

// levels checks that the next n values are not null and that lists have the
// expected length: a repetition level is 0 for the first value of a row and 1
// for the others.
func (c *Cursor) levels(n int) error {
	if c.checked {
		c.phase = (c.phase + n) % c.width
		return nil
	}
	if c.col.MaxDef > 0 {
		for i := 0; i < n; {
			v, k, err := c.def.run(n - i)
			if err != nil {
				return err
			}
			if v != uint32(c.col.MaxDef) {
				return fmt.Errorf("%w: null or empty list", ErrUnsupported)
			}
			i += k
		}
	}
	if c.col.MaxRep == 0 {
		return nil
	}
	levels := c.scratch[:n]
	if err := c.rep.read(levels); err != nil {
		return err
	}
	phase := c.phase
	for _, v := range levels {
		if (v == 0) != (phase == 0) {
			return fmt.Errorf("%w: list does not have %d values", ErrUnsupported, c.width)
		}
		if phase++; phase == c.width {
			phase = 0
		}
	}
	c.phase = phase
	return nil
}

// checkLevels compares the levels of a page of n values that starts a row with
// those that packed levels of equal lists and no nulls have. Others are checked
// value by value.
func (c *Cursor) checkLevels(n int) {
	c.checked = false
	if c.col.MaxRep != 1 || c.phase != 0 || n == 0 || !c.usualRuns(n) && !c.usualBits(n) {
		return
	}
	def := c.def
	v, k, err := def.run(n)
	c.checked = err == nil && k == n && v == uint32(c.col.MaxDef)
}

// usualBits reports whether the repetition levels are those of appendRepetition.
func (c *Cursor) usualBits(n int) bool {
	if len(c.rep.b) < n/8 {
		return false
	}
	if c.patternN != n {
		c.patternN = n
		c.pattern = appendRepetition(c.pattern[:0], n, c.width)
	}
	return bytes.Equal(c.rep.b, c.pattern)
}

// usualRuns reports whether the repetition levels are those of repetitionRuns.
func (c *Cursor) usualRuns(n int) bool {
	row, b := repetitionRuns(c.width), c.rep.b
	if n%c.width != 0 || len(b) != n/c.width*len(row) {
		return false
	}
	for ; len(b) > 0; b = b[len(row):] {
		if !bytes.HasPrefix(b, row) {
			return false
		}
	}
	return true
}

// ReadInts fills dst with the next values of an integer column.
func (c *Cursor) ReadInts(dst []int32) error {
	if c.col.Type != format.Int32 && c.col.Type != format.Int64 {
		return fmt.Errorf("%w: %v where integers belong", ErrUnsupported, c.col.Type)
	}
	return fill(c, dst, c.ints)
}

// fill has dst read, a page's values at a time.
func fill[T any](c *Cursor, dst []T, read func([]T) error) error {
	for len(dst) > 0 {
		n, err := c.take(len(dst))
		if err != nil {
			return err
		}
		if err := read(dst[:n]); err != nil {
			return err
		}
		c.read += n
		dst = dst[n:]
	}
	return nil
}

// lookup fills dst with values of a dictionary, by the next indices.
func lookup[T any](c *Cursor, dst, dict []T) error {
	index := c.scratch[:len(dst)]
	if err := c.index.read(index); err != nil {
		return err
	}
	for i, k := range index {
		if int(k) >= len(dict) {
			return errIndex(k, len(dict))
		}
		dst[i] = dict[k]
	}
	return nil
}

func (c *Cursor) ints(dst []int32) error {
	switch c.encoding {
	case format.Plain:
		rest, err := plainInts(dst, c.plain, c.size())
		c.plain = rest
		return err
	case format.RLEDictionary:
		return lookup(c, dst, c.dict.ints)
	case format.DeltaBinaryPacked:
		for i := range dst {
			v, err := c.delta.read()
			if err != nil {
				return err
			}
			if c.col.Type == format.Int64 && v != int64(int32(v)) {
				return errRange(v)
			}
			dst[i] = int32(v) // 32-bit deltas wrap around
		}
		return nil
	case format.ByteStreamSplit:
		word := make([]byte, c.size())
		for i := range dst {
			c.gather(word, i)
			if _, err := plainInts(dst[i:i+1], word, len(word)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: encoding %v of integers", ErrUnsupported, c.encoding)
}

// splitFloats decodes float32s whose bytes are in four streams, from the
// at-th on.
func splitFloats(dst []float32, b []byte, at int) {
	n := len(b) / 4
	b0, b1, b2, b3 := b[at:], b[n+at:], b[2*n+at:], b[3*n+at:]
	b0, b1, b2, b3 = b0[:len(dst)], b1[:len(dst)], b2[:len(dst)], b3[:len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(b0[i]) | uint32(b1[i])<<8 | uint32(b2[i])<<16 | uint32(b3[i])<<24)
	}
}

// gather collects the bytes of the i-th value from here of a split page.
func (c *Cursor) gather(word []byte, i int) {
	stride := len(c.plain) / len(word)
	for j := range word {
		word[j] = c.plain[j*stride+c.read+i]
	}
}

func errIndex(k uint32, n int) error {
	return fmt.Errorf("%w: index %d into a dictionary of %d", ErrCorrupt, k, n)
}

func errRange(v int64) error {
	return fmt.Errorf("%w: %d does not fit 32 bits", ErrUnsupported, v)
}

var errPlain = fmt.Errorf("%w: page ends early", ErrCorrupt)

// plainInts decodes little-endian integers of 4 or 8 bytes off the front of b.
func plainInts(dst []int32, b []byte, size int) ([]byte, error) {
	if len(b) < len(dst)*size {
		return b, errPlain
	}
	if size == 8 {
		for i := range dst {
			v := int64(binary.LittleEndian.Uint64(b[8*i:]))
			if v != int64(int32(v)) {
				return b, errRange(v)
			}
			dst[i] = int32(v)
		}
		return b[8*len(dst):], nil
	}
	p := b[:4*len(dst)]
	for i := range dst {
		dst[i] = int32(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return b[len(p):], nil
}

// ReadFloats fills dst with the next values of a column of float32, float64 or
// half floats.
func (c *Cursor) ReadFloats(dst []float32) error {
	switch {
	case c.col.Type == format.Float, c.col.Type == format.Double:
	case c.col.Type == format.FixedLenByteArray && c.col.Length == 2 && c.col.Float16:
	default:
		return fmt.Errorf("%w: %v where floating-point numbers belong", ErrUnsupported, c.col.Type)
	}
	return fill(c, dst, c.floats)
}

func (c *Cursor) floats(dst []float32) error {
	switch c.encoding {
	case format.Plain:
		rest, err := plainFloats(dst, c.plain, c.size())
		c.plain = rest
		return err
	case format.RLEDictionary:
		return lookup(c, dst, c.dict.floats)
	case format.ByteStreamSplit:
		if c.col.Type == format.Float {
			splitFloats(dst, c.plain, c.read)
			return nil
		}
		word := make([]byte, c.size())
		for i := range dst {
			c.gather(word, i)
			if _, err := plainFloats(dst[i:i+1], word, len(word)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: encoding %v of floating-point numbers", ErrUnsupported, c.encoding)
}

// plainFloats decodes numbers of 2, 4 or 8 bytes off the front of b.
func plainFloats(dst []float32, b []byte, size int) ([]byte, error) {
	if len(b) < len(dst)*size {
		return b, errPlain
	}
	p := b[:size*len(dst)]
	switch size {
	case 2:
		floats.Halves(dst, p)
	case 4:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
		}
	case 8:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(p[8*i:])))
		}
	}
	return b[len(p):], nil
}

// ReadString returns the next value of a string column and how many times it
// follows in a row, at most limit; equal values may be several runs.
func (c *Cursor) ReadString(limit int) (s string, n int, err error) {
	if c.col.Type != format.ByteArray {
		return "", 0, fmt.Errorf("%w: %v where strings belong", ErrUnsupported, c.col.Type)
	}
	for c.left == 0 {
		if _, err := c.next(0); err != nil {
			return "", 0, err
		}
	}
	limit = min(limit, c.left, len(c.scratch))
	switch c.encoding {
	case format.Plain:
		if s, c.plain, err = plainString(c.plain); err != nil {
			return "", 0, err
		}
		n = 1
	case format.RLEDictionary:
		var k uint32
		if k, n, err = c.index.run(limit); err != nil {
			return "", 0, err
		}
		if int(k) >= len(c.dict.strings) {
			return "", 0, errIndex(k, len(c.dict.strings))
		}
		s = c.dict.strings[k]
	default:
		return "", 0, fmt.Errorf("%w: encoding %v of strings", ErrUnsupported, c.encoding)
	}
	c.left -= n
	c.read += n
	return s, n, c.levels(n)
}

func plainString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", b, errPlain
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return "", b, errPlain
	}
	return string(b[4 : 4+n]), b[4+n:], nil
}
