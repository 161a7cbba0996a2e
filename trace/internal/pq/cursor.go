package pq

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

const (
	maxPageHeader = 1 << 20
	// A page may be larger than freePage only in proportion to its stored size.
	freePage     = 64 << 20
	maxPageRatio = 64
)

// plainDictionary is what old writers call RLEDictionary.
const plainDictionary format.Encoding = 2

// Cursor reads the values of one column in one row group, in order. Lists must
// all have the same length and hold no nulls; anything else is an error.
type Cursor struct {
	// MaxPage is the maximum size of a page in bytes unpacked; 0: what its stored
	// size justifies.
	MaxPage int64

	f      *File
	col    Column
	codec  format.CompressionCodec
	at     int64 // file offset of the next page
	end    int64
	unread int64 // values in pages that were not reached
	width  int   // values a row
	phase  int   // values of the current row that were read

	// The current page.
	left     int // values
	read     int // values read
	rep, def hybrid
	encoding format.Encoding
	plain    []byte // PLAIN values left; all values for BYTE_STREAM_SPLIT
	index    hybrid
	delta    *delta

	dict    dictionary
	hasDict bool
	stored  []byte // reused for compressed pages
	body    []byte // reused for decompressed pages
	scratch [1024]uint32

	// The levels of pages of the usual form are compared at once with those of
	// lists of equal length.
	checked  bool
	pattern  []byte // repetition levels of patternN values that start a row
	patternN int
}

// dictionary is a decoded dictionary page; the field of the column's kind is set.
type dictionary struct {
	ints    []int32
	floats  []float32
	strings []string
}

// Cursor starts reading a column of a row group whose rows hold width values.
func (f *File) Cursor(group int, c Column, width int) (*Cursor, error) {
	m := &f.meta.RowGroups[group].Columns[c.index].MetaData
	if m.Type != c.Type {
		return nil, fmt.Errorf("%w: chunk of type %v, %v in the schema", ErrCorrupt, m.Type, c.Type)
	}
	if c.MaxRep > 1 {
		return nil, fmt.Errorf("%w: lists of lists", ErrUnsupported)
	}
	rows := f.meta.RowGroups[group].NumRows
	if width < 1 || c.MaxRep == 0 && width != 1 {
		return nil, fmt.Errorf("%w: one value a row, not a list of %d", ErrUnsupported, width)
	}
	if m.NumValues%int64(width) != 0 || m.NumValues/int64(width) != rows {
		return nil, fmt.Errorf("%w: %d values in %d rows, expected %d a row", ErrCorrupt, m.NumValues, rows, width)
	}
	start, length := chunkRange(m)
	return &Cursor{f: f, col: c, codec: m.Codec, at: start, end: start + length, unread: m.NumValues, width: width}, nil
}

// header reads the header of the next page and moves to its body.
func (c *Cursor) header() (*format.PageHeader, error) {
	for size := int64(512); ; size *= 8 {
		b := make([]byte, min(size, c.end-c.at))
		if len(b) == 0 {
			return nil, fmt.Errorf("%w: pages end %d values early", ErrCorrupt, c.unread)
		}
		if k, err := c.f.r.ReadAt(b, c.at); k < len(b) {
			return nil, fmt.Errorf("reading a page header: %w", err)
		}
		n, err := checkThrift(b)
		if err != nil {
			if size < maxPageHeader && int64(len(b)) == size {
				continue // the header may be longer
			}
			return nil, fmt.Errorf("page header: %w", err)
		}
		h := new(format.PageHeader)
		var protocol thrift.CompactProtocol
		if err := thrift.Unmarshal(&protocol, b[:n], h); err != nil {
			return nil, fmt.Errorf("%w: page header: %w", ErrCorrupt, err)
		}
		c.at += int64(n)
		stored, plain := int64(h.CompressedPageSize), int64(h.UncompressedPageSize)
		if stored < 0 || stored > c.end-c.at || plain < 0 || plain > freePage+maxPageRatio*stored {
			return nil, fmt.Errorf("%w: page of %d bytes, %d unpacked, with %d left", ErrCorrupt, stored, plain, c.end-c.at)
		}
		if c.MaxPage > 0 && plain > c.MaxPage {
			return nil, fmt.Errorf("%w: page of %d bytes, more than %d", ErrUnsupported, plain, c.MaxPage)
		}
		return h, nil
	}
}

// ignoreChecksums lets fuzzing reach the decoders.
var ignoreChecksums = false

// load reads the stored bytes of a page.
func (c *Cursor) load(h *format.PageHeader) ([]byte, error) {
	n := int(h.CompressedPageSize)
	if cap(c.stored) < n {
		c.stored = make([]byte, n)
	}
	b := c.stored[:n]
	if k, err := c.f.r.ReadAt(b, c.at); k < n {
		return nil, fmt.Errorf("reading a page: %w", err)
	}
	c.at += int64(n)
	if h.CRC != 0 && !ignoreChecksums && crc32.ChecksumIEEE(b) != uint32(h.CRC) {
		return nil, fmt.Errorf("%w: checksum of the page at byte %d is wrong", ErrCorrupt, c.at-int64(n))
	}
	return b, nil
}

// unpack decompresses b to size bytes, in a buffer that the next page reuses.
func (c *Cursor) unpack(b []byte, size int) ([]byte, error) {
	if c.codec == format.Uncompressed && len(b) == size {
		return b, nil
	}
	if size == 0 {
		return nil, nil
	}
	if cap(c.body) < size {
		c.body = make([]byte, size)
	}
	return c.body[:size], decompress(c.body[:size], b, c.codec)
}

