package convert

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// npyHeader is the header of a NumPy array file (NEP 1, versions 1 to 3).
type npyHeader struct {
	intType
	shape  []int
	offset int64 // of the data
}

var (
	npyDescr = regexp.MustCompile(`'descr'\s*:\s*'([<>|=])([iufb])(\d+)'`)
	npyOrder = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	npyShape = regexp.MustCompile(`'shape'\s*:\s*\(([\d,\s]*)\)`)
)

const maxNpyHeader = 1 << 16

func parseNpy(r io.Reader) (*npyHeader, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:10]); err != nil {
		return nil, fmt.Errorf("not a NumPy file: %w", err)
	}
	if string(head[:6]) != "\x93NUMPY" {
		return nil, fmt.Errorf("not a NumPy file: it begins with %q", head[:6])
	}
	offset, length := int64(10), int(binary.LittleEndian.Uint16(head[8:]))
	if head[6] > 1 {
		if _, err := io.ReadFull(r, head[10:12]); err != nil {
			return nil, err
		}
		offset, length = 12, int(binary.LittleEndian.Uint32(head[8:]))
	}
	if head[6] < 1 || head[6] > 3 || length > maxNpyHeader {
		return nil, fmt.Errorf("NumPy file of version %d with a header of %d bytes", head[6], length)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	descr, order, shape := npyDescr.FindSubmatch(b), npyOrder.FindSubmatch(b), npyShape.FindSubmatch(b)
	if descr == nil || order == nil || shape == nil {
		return nil, fmt.Errorf("header %q is not of a plain array", strings.TrimSpace(string(b[:min(length, 200)])))
	}
	if string(order[1]) == "True" {
		return nil, errors.New("array is in Fortran order")
	}
	size, ok := map[string]int{"1": 1, "2": 2, "4": 4, "8": 8}[string(descr[3])]
	kind := descr[2][0]
	if kind != 'i' && kind != 'u' || !ok {
		return nil, fmt.Errorf("values of type %s%.9s are not integers", descr[2], descr[3])
	}
	h := &npyHeader{intType: intType{size: size, signed: kind == 'i', big: descr[1][0] == '>'}, offset: offset + int64(length)}
	for n := range strings.SplitSeq(string(shape[1]), ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		d, err := strconv.Atoi(n)
		if err != nil {
			return nil, fmt.Errorf("shape: %w", err)
		}
		h.shape = append(h.shape, d)
	}
	return h, nil
}

// elements returns the product of a shape, or an error if it exceeds limit.
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
func readNpy(ctx context.Context, path string) (values []int32, shape []int, err error) {
	f, err := openFile(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	values, shape, err = decodeNpy(bufio.NewReaderSize(f, 1<<16), info.Size())
	return values, shape, located(path, "", err)
}

func decodeNpy(r io.Reader, size int64) ([]int32, []int, error) {
	h, err := parseNpy(r)
	if err != nil {
		return nil, nil, err
	}
	n, err := elements(h.shape, size/int64(h.size))
	if err != nil {
		return nil, nil, err
	}
	if have, want := size-h.offset, int64(n)*int64(h.size); have != want {
		return nil, nil, fmt.Errorf("%d bytes of data, shape %v requires %d", have, h.shape, want)
	}
	values := make([]int32, n)
	err = h.decode(values, func(p []byte) error {
		_, err := io.ReadFull(r, p)
		return err
	})
	return values, h.shape, err
}

// writeNpy writes an int32 array file.
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
