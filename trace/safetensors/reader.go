package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// Reader reads the tensors of one file. Its methods may be called from several
// goroutines at once, except Close.
type Reader struct {
	name   string
	r      io.ReaderAt
	size   int64
	data   int64 // where the tensors' bytes begin
	header *header
	index  map[string]int // into header.tensors
	// strides of the tensors that are not row-major in the file, in elements.
	strides map[string][]int64
	close   func() error
}

// newReader reads the header of a file of size bytes. Errors are of type *Error
// and have the name.
func newReader(r io.ReaderAt, size int64, name string) (*Reader, error) {
	f := &Reader{name: name, r: r, size: size}
	if err := f.readHeader(); err != nil {
		return nil, f.error(err)
	}
	f.makeIndex()
	return f, nil
}

func (f *Reader) makeIndex() {
	f.index = make(map[string]int, len(f.header.tensors))
	for i, t := range f.header.tensors {
		f.index[t.Name] = i
	}
}

// Open opens a file of a file system. A file without ReadAt is read by Seek, and
// one with neither by reading forward or again from its beginning, which is slow
// out of order. The caller must close the Reader after use.
func Open(fsys fs.FS, name string) (*Reader, error) {
	return openFile(fsys, name, newReader)
}

// openFile opens a file and makes the Reader of its bytes.
func openFile(fsys fs.FS, name string, read func(r io.ReaderAt, size int64, name string) (*Reader, error)) (*Reader, error) {
	r, size, closer, err := openReaderAt(fsys, name)
	if err != nil {
		return nil, &Error{File: name, Err: cause(err)}
	}
	f, err := read(r, size, name)
	if err != nil {
		return nil, errors.Join(err, closer())
	}
	f.close = closer
	return f, nil
}

// cause removes the file's name that fs.PathError repeats.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (f *Reader) readHeader() error {
	if f.size < 8 {
		return fmt.Errorf("truncated: %d bytes are too few for a header", f.size)
	}
	var prefix [8]byte
	if err := readFull(f.r, prefix[:], 0); err != nil {
		return fmt.Errorf("reading the header's length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > uint64(f.size-8) {
		return fmt.Errorf("header length %d goes beyond the file of %d bytes", n, f.size)
	}
	if n > maxHeaderLen {
		return fmt.Errorf("header length %d is above the limit of %d", n, maxHeaderLen)
	}
	// The buffer grows with the bytes that are read, because size may be wrong too.
	var text bytes.Buffer
	if got, err := io.Copy(&text, io.NewSectionReader(f.r, 8, int64(n))); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	} else if got != int64(n) {
		return fmt.Errorf("truncated: %d of the header's %d bytes", got, n)
	}
	f.data = 8 + int64(n)
	var err error
	f.header, err = parseHeader(text.Bytes(), f.data, f.size-f.data)
	return err
}

// error adds the file's name to err.
func (f *Reader) error(err error) error {
	if e, ok := err.(*Error); ok {
		e.File = f.name
		return e
	}
	return &Error{File: f.name, Err: err}
}

func (f *Reader) tensorError(name string, format string, args ...any) error {
	return &Error{File: f.name, Tensor: name, Err: fmt.Errorf(format, args...)}
}

// Name returns the file's name, as it was opened.
func (f *Reader) Name() string { return f.name }

// Size returns the file's length in bytes.
func (f *Reader) Size() int64 { return f.size }

// DataOffset returns the length of the header with its prefix in bytes, which is
// where the tensors' data begin. In a file of torch.save it is where the first
// tensor's storage begins; PyTorch writes names, types and shapes before it.
func (f *Reader) DataOffset() int64 { return f.data }

// File returns the bytes of the whole file, header included.
func (f *Reader) File() *io.SectionReader { return io.NewSectionReader(f.r, 0, f.size) }

// Close closes the file.
func (f *Reader) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// Tensors returns descriptions of all tensors, in the order of their data, which
// only those of torch.save may share. The caller must not change the shapes.
func (f *Reader) Tensors() []Info { return slices.Clone(f.header.tensors) }

