package pq

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parquet-go/parquet-go/format"
)

// Verify checks the pages of a column in a row group against their checksums and
// the footer. It decodes dictionaries only. A page without a checksum is only
// checked against the footer.
func (f *File) Verify(group int, col Column) error {
	m := &f.meta.RowGroups[group].Columns[col.index].MetaData
	if m.Type != col.Type {
		return fmt.Errorf("%w: chunk holds %v, the schema says %v", ErrCorrupt, m.Type, col.Type)
	}
	if m.Codec < format.Uncompressed || m.Codec > format.Lz4Raw {
		return fmt.Errorf("%w: compression %v", ErrCorrupt, m.Codec)
	}
	start, length := chunkRange(m)
	c := &Cursor{f: f, col: col, codec: m.Codec, at: start, end: start + length, unread: m.NumValues}
	var unpacked int64
	for c.at < c.end {
		begin := c.at
		h, err := c.header()
		if err != nil {
			return err
		}
		unpacked += c.at - begin + int64(h.UncompressedPageSize)
		if err := c.verify(h, m); err != nil {
			return fmt.Errorf("page at byte %d: %w", begin, err)
		}
	}
	if c.unread > 0 {
		return fmt.Errorf("%w: pages end %d values early", ErrCorrupt, c.unread)
	}
	if unpacked != m.TotalUncompressedSize {
		return fmt.Errorf("%w: pages of %d bytes unpacked, %d in the footer", ErrCorrupt, unpacked, m.TotalUncompressedSize)
	}
	return nil
}

// verify checks a page whose header was read.
func (c *Cursor) verify(h *format.PageHeader, m *format.ColumnMetaData) error {
	var n int32
	var e format.Encoding
	switch {
	case h.Type == format.DictionaryPage && h.DictionaryPageHeader.Valid:
		if err := c.loadDictionary(h); !errors.Is(err, ErrUnsupported) {
			return err
		}
		return nil
	case h.Type == format.DataPage && h.DataPageHeader.Valid:
		n, e = h.DataPageHeader.V.NumValues, h.DataPageHeader.V.Encoding
	case h.Type == format.DataPageV2 && h.DataPageHeaderV2.Valid:
		n, e = h.DataPageHeaderV2.V.NumValues, h.DataPageHeaderV2.V.Encoding
	default:
		return fmt.Errorf("%w: unknown type", ErrCorrupt)
	}
	if n < 0 || int64(n) > c.unread {
		return fmt.Errorf("%w: %d values where %d are left", ErrCorrupt, n, c.unread)
	}
	listed := len(m.EncodingStats) == 0 && slices.Contains(m.Encoding, e)
	for _, x := range m.EncodingStats {
		listed = listed || x.PageType != format.DictionaryPage && x.Encoding == e
	}
	if !listed {
		return fmt.Errorf("%w: encoding %v is not in the footer", ErrCorrupt, e)
	}
	c.unread -= int64(n)
	_, err := c.load(h)
	return err
}
