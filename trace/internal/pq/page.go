package pq

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// page is a page on its way into a file: values to encode, then bytes to write.
type page struct {
	n      int // values
	ints   []int32
	raw    []byte // little-endian floating-point numbers; of Bool, a byte each
	absent bool   // ints contains -1

	head, levels, body []byte // what is written, one after the other
	unpacked           int64  // bytes before compression, header included
	err                error
}

// encode encodes the page's values. It reads only constant fields of c, so that
// several pages can be encoded at once. Pages are of version 1,
// whose levels are compressed with the values: those of equal lists vanish.
func (c *ColumnWriter) encode(p *page) {
	if c.spec.codec() == format.Uncompressed {
		if c.spec.Width > 0 {
			p.levels = appendLevels(nil, p.n, c.width, true)
		}
		p.body, p.raw = p.raw, nil
		p.err = p.finish(c.dataHeader(p.n), len(p.levels)+len(p.body))
		return
	}
	body := spareBytes.take()
	if c.spec.Width > 0 {
		body = appendLevels(body, p.n, c.width, false)
	}
	switch c.spec.Kind {
	case Int32:
		for _, v := range p.ints {
			body = binary.LittleEndian.AppendUint32(body, uint32(v))
		}
	case Counter:
		body = appendDelta(body, p.ints)
	case Index16, Index32:
		body, p.err = c.encodeIndex(body, p)
	case Bool:
		body = appendBits(body, p.raw)
	default:
		if c.spec.Split {
			body = appendSplit(body, p.raw, len(p.raw)/p.n)
		} else {
			body = append(body, p.raw...)
		}
	}
	spareInts.give(p.ints)
	spareBytes.give(p.raw)
	p.ints, p.raw = nil, nil
	if p.err == nil {
		p.err = p.pack(c.dataHeader(p.n), body)
	}
	spareBytes.give(body)
}

func (c *ColumnWriter) dataHeader(n int) format.PageHeader {
	return format.PageHeader{
		Type: format.DataPage,
		DataPageHeader: thrift.New(format.DataPageHeader{
			NumValues:               int32(n),
			Encoding:                c.spec.dataEncoding(),
			DefinitionLevelEncoding: format.RLE,
			RepetitionLevelEncoding: format.RLE,
		}),
	}
}

// encodeIndex appends the dictionary indexes of the page. The dictionary is
// the identity, followed by -1 where it occurs, so that pages can be written
// before the row group's values are all known.
func (c *ColumnWriter) encodeIndex(body []byte, p *page) ([]byte, error) {
	n := c.spec.Values
	most := uint32(n - 1)
	index := make([]uint32, len(p.ints))
	for i, v := range p.ints {
		if v < -1 || int(v) >= n {
			return body, fmt.Errorf("column %q: %d (value %d) is not in -1..%d", c.spec.Name, v, i, n-1)
		}
		if v < 0 {
			v = int32(n)
			most = uint32(n)
			p.absent = true
		}
		index[i] = uint32(v)
	}
	width := uint(max(1, bits.Len32(most)))
	return appendPacked(append(body, byte(width)), index, width), nil
}

// EncodeAll is safe for concurrent use, and its output does not depend on what
// was encoded before.
var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.NumCPU()), zstd.WithEncoderLevel(zstd.SpeedFastest))
})

// pack compresses body into the page.
func (p *page) pack(h format.PageHeader, body []byte) error {
	z, err := zstdEncoder()
	if err != nil {
		return err
	}
	p.body = z.EncodeAll(body, spareBytes.take())
	return p.finish(h, len(body))
}

// finish makes the header of a page whose levels and body are ready, where
// unpacked is their size before compression.
func (p *page) finish(h format.PageHeader, unpacked int) error {
	h.UncompressedPageSize = int32(unpacked)
	h.CompressedPageSize = int32(len(p.levels) + len(p.body))
	h.CRC = int32(crc32.Update(crc32.ChecksumIEEE(p.levels), crc32.IEEETable, p.body))
	var err error
	p.head, err = thrift.Marshal(new(thrift.CompactProtocol), &h)
	p.unpacked = int64(len(p.head) + unpacked)
	return err
}

// spare keeps slices for use again.
type spare[T any] struct{ pool sync.Pool }

var (
	spareBytes spare[byte]
	spareInts  spare[int32]
)

// take returns an empty slice.
func (s *spare[T]) take() []T {
	if b, ok := s.pool.Get().(*[]T); ok {
		return (*b)[:0]
	}
	return nil
}

func (s *spare[T]) give(b []T) {
	if cap(b) > 0 {
		s.pool.Put(&b)
	}
}
