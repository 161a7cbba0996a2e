package pq

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Shape of the blocks that appendDelta writes, the usual one.
const (
	deltaBlock = 128
	deltaMinis = 4
	deltaMini  = deltaBlock / deltaMinis
)

// delta decodes DELTA_BINARY_PACKED (Encodings.md, 5).
type delta struct {
	b      []byte
	total  uint64 // values not yet returned
	last   int64
	first  bool // the first value has not been returned
	minis  int  // miniblocks of a block
	size   int  // values of a miniblock
	min    int64
	widths []byte
	mini   int // next miniblock of the block
	bits   hybrid
	left   int // values left in the current miniblock
}

func newDelta(b []byte) (*delta, error) {
	var head [4]uint64
	for i := range head {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, fmt.Errorf("%w: delta header ends early", ErrCorrupt)
		}
		head[i], b = n, b[size:]
	}
	block, minis, total := head[0], head[1], head[2]
	if minis == 0 || minis > 1<<10 || block > 1<<20 || block == 0 || block%minis != 0 || (block/minis)%8 != 0 {
		return nil, fmt.Errorf("%w: delta blocks of %d values in %d parts", ErrCorrupt, block, minis)
	}
	return &delta{b: b, total: total, first: true, last: unzigzag(head[3]),
		minis: int(minis), size: int(block / minis), mini: int(minis)}, nil
}

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

func zigzag(n int64) uint64 { return uint64(n)<<1 ^ uint64(n>>63) }

// next starts the next miniblock.
func (d *delta) next() error {
	if d.mini == d.minis {
		n, size := binary.Uvarint(d.b)
		if size <= 0 || len(d.b)-size < d.minis {
			return fmt.Errorf("%w: delta block ends early", ErrCorrupt)
		}
		d.min = unzigzag(n)
		d.widths = d.b[size : size+d.minis]
		d.b = d.b[size+d.minis:]
		d.mini = 0
	}
	width := uint(d.widths[d.mini])
	d.mini++
	if width > 64 {
		return fmt.Errorf("%w: deltas of %d bits", ErrCorrupt, width)
	}
	bytes := d.size / 8 * int(width)
	if bytes > len(d.b) {
		return fmt.Errorf("%w: delta block ends early", ErrCorrupt)
	}
	d.bits = hybrid{b: d.b[:bytes], width: width}
	d.b = d.b[bytes:]
	d.left = d.size
	return nil
}

// read returns the next value.
func (d *delta) read() (int64, error) {
	if d.total == 0 {
		return 0, fmt.Errorf("%w: delta values end early", ErrCorrupt)
	}
	d.total--
	if d.first {
		d.first = false
		return d.last, nil
	}
	if d.left == 0 {
		if err := d.next(); err != nil {
			return 0, err
		}
	}
	d.left--
	d.last += d.min + int64(d.bits.wide())
	return d.last, nil
}

// wide returns the next bit-packed value of up to 64 bits; the caller has
// checked that it is there.
func (h *hybrid) wide() uint64 {
	if h.width == 0 {
		return 0
	}
	at, shift := h.bit/8, h.bit%8
	var word [16]byte
	copy(word[:9], h.b[at:])
	x := binary.LittleEndian.Uint64(word[:]) >> shift
	if shift > 0 {
		x |= uint64(word[8]) << (64 - shift)
	}
	h.bit += uint64(h.width)
	if h.width < 64 {
		x &= 1<<h.width - 1
	}
	return x
}

// appendDelta appends the values in DELTA_BINARY_PACKED.
func appendDelta(dst []byte, values []int32) []byte {
	dst = binary.AppendUvarint(dst, deltaBlock)
	dst = binary.AppendUvarint(dst, deltaMinis)
	dst = binary.AppendUvarint(dst, uint64(len(values)))
	if len(values) == 0 {
		return binary.AppendUvarint(dst, 0)
	}
	dst = binary.AppendUvarint(dst, zigzag(int64(values[0])))
	for i := 1; i < len(values); i += deltaBlock {
		n := min(deltaBlock, len(values)-i)
		dst = appendDeltaBlock(dst, values[i-1:i+n])
	}
	return dst
}

// appendDeltaBlock appends one block: the differences of consecutive values,
// in 32-bit arithmetic that wraps around.
func appendDeltaBlock(dst []byte, values []int32) []byte {
	var deltas [deltaBlock]int32
	n := len(values) - 1
	least := values[1] - values[0]
	for i := range n {
		deltas[i] = values[i+1] - values[i]
		least = min(least, deltas[i])
	}
	dst = binary.AppendUvarint(dst, zigzag(int64(least)))
	var widths [deltaMinis]byte
	for i := range n {
		deltas[i] -= least
		widths[i/deltaMini] = max(widths[i/deltaMini], byte(bits.Len32(uint32(deltas[i]))))
	}
	dst = append(dst, widths[:]...)
	for m, width := range widths {
		if m*deltaMini >= n {
			break // a block's unused miniblocks are omitted
		}
		var acc uint64
		var have uint
		for i := range deltaMini { // padded with zeros beyond n
			acc |= uint64(uint32(deltas[m*deltaMini+i])) << have
			for have += uint(width); have >= 8; have -= 8 {
				dst = append(dst, byte(acc))
				acc >>= 8
			}
		}
	}
	return dst
}