// next moves to the next data page, skipping unread pages of at most skip values
// in all. It returns the number of values skipped.
func (c *Cursor) next(skip int64) (int64, error) {
	var passed int64
	for {
		h, err := c.header()
		if err != nil {
			return passed, err
		}
		var n int32
		switch {
		case h.Type == format.DictionaryPage && h.DictionaryPageHeader.Valid:
			if err := c.loadDictionary(h); err != nil {
				return passed, err
			}
			continue
		case h.Type == format.DataPage && h.DataPageHeader.Valid:
			n = h.DataPageHeader.V.NumValues
		case h.Type == format.DataPageV2 && h.DataPageHeaderV2.Valid:
			n = h.DataPageHeaderV2.V.NumValues
		default: // for example an index page
			c.at += int64(h.CompressedPageSize)
			continue
		}
		if n < 0 || int64(n) > c.unread {
			return passed, fmt.Errorf("%w: page of %d values where %d are left", ErrCorrupt, n, c.unread)
		}
		c.unread -= int64(n)
		if int64(n) <= skip {
			c.at += int64(h.CompressedPageSize)
			skip -= int64(n)
			passed += int64(n)
			c.phase = int((int64(c.phase) + int64(n)) % int64(c.width))
			if skip == 0 {
				return passed, nil
			}
			continue
		}
		return passed, c.loadData(h, int(n))
	}
}

func (c *Cursor) loadData(h *format.PageHeader, n int) error {
	b, err := c.load(h)
	if err != nil {
		return err
	}
	c.left, c.read = n, 0
	if err := c.split(h, b); err != nil {
		return err
	}
	c.checkLevels(n)
	return nil
}

// split prepares the decoders of a data page's levels and values.
func (c *Cursor) split(h *format.PageHeader, b []byte) (err error) {
	if h.Type == format.DataPage {
		d := &h.DataPageHeader.V
		if b, err = c.unpack(b, int(h.UncompressedPageSize)); err != nil {
			return err
		}
		if b, err = c.levelsV1(b, c.col.MaxRep, &c.rep); err != nil {
			return err
		}
		if b, err = c.levelsV1(b, c.col.MaxDef, &c.def); err != nil {
			return err
		}
		return c.values(b, d.Encoding)
	}
	d := &h.DataPageHeaderV2.V
	rep, def := int(d.RepetitionLevelsByteLength), int(d.DefinitionLevelsByteLength)
	if rep < 0 || def < 0 || rep > len(b) || def > len(b)-rep || d.NumNulls != 0 {
		return fmt.Errorf("%w: levels of %d and %d bytes, %d nulls", ErrCorrupt, rep, def, d.NumNulls)
	}
	if c.rep, err = newHybrid(b[:rep], uint(bits.Len(uint(c.col.MaxRep)))); err != nil {
		return err
	}
	if c.def, err = newHybrid(b[rep:rep+def], uint(bits.Len(uint(c.col.MaxDef)))); err != nil {
		return err
	}
	b = b[rep+def:]
	if !d.IsCompressed.Valid || d.IsCompressed.V {
		size := int(h.UncompressedPageSize) - rep - def
		if size < 0 {
			return fmt.Errorf("%w: page of %d bytes with levels of %d", ErrCorrupt, h.UncompressedPageSize, rep+def)
		}
		if b, err = c.unpack(b, size); err != nil {
			return err
		}
	}
	return c.values(b, d.Encoding)
}

// levelsV1 reads levels, with their length before them, and returns the rest of
// the page.
func (c *Cursor) levelsV1(b []byte, most int, h *hybrid) ([]byte, error) {
	if most == 0 {
		return b, nil
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: levels end early", ErrCorrupt)
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, fmt.Errorf("%w: levels end early", ErrCorrupt)
	}
	var err error
	*h, err = newHybrid(b[4:4+n], uint(bits.Len(uint(most))))
	return b[4+n:], err
}

// values prepares the decoder of a page's values.
func (c *Cursor) values(b []byte, e format.Encoding) error {
	c.encoding = e
	switch e {
	case format.Plain:
		c.plain = b
		return nil
	case format.ByteStreamSplit:
		c.plain = b
		if size := c.size(); size == 0 || len(b) != size*c.left {
			return fmt.Errorf("%w: %d bytes for %d split values", ErrCorrupt, len(b), c.left)
		}
		return nil
	case plainDictionary, format.RLEDictionary:
		c.encoding = format.RLEDictionary
		if !c.hasDict {
			return fmt.Errorf("%w: no dictionary before the first page", ErrCorrupt)
		}
		if len(b) == 0 {
			return fmt.Errorf("%w: no dictionary indexes", ErrCorrupt)
		}
		var err error
		c.index, err = newHybrid(b[1:], uint(b[0]))
		return err
	case format.DeltaBinaryPacked:
		var err error
		c.delta, err = newDelta(b)
		return err
	case format.RLE: // of booleans, with their length before them
		if c.col.Type == format.Boolean {
			_, err := c.levelsV1(b, 1, &c.index)
			return err
		}
	}
	return fmt.Errorf("%w: encoding %v", ErrUnsupported, e)
}

// size returns the bytes of a value of fixed size, 0 for others.
func (c *Cursor) size() int {
	switch c.col.Type {
	case format.Int32, format.Float:
		return 4
	case format.Int64, format.Double:
		return 8
	case format.FixedLenByteArray:
		if c.col.Length == 2 {
			return 2
		}
	}
	return 0
}

// Done checks that all values were read or skipped.
func (c *Cursor) Done() error {
	if c.left > 0 || c.unread > 0 || c.phase != 0 {
		return fmt.Errorf("%w: %d values are left over", ErrCorrupt, int64(c.left)+c.unread)
	}
	return nil
}
