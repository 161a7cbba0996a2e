package convert

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// npyHeader is the header of a NumPy array file (NEP 1, versions 1 to 3).
type npyHeader struct {
	kind  byte // 'i', 'u'
	size  int  // bytes of a value
	big   bool // big-endian
	shape []int
}

var (
	npyDescr = regexp.MustCompile(`'descr'\s*:\s*'([<>|=])([iufb])(\d+)'`)
	npyOrder = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	npyShape = regexp.MustCompile(`'shape'\s*:\s*\(([\d,\s]*)\)`)
)

const maxNpyHeader = 1 << 16

func parseNpy(r io.Reader) (*npyHeader, int64, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:10]); err != nil {
		return nil, 0, fmt.Errorf("no NumPy file: %w", err)
	}
	if string(head[:6]) != "\x93NUMPY" {
		return nil, 0, fmt.Errorf("no NumPy file: it begins with %q", head[:6])
	}
	offset, length := int64(10), int(binary.LittleEndian.Uint16(head[8:]))
	if head[6] > 1 {
		if _, err := io.ReadFull(r, head[10:12]); err != nil {
			return nil, 0, err
		}
		offset, length = 12, int(binary.LittleEndian.Uint32(head[8:]))
	}
	if head[6] < 1 || head[6] > 3 || length > maxNpyHeader {
		return nil, 0, fmt.Errorf("NumPy file of version %d with a header of %d bytes", head[6], length)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, 0, fmt.Errorf("header: %w", err)
	}
	descr, order, shape := npyDescr.FindSubmatch(b), npyOrder.FindSubmatch(b), npyShape.FindSubmatch(b)
	if descr == nil || order == nil || shape == nil {
		return nil, 0, fmt.Errorf("header %q is not of a plain array", strings.TrimSpace(string(b)))
	}
	if string(order[1]) == "True" {
		return nil, 0, fmt.Errorf("array is in Fortran order")
	}
	h := &npyHeader{kind: descr[2][0], big: descr[1][0] == '>'}
	h.size, _ = strconv.Atoi(string(descr[3]))
	if h.kind != 'i' && h.kind != 'u' || h.size != 1 && h.size != 2 && h.size != 4 && h.size != 8 {
		return nil, 0, fmt.Errorf("values of type %s%s are not integers", descr[2], descr[3])
	}
	for _, n := range strings.Split(string(shape[1]), ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		d, err := strconv.Atoi(n)
		if err != nil {
			return nil, 0, fmt.Errorf("shape (%s): %w", shape[1], err)
		}
		h.shape = append(h.shape, d)
	}
	return h, offset + int64(length), nil
}

// elements returns the product of a shape, or an error if it overflows limit.
func elements(shape []int, limit int64) (int, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > 0 && n > limit/int64(d) {
			return 0, fmt.Errorf("shape %v is larger than the file", shape)
		}
		n *= int64(d)
	}
	return int(n), nil
}

// readNpy reads an integer array file as 32-bit integers.
func readNpy(path string) (values []int32, shape []int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	values, shape, err = decodeNpy(bufio.NewReaderSize(f, 1<<16), info.Size())
	if err != nil {
		return nil, nil, &Error{File: path, Err: err}
	}
	return values, shape, nil
}

func decodeNpy(r io.Reader, size int64) ([]int32, []int, error) {
	h, offset, err := parseNpy(r)
	if err != nil {
		return nil, nil, err
	}
	n, err := elements(h.shape, size/int64(h.size))
	if err != nil {
		return nil, nil, err
	}
	if have := size - offset; have != int64(n)*int64(h.size) {
		return nil, nil, fmt.Errorf("%d bytes of data, shape %v needs %d", have, h.shape, int64(n)*int64(h.size))
	}
	values := make([]int32, n)
	buf := make([]byte, 4096*h.size)
	for i := 0; i < n; {
		k := min(n-i, 4096)
		if _, err := io.ReadFull(r, buf[:k*h.size]); err != nil {
			return nil, nil, fmt.Errorf("value %d: %w", i, err)
		}
		for j := range k {
			v := h.value(buf[j*h.size : (j+1)*h.size])
			if v != int64(int32(v)) {
				return nil, nil, fmt.Errorf("value %d is %d, which does not fit 32 bits", i+j, v)
			}
			values[i+j] = int32(v)
		}
		i += k
	}
	return values, h.shape, nil
}

// value decodes one integer; unsigned ones beyond int64 become negative.
func (h *npyHeader) value(b []byte) int64 {
	var x uint64
	for i := range b {
		c := b[i]
		if h.big {
			c = b[len(b)-1-i]
		}
		x |= uint64(c) << (8 * i)
	}
	if h.kind == 'i' {
		shift := 64 - 8*len(b)
		return int64(x<<shift) >> shift
	}
	return int64(x)
}

// appendNpy appends an int32 array file.
func writeNpy(w *bufio.Writer, values []int32, shape ...int) error {
	var dims strings.Builder
	for _, d := range shape {
		fmt.Fprintf(&dims, "%d, ", d)
	}
	text := dims.String()
	if len(shape) > 1 {
		text = text[:len(text)-2]
	}
	head := fmt.Sprintf("{'descr': '<i4', 'fortran_order': False, 'shape': (%s), }", strings.TrimSuffix(text, " "))
	for (10+len(head)+1)%64 != 0 {
		head += " "
	}
	w.WriteString("\x93NUMPY\x01\x00")
	binary.Write(w, binary.LittleEndian, uint16(len(head)+1))
	w.WriteString(head + "\n")
	return binary.Write(w, binary.LittleEndian, values)
}
