package pq

import (
	"encoding/binary"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// flush writes the column's chunk of the row group and starts the next.
func (c *ColumnWriter) flush() (format.ColumnChunk, error) {
	if c.spec.Kind == String {
		if err := c.emitStrings(); err != nil {
			return format.ColumnChunk{}, err
		}
	}
	m := format.ColumnMetaData{
		Type:         c.spec.leaf().Type.V,
		PathInSchema: c.spec.path(),
		Codec:        c.spec.codec(),
		NumValues:    c.rows * int64(c.width),
		Statistics:   c.statistics(),
		Encoding:     []format.Encoding{format.RLE},
	}
	start := c.w.offset
	data := c.spec.dataEncoding()
	if data == format.RLEDictionary {
		size, err := c.writeDictionary()
		if err != nil {
			return format.ColumnChunk{}, err
		}
		m.DictionaryPageOffset = start
		m.TotalUncompressedSize += size
		m.Encoding = append(m.Encoding, format.Plain)
		m.EncodingStats = append(m.EncodingStats, format.PageEncodingStats{
			PageType: format.DictionaryPage, Encoding: format.Plain, Count: 1})
	}
	m.Encoding = append(m.Encoding, data)
	m.EncodingStats = append(m.EncodingStats, format.PageEncodingStats{
		PageType: format.DataPage, Encoding: data, Count: int32(len(c.pages))})
	m.DataPageOffset = c.w.offset
	for _, p := range c.pages {
		m.TotalUncompressedSize += p.unpacked
		c.w.writePage(p)
	}
	m.TotalCompressedSize = c.w.offset - start
	c.reset()
	return format.ColumnChunk{FileOffset: start, MetaData: m}, c.w.err
}

func (c *ColumnWriter) writeDictionary() (int64, error) {
	b, n := c.dictionary()
	var p page
	err := p.pack(format.PageHeader{
		Type: format.DictionaryPage,
		DictionaryPageHeader: thrift.New(format.DictionaryPageHeader{
			NumValues: int32(n), Encoding: format.Plain}),
	}, b)
	c.w.writePage(&p)
	return p.unpacked, err
}

// statistics returns the bounds of strings and scalar integers, by which a
// reader skips row groups that hold nothing selected.
func (c *ColumnWriter) statistics() format.Statistics {
	var s format.Statistics
	switch {
	case c.spec.Kind == String:
		low, high := c.order[0], c.order[0]
		for _, v := range c.order {
			low, high = min(low, v), max(high, v)
		}
		if len(low) <= maxBound && len(high) <= maxBound {
			s.MinValue, s.MaxValue = []byte(low), []byte(high)
		}
	case c.spec.Width == 0:
		s.MinValue = binary.LittleEndian.AppendUint32(nil, uint32(c.low))
		s.MaxValue = binary.LittleEndian.AppendUint32(nil, uint32(c.high))
	}
	return s
}

func (c *ColumnWriter) reset() {
	clear(c.pages)
	c.pages, c.rows, c.buffered = c.pages[:0], 0, 0
	clear(c.strings)
	c.order, c.runs = c.order[:0], c.runs[:0]
}
