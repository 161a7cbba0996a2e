package pq

import "fmt"

// Limits on the compact-protocol structures of a file. They are far above what
// any trace needs and bound a decoder's memory and recursion.
const (
	maxThriftDepth = 24
	maxThriftItems = 1 << 18
)

// Element types of the Thrift compact protocol.
const (
	thriftStop   = 0
	thriftTrue   = 1
	thriftFalse  = 2
	thriftI8     = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
	thriftUUID   = 13
)

// guard walks one Thrift struct in the compact protocol without building it, to
// check that it is safe to decode.
type guard struct {
	b     []byte
	at    int
	items int
}

// checkThrift returns the length of the compact-protocol struct at the start
// of b, or an error if it is truncated, nested too deeply or lists more
// elements than maxThriftItems.
func checkThrift(b []byte) (int, error) {
	g := guard{b: b}
	if err := g.structure(0); err != nil {
		return 0, fmt.Errorf("%w: %w at byte %d", ErrCorrupt, err, g.at)
	}
	return g.at, nil
}

var (
	errShort  = fmt.Errorf("structure is truncated")
	errNested = fmt.Errorf("structure is nested too deeply")
	errItems  = fmt.Errorf("structure has too many elements")
	errType   = fmt.Errorf("unknown element type")
)

func (g *guard) byte() (byte, error) {
	if g.at >= len(g.b) {
		return 0, errShort
	}
	c := g.b[g.at]
	g.at++
	return c, nil
}

func (g *guard) varint() (uint64, error) {
	var x uint64
	for shift := 0; shift < 70; shift += 7 {
		c, err := g.byte()
		if err != nil {
			return 0, err
		}
		x |= uint64(c&0x7f) << min(shift, 63)
		if c < 0x80 {
			return x, nil
		}
	}
	return 0, fmt.Errorf("integer is too long")
}

func (g *guard) skip(n uint64) error {
	if n > uint64(len(g.b)-g.at) {
		return errShort
	}
	g.at += int(n)
	return nil
}

func (g *guard) structure(depth int) error {
	if depth > maxThriftDepth {
		return errNested
	}
	for {
		c, err := g.byte()
		if err != nil {
			return err
		}
		kind := c & 0x0f
		if kind == thriftStop {
			return nil
		}
		if c>>4 == 0 { // long form: the field's id follows
			if _, err := g.varint(); err != nil {
				return err
			}
		}
		if kind == thriftTrue || kind == thriftFalse {
			continue // the value is in the type
		}
		if err := g.value(kind, depth+1); err != nil {
			return err
		}
	}
}

func (g *guard) value(kind byte, depth int) error {
	if depth > maxThriftDepth {
		return errNested
	}
	switch kind {
	case thriftTrue, thriftFalse, thriftI8:
		return g.skip(1)
	case thriftI16, thriftI32, thriftI64:
		_, err := g.varint()
		return err
	case thriftDouble:
		return g.skip(8)
	case thriftUUID:
		return g.skip(16)
	case thriftBinary:
		n, err := g.varint()
		if err != nil {
			return err
		}
		return g.skip(n)
	case thriftList, thriftSet:
		return g.list(depth)
	case thriftMap:
		return g.dict(depth)
	case thriftStruct:
		return g.structure(depth)
	}
	return errType
}

// count accounts for n further elements, each of which takes at least a byte.
func (g *guard) count(n uint64) error {
	if n > uint64(len(g.b)-g.at) {
		return errShort
	}
	g.items += int(n)
	if g.items > maxThriftItems {
		return errItems
	}
	return nil
}

func (g *guard) list(depth int) error {
	c, err := g.byte()
	if err != nil {
		return err
	}
	n := uint64(c >> 4)
	if n == 15 {
		if n, err = g.varint(); err != nil {
			return err
		}
	}
	if err := g.count(n); err != nil {
		return err
	}
	for range n {
		if err := g.value(c&0x0f, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) dict(depth int) error {
	n, err := g.varint()
	if err != nil || n == 0 {
		return err
	}
	c, err := g.byte()
	if err != nil {
		return err
	}
	if err := g.count(2 * n); err != nil {
		return err
	}
	for range n {
		if err := g.value(c>>4, depth+1); err != nil {
			return err
		}
		if err := g.value(c&0x0f, depth+1); err != nil {
			return err
		}
	}
	return nil
}
