package pq

import (
	"fmt"

	"github.com/parquet-go/parquet-go/format"
)

// appendBits appends booleans, a byte each, as bits, low ones first.
func appendBits(dst, bools []byte) []byte {
	for i, b := range bools {
		if i%8 == 0 {
			dst = append(dst, 0)
		}
		dst[len(dst)-1] |= b << (i % 8)
	}
	return dst
}

// ReadBools fills dst with the next values of a column of booleans.
func (c *Cursor) ReadBools(dst []bool) error {
	if c.col.Type != format.Boolean {
		return fmt.Errorf("%w: %v where booleans belong", ErrUnsupported, c.col.Type)
	}
	return fill(c, dst, c.bools)
}

func (c *Cursor) bools(dst []bool) error {
	switch c.encoding {
	case format.Plain:
		if err := c.hasBits(len(dst)); err != nil {
			return err
		}
		for i := range dst {
			at := c.read + i
			dst[i] = c.plain[at/8]>>(at%8)&1 != 0
		}
		return nil
	case format.RLE:
		values := c.scratch[:len(dst)]
		if err := c.index.read(values); err != nil {
			return err
		}
		for i, v := range values {
			dst[i] = v != 0
		}
		return nil
	}
	return fmt.Errorf("%w: encoding %v of booleans", ErrUnsupported, c.encoding)
}

// hasBits checks that a PLAIN page has n more booleans.
func (c *Cursor) hasBits(n int) error {
	if (c.read+n+7)/8 > len(c.plain) {
		return errPlain
	}
	return nil
}
