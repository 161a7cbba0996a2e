package pq

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// One decoder serves all: DecodeAll is safe for concurrent use. Its output is
// bounded by the capacity of the destination, whatever a frame claims.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(1<<30))
})

// decompress unpacks src into dst, whose length is the size that the page
// header states. It never writes nor allocates more than that.
func decompress(dst, src []byte, codec format.CompressionCodec) error {
	n := 0
	var err error
	switch codec {
	case format.Uncompressed:
		n = copy(dst, src)
		if len(src) != len(dst) {
			err = fmt.Errorf("%d bytes stored", len(src))
		}
	case format.Zstd:
		var d *zstd.Decoder
		if d, err = zstdDecoder(); err != nil {
			return err
		}
		var out []byte
		out, err = d.DecodeAll(src, dst[:0:len(dst)])
		n = len(out)
	case format.Snappy:
		if n, err = snappy.DecodedLen(src); err == nil && n <= len(dst) {
			_, err = snappy.Decode(dst, src)
		}
	case format.Gzip:
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(src)); err == nil {
			if n, err = io.ReadFull(z, dst); err == nil {
				_, err = io.ReadFull(z, make([]byte, 1))
				if err == io.EOF {
					err = nil
				} else if err == nil {
					n++
				}
			}
		}
	case format.Lz4Raw:
		n, err = lz4.UncompressBlock(src, dst)
	default:
		return fmt.Errorf("%w: compression %v", ErrUnsupported, codec)
	}
	if err != nil {
		return fmt.Errorf("%w: decompressing a page: %w", ErrCorrupt, err)
	}
	if n != len(dst) {
		return fmt.Errorf("%w: page of %d bytes, %d in its header", ErrCorrupt, n, len(dst))
	}
	return nil
}
