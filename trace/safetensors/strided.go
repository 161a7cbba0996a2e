package safetensors

import (
	"sync"

	"github.com/expertspec/expertspec/trace/internal/pickle"
)

// stridedPiece is the number of bytes of a strided tensor that are gathered at a
// time, and the largest part of the file that is read for them at once.
const stridedPiece = 4 << 20

var stridedBuffers = sync.Pool{New: func() any { return new([stridedPiece]byte) }}

// box is a part of a strided tensor: a number of elements along each axis, and the
// strides in bytes between them in the file and in the destination.
type box struct {
	axes          int
	n, from, dest [pickle.MaxAxes]int64
}

// bytes returns the size of the box's elements, and of the part of the file from
// its first element to its last.
func (b *box) bytes(width int64) (size, span int64) {
	size, span = width, width
	for i := range b.axes {
		size *= b.n[i]
		span += (b.n[i] - 1) * b.from[i]
	}
	return size, span
}

// gatherer reads a strided tensor's elements in row-major order.
type gatherer struct {
	f      *Reader
	width  int64 // of an element, in bytes
	whole  box   // the tensor, without axes of length 1
	buffer []byte
}

// readStrided is ReadAt for a tensor that is not row-major in the file.
func (f *Reader) readStrided(t Info, strides []int64, dst []byte, offset int64) error {
	buffer := stridedBuffers.Get().(*[stridedPiece]byte)
	defer stridedBuffers.Put(buffer)
	g := &gatherer{f: f, width: int64(t.DType.Size()), buffer: buffer[:]}
	for i, n := range t.Shape {
		if n > 1 {
			g.whole.n[g.whole.axes], g.whole.from[g.whole.axes] = int64(n), strides[i]*g.width
			g.whole.axes++
		}
	}
	for len(dst) > 0 {
		first, skip := offset/g.width, offset%g.width
		out := dst[:min(int64(len(dst)), stridedPiece)/g.width*g.width]
		var one [8]byte
		if skip != 0 || len(out) == 0 { // a part of an element
			out = one[:g.width]
		}
		if err := g.rows(0, t.Offset, first, int64(len(out))/g.width, out); err != nil {
			return f.tensorError(t.Name, "reading %d strided bytes at %d of the tensor: %w", len(out), first*g.width, err)
		}
		if skip != 0 || len(dst) < int(g.width) {
			out = out[:copy(dst, out[skip:])]
		}
		dst, offset = dst[len(out):], offset+int64(len(out))
	}
	return nil
}

// rows gathers n elements, from the first of those that the axes from axis on have
// at a place of the file. It divides them into boxes: the end of a row, whole rows,
// and the beginning of a row.
func (g *gatherer) rows(axis int, place, first, n int64, dst []byte) error {
	if n == 0 {
		return nil
	}
	row := int64(1) // the elements of one step along axis
	for _, d := range g.whole.n[axis+1 : g.whole.axes] {
		row *= d
	}
	stride := g.whole.from[axis]
	if begun := first % row; begun != 0 || n < row {
		m := min(n, row-begun)
		if err := g.rows(axis+1, place+first/row*stride, begun, m, dst[:m*g.width]); err != nil {
			return err
		}
		first, n, dst = first+m, n-m, dst[m*g.width:]
	}
	whole := n / row
	if whole > 0 {
		var b box
		dest := g.width
		for i := g.whole.axes - 1; i >= axis; i-- {
			k := i - axis
			b.n[k], b.from[k], b.dest[k] = g.whole.n[i], g.whole.from[i], dest
			dest *= b.n[k]
		}
		b.axes, b.n[0] = g.whole.axes-axis, whole
		if err := g.box(b, place+first/row*stride, dst); err != nil {
			return err
		}
	}
	if rest := n % row; rest > 0 {
		return g.rows(axis+1, place+(first/row+whole)*stride, 0, rest, dst[whole*row*g.width:])
	}
	return nil
}

// box gathers a box that begins at a place of the file. If its elements are near
// each other, it reads the file from the first to the last. If not, it divides the
// box along the axis with the largest stride: of a transposed matrix it reads the
// elements that are neighbours in the file.
func (g *gatherer) box(b box, place int64, dst []byte) error {
	const near, page = 8, 4 << 10
	if size, span := b.bytes(g.width); span <= int64(len(g.buffer)) && (span <= near*size || span <= page) {
		part := g.buffer[:span]
		if err := readFull(g.f.r, part, place); err != nil {
			return err
		}
		g.scatter(&b, 0, dst, part)
		return nil
	}
	far := 0
	for i := range b.axes {
		if b.from[i] > b.from[far] {
			far = i
		}
	}
	n, from, dest := b.n[far], b.from[far], b.dest[far]
	copy(b.n[far:], b.n[far+1:b.axes])
	copy(b.from[far:], b.from[far+1:b.axes])
	copy(b.dest[far:], b.dest[far+1:b.axes])
	b.axes--
	for i := range n {
		if err := g.box(b, place+i*from, dst[i*dest:]); err != nil {
			return err
		}
	}
	return nil
}

// scatter copies the elements of a box to the destination, axis by axis.
func (g *gatherer) scatter(b *box, axis int, dst, part []byte) {
	if axis == b.axes {
		copy(dst[:g.width], part)
		return
	}
	n, from, dest := b.n[axis], b.from[axis], b.dest[axis]
	if axis < b.axes-1 {
		for i := range n {
			g.scatter(b, axis+1, dst[i*dest:], part[i*from:])
		}
		return
	}
	switch g.width {
	case 2:
		for i := range n {
			*(*[2]byte)(dst[i*dest:]) = *(*[2]byte)(part[i*from:])
		}
	case 4:
		for i := range n {
			*(*[4]byte)(dst[i*dest:]) = *(*[4]byte)(part[i*from:])
		}
	default:
		for i := range n {
			copy(dst[i*dest:][:g.width], part[i*from:])
		}
	}
}
