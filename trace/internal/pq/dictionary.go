package pq

import (
	"fmt"

	"github.com/parquet-go/parquet-go/format"
)

// loadDictionary decodes a dictionary page, which is always PLAIN.
func (c *Cursor) loadDictionary(h *format.PageHeader) error {
	if c.hasDict {
		return fmt.Errorf("%w: a second dictionary", ErrCorrupt)
	}
	b, err := c.load(h)
	if err != nil {
		return err
	}
	if b, err = c.unpack(b, int(h.UncompressedPageSize)); err != nil {
		return err
	}
	c.hasDict = true
	n := int(h.DictionaryPageHeader.V.NumValues)
	if c.col.Type == format.ByteArray {
		if n < 0 || n > len(b)/4 {
			return fmt.Errorf("%w: %d strings in %d bytes", ErrCorrupt, n, len(b))
		}
		c.dict.strings = make([]string, n)
		for i := range n {
			if c.dict.strings[i], b, err = plainString(b); err != nil {
				return err
			}
		}
		if len(b) > 0 {
			return fmt.Errorf("%w: %d bytes follow the dictionary's %d strings", ErrCorrupt, len(b), n)
		}
		return nil
	}
	size := c.size()
	if size == 0 {
		return fmt.Errorf("%w: dictionary of %v", ErrUnsupported, c.col.Type)
	}
	if n < 0 || n*size != len(b) {
		return fmt.Errorf("%w: dictionary of %d values in %d bytes", ErrCorrupt, n, len(b))
	}
	if c.col.Type == format.Int32 || c.col.Type == format.Int64 {
		c.dict.ints = make([]int32, n)
		_, err = plainInts(c.dict.ints, b, size)
		return err
	}
	c.dict.floats = make([]float32, n)
	_, err = plainFloats(c.dict.floats, b, size)
	return err
}

// Skip skips n values.
func (c *Cursor) Skip(n int64) error {
	for n > 0 {
		if c.left == 0 {
			passed, err := c.next(n)
			if err != nil {
				return err
			}
			n -= passed
			continue
		}
		k, err := c.take(int(min(n, int64(c.left))))
		if err != nil {
			return err
		}
		if err := c.pass(k); err != nil {
			return err
		}
		c.read += k
		n -= int64(k)
	}
	return nil
}

// pass moves the decoder of the current page over n values.
func (c *Cursor) pass(n int) error {
	switch c.encoding {
	case format.Plain:
		if c.col.Type == format.Boolean {
			return c.hasBits(n)
		}
		if c.col.Type != format.ByteArray {
			if len(c.plain) < n*c.size() {
				return errPlain
			}
			c.plain = c.plain[n*c.size():]
			return nil
		}
		for range n {
			var err error
			if _, c.plain, err = plainString(c.plain); err != nil {
				return err
			}
		}
	case format.RLEDictionary, format.RLE:
		return c.index.skip(n)
	case format.DeltaBinaryPacked:
		for range n {
			if _, err := c.delta.read(); err != nil {
				return err
			}
		}
	}
	return nil
}
