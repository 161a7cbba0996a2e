package pq

import (
	"encoding/binary"
	"fmt"
)

// hybrid decodes Parquet's RLE/bit-packing hybrid, the coding of levels and of
// dictionary indexes (Encodings.md, RLE = 3), run by run.
type hybrid struct {
	b      []byte
	width  uint   // bits of a value
	value  uint32 // of the current RLE run
	repeat uint64 // values left in the current RLE run
	packed uint64 // values left in the current bit-packed run
	bit    uint64 // position in b of the next bit-packed value, in bits
}

func newHybrid(b []byte, width uint) (hybrid, error) {
	if width > 32 {
		return hybrid{}, fmt.Errorf("%w: values of %d bits", ErrCorrupt, width)
	}
	return hybrid{b: b, width: width}, nil
}

// header reads the header of the next run. A run of no values is skipped.
func (h *hybrid) header() error {
	for h.repeat == 0 && h.packed == 0 {
		n, size := binary.Uvarint(h.b)
		if size <= 0 {
			return fmt.Errorf("%w: levels or indexes end early", ErrCorrupt)
		}
		h.b = h.b[size:]
		if n&1 == 0 {
			width := int(h.width+7) / 8
			if len(h.b) < width {
				return fmt.Errorf("%w: levels or indexes end early", ErrCorrupt)
			}
			h.value = 0
			for i := range width {
				h.value |= uint32(h.b[i]) << (8 * i)
			}
			h.b = h.b[width:]
			h.repeat = n >> 1
			continue
		}
		groups := n >> 1
		// The padding of the last group may be missing.
		if h.width > 0 {
			groups = min(groups, (uint64(len(h.b))+uint64(h.width)-1)/uint64(h.width))
		}
		h.packed = groups * 8
		if h.width == 0 {
			h.repeat, h.value, h.packed = h.packed, 0, 0
		}
		h.bit = 0
	}
	return nil
}

// endPacked moves past a bit-packed run that was read to its end.
func (h *hybrid) endPacked() {
	h.b = h.b[min(uint64(len(h.b)), (h.bit+7)/8):]
	h.bit = 0
}

// run returns the next value and the number of times that it follows, at most
// limit.
func (h *hybrid) run(limit int) (value uint32, n int, err error) {
	if err := h.header(); err != nil {
		return 0, 0, err
	}
	if h.repeat > 0 {
		n = int(min(uint64(limit), h.repeat))
		h.repeat -= uint64(n)
		return h.value, n, nil
	}
	var one [1]uint32
	if err := h.read(one[:]); err != nil {
		return 0, 0, err
	}
	return one[0], 1, nil
}

// read fills dst with the next values.
func (h *hybrid) read(dst []uint32) error {
	for len(dst) > 0 {
		if err := h.header(); err != nil {
			return err
		}
		if h.repeat > 0 {
			n := int(min(uint64(len(dst)), h.repeat))
			for i := range dst[:n] {
				dst[i] = h.value
			}
			h.repeat -= uint64(n)
			dst = dst[n:]
			continue
		}
		n := int(min(uint64(len(dst)), h.packed))
		if err := h.unpack(dst[:n]); err != nil {
			return err
		}
		dst = dst[n:]
		h.packed -= uint64(n)
		if h.packed == 0 {
			h.endPacked()
		}
	}
	return nil
}

// skip skips n values.
func (h *hybrid) skip(n int) error {
	for n > 0 {
		if err := h.header(); err != nil {
			return err
		}
		if h.repeat > 0 {
			k := min(uint64(n), h.repeat)
			h.repeat -= k
			n -= int(k)
			continue
		}
		k := min(uint64(n), h.packed)
		h.bit += k * uint64(h.width)
		if h.bit > uint64(len(h.b))*8 {
			return fmt.Errorf("%w: bit-packed run ends early", ErrCorrupt)
		}
		h.packed -= k
		n -= int(k)
		if h.packed == 0 {
			h.endPacked()
		}
	}
	return nil
}

// unpack fills dst from the current bit-packed run, low bits first.
func (h *hybrid) unpack(dst []uint32) error {
	w := uint64(h.width)
	if h.bit+uint64(len(dst))*w > uint64(len(h.b))*8 {
		return fmt.Errorf("%w: bit-packed run ends early", ErrCorrupt)
	}
	mask := uint64(1)<<w - 1
	i := 0
	// Eight values at a time while whole 8-byte words can be loaded.
	if w <= 7 {
		for ; i+8 <= len(dst); i += 8 {
			at := h.bit / 8
			if at+8 > uint64(len(h.b)) {
				break
			}
			x := binary.LittleEndian.Uint64(h.b[at:]) >> (h.bit % 8)
			d := dst[i : i+8 : i+8]
			d[0] = uint32(x & mask)
			d[1] = uint32(x >> w & mask)
			d[2] = uint32(x >> (2 * w) & mask)
			d[3] = uint32(x >> (3 * w) & mask)
			d[4] = uint32(x >> (4 * w) & mask)
			d[5] = uint32(x >> (5 * w) & mask)
			d[6] = uint32(x >> (6 * w) & mask)
			d[7] = uint32(x >> (7 * w) & mask)
			h.bit += 8 * w
		}
	}
	for ; i < len(dst); i++ {
		at := h.bit / 8
		var x uint64
		if at+8 <= uint64(len(h.b)) {
			x = binary.LittleEndian.Uint64(h.b[at:])
		} else {
			for j, c := range h.b[at:] {
				x |= uint64(c) << (8 * j)
			}
		}
		dst[i] = uint32(x >> (h.bit % 8) & mask)
		h.bit += w
	}
	return nil
}

// appendPacked appends one bit-packed run of the values, padded with zeros to
// a multiple of eight.
func appendPacked(dst []byte, values []uint32, width uint) []byte {
	groups := (len(values) + 7) / 8
	dst = binary.AppendUvarint(dst, uint64(groups)<<1|1)
	var acc uint64
	var bits uint
	for _, v := range values {
		acc |= uint64(v) << bits
		for bits += width; bits >= 8; bits -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	for rest := uint(groups*8-len(values))*width + bits; rest > 0; rest -= min(rest, 8) {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

// appendRun appends one RLE run: n times value.
func appendRun(dst []byte, value uint32, n int, width uint) []byte {
	dst = binary.AppendUvarint(dst, uint64(n)<<1)
	for ; width > 0; width -= min(width, 8) {
		dst = append(dst, byte(value))
		value >>= 8
	}
	return dst
}