// Names returns the tensors' names, sorted.
func (f *Reader) Names() []string { return slices.Sorted(maps.Keys(f.index)) }

// Metadata returns a copy of the header's __metadata__, nil if it has none.
func (f *Reader) Metadata() map[string]string { return maps.Clone(f.header.metadata) }

// Info returns the description of a tensor and reports whether the file has it.
func (f *Reader) Info(name string) (Info, bool) {
	i, ok := f.index[name]
	if !ok {
		return Info{}, false
	}
	return f.header.tensors[i], true
}

// info is Info with an error for a tensor that does not exist.
func (f *Reader) info(name string) (Info, error) {
	t, ok := f.Info(name)
	if !ok {
		return t, f.tensorError(name, "no such tensor")
	}
	return t, nil
}

// Read fills dst with a tensor's bytes, little-endian and row-major; dst must
// have the tensor's Size.
func (f *Reader) Read(name string, dst []byte) error {
	t, err := f.info(name)
	if err != nil {
		return err
	}
	if int64(len(dst)) != t.Size {
		return f.tensorError(name, "destination of %d bytes for %d", len(dst), t.Size)
	}
	return f.ReadAt(name, dst, 0)
}

// ReadAt fills dst with a tensor's bytes from an offset, in bytes from the
// tensor's beginning.
func (f *Reader) ReadAt(name string, dst []byte, offset int64) error {
	t, err := f.info(name)
	if err != nil {
		return err
	}
	if offset < 0 || offset > t.Size || int64(len(dst)) > t.Size-offset {
		return f.tensorError(name, "%d bytes at offset %d exceed its %d", len(dst), offset, t.Size)
	}
	if strides := f.strides[name]; strides != nil {
		return f.readStrided(t, strides, dst, offset)
	}
	if err := readFull(f.r, dst, t.Offset+offset); err != nil {
		return f.tensorError(name, "reading %d bytes at %d of the file: %w", len(dst), t.Offset+offset, err)
	}
	return nil
}

// readFull reads len(dst) bytes at offset, or returns an error.
func readFull(r io.ReaderAt, dst []byte, offset int64) error {
	n, err := r.ReadAt(dst, offset)
	switch {
	case n == len(dst):
		return nil
	case err == io.EOF || err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}

// openReaderAt opens a file for reading at offsets, by the best method it has.
func openReaderAt(fsys fs.FS, name string) (io.ReaderAt, int64, func() error, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, 0, nil, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("is a directory")
	}
	if err != nil {
		return nil, 0, nil, errors.Join(err, file.Close())
	}
	if r, ok := file.(io.ReaderAt); ok {
		return r, info.Size(), file.Close, nil
	}
	s := &streamReaderAt{fsys: fsys, name: name, file: file}
	return s, info.Size(), s.Close, nil
}

// streamReaderAt reads at offsets from a file that can only stream or seek.
type streamReaderAt struct {
	fsys fs.FS
	name string

	mu   sync.Mutex
	file fs.File
	pos  int64 // of file; -1: unknown
}

func (s *streamReaderAt) ReadAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.moveTo(offset); err != nil {
		s.pos = -1
		return 0, err
	}
	n, err := io.ReadFull(s.file, p)
	s.pos += int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

func (s *streamReaderAt) moveTo(offset int64) error {
	if s.pos == offset {
		return nil
	}
	if seeker, ok := s.file.(io.Seeker); ok {
		_, err := seeker.Seek(offset, io.SeekStart)
		s.pos = offset
		return err
	}
	if s.pos < 0 || s.pos > offset {
		file, err := s.fsys.Open(s.name)
		if err != nil {
			return err
		}
		err = s.file.Close()
		s.file, s.pos = file, 0
		if err != nil {
			return err
		}
	}
	n, err := io.CopyN(io.Discard, s.file, offset-s.pos)
	s.pos += n
	return err
}

func (s *streamReaderAt) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}
