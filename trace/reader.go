package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace/internal/pq"
)

// Error is an error with its place in a trace.
type Error struct {
	File     string
	RowGroup int    // -1: of the whole file
	Row      int64  // within the row group, of the document's first token; -1: unknown
	Column   string // "": unknown
	Err      error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.RowGroup >= 0 {
		fmt.Fprintf(&b, ": row group %d", e.RowGroup)
	}
	if e.Row >= 0 {
		fmt.Fprintf(&b, ", row %d", e.Row)
	}
	if e.Column != "" {
		fmt.Fprintf(&b, ", column %q", e.Column)
	}
	return b.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

func fileError(path string, err error) error {
	if err == nil {
		return nil
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return err // names the file
	}
	return &Error{File: path, RowGroup: -1, Row: -1, Err: err}
}

// Reader reads a trace. It keeps no file open between calls, and may be used
// by several goroutines at once.
type Reader struct {
	header Header // of the trace
	open   opener
	paths  []string
	sizes  []size // of paths
	filter Filter // names are nil to select all, not nil and empty to select none
	limit  int64  // bytes of a document; 0: see scan
}

// size is that of a shard.
type size struct{ tokens, bytes int64 }

// opener opens a file by its path.
type opener func(path string) (fs.File, error)

// openFile opens a file of the operating system. Anything but a regular file is
// an error before it is opened, because opening a FIFO blocks.
func openFile(path string) (fs.File, error) {
	if err := regular(os.Stat(path)); err != nil {
		return nil, fileError(path, err)
	}
	return os.Open(path)
}

// openerFS returns what openFile is for files of fsys, such as os.DirFS.
func openerFS(fsys fs.FS) opener {
	return func(path string) (fs.File, error) {
		if err := regular(fs.Stat(fsys, path)); err != nil {
			return nil, fileError(path, err)
		}
		return fsys.Open(path)
	}
}

func regular(info fs.FileInfo, err error) error {
	if err == nil && !info.Mode().IsRegular() {
		return errNotRegular
	}
	return err
}

var errNotRegular = errors.New("not a regular file")

// Open opens the trace at path, a directory of shards or one shard. It reads
// the footers of all shards and checks that their headers agree. Files whose
// names do not end in .parquet, or begin with a dot or an underscore, are
// ignored.
func Open(path string) (*Reader, error) {
	paths, err := shards(path)
	if err != nil {
		return nil, err
	}
	return newReader(openFile, paths, openAtOnce)
}

// OpenFS opens the trace whose shards are in the root directory of fsys, as
// Open does. Files that do not implement [io.ReaderAt] are read into memory,
// one at a time.
func OpenFS(fsys fs.FS) (*Reader, error) {
	paths, err := shardsFS(fsys)
	if err != nil {
		return nil, err
	}
	return newReader(openerFS(fsys), paths, 1)
}

// openAtOnce is how many shards are opened at the same time, which on a network
// file system are round trips to a server.
const openAtOnce = 32

func newReader(open opener, paths []string, several int) (*Reader, error) {
	r := &Reader{open: open, paths: paths}
	var err error
	inOrder(len(paths), several, func(i int) *footer { return readFooter(open, paths[i]) }, func(i int, f *footer) bool {
		switch {
		case f.err != nil:
			err = f.err
		case i == 0:
			r.header = f.header
		default:
			if err = joins(&r.header, &f.header); err != nil {
				err = fileError(paths[i], fmt.Errorf("%w (in %s)", err, paths[0]))
			}
		}
		r.sizes = append(r.sizes, f.size)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// footer is what a Reader keeps of a shard.
type footer struct {
	header Header
	size
	err error
}

func readFooter(open opener, path string) *footer {
	s, err := openShard(open, path)
	if err != nil {
		return &footer{err: err}
	}
	s.close()
	f := &footer{header: s.header, size: size{bytes: s.pq.Size()}}
	for g := range s.pq.NumRowGroups() {
		f.tokens += s.pq.NumRows(g)
	}
	return f
}

// joins checks that two shards belong to one trace.
func joins(a, b *Header) error {
	if diff := a.difference(b); diff != "" {
		return errors.New(diff)
	}
	return nil
}

// shards lists the files of the trace at path in the order of their names.
func shards(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	names, err := shardsFS(os.DirFS(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, name := range names {
		names[i] = filepath.Join(path, name)
	}
	return names, nil
}

// shardsFS lists the shards in the root directory of fsys.
func shardsFS(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() && strings.HasSuffix(name, shardSuffix) && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no trace: no file ends in %s", shardSuffix)
	}
	return names, nil
}

// Header returns what all documents share. Its LogitLayers, InputLayers and
// Dropped are zero where Select omits them.
func (r *Reader) Header() Header {
	h := r.header
	if r.filter.NoLogits || r.filter.TokensOnly {
		h.LogitLayers = nil
	}
	if r.filter.NoInput || r.filter.TokensOnly {
		h.InputLayers = nil
	}
	h.Dropped = h.Dropped && !r.filter.TokensOnly
	return h
}

// Paths returns the shards in reading order.
func (r *Reader) Paths() []string { return slices.Clone(r.paths) }

// Tokens returns the number of tokens of all shards, as their footers state it.
func (r *Reader) Tokens() (n int64) {
	for _, x := range r.sizes {
		n += x.tokens
	}
	return n
}

// Bytes returns the size of all shards.
func (r *Reader) Bytes() (n int64) {
	for _, x := range r.sizes {
		n += x.bytes
	}
	return n
}

// Part returns a reader of every n-th shard of r, from the i-th on, counted from 0,
// so that n processes can share the reading. It panics unless 0 <= i < n.
func (r *Reader) Part(i, n int) *Reader {
	if i < 0 || i >= n {
		panic(fmt.Sprintf("trace: part %d of %d", i, n))
	}
	s := *r
	s.paths, s.sizes = nil, nil
	for ; i < len(r.paths); i += n {
		s.paths, s.sizes = append(s.paths, r.paths[i]), append(s.sizes, r.sizes[i])
	}
	return &s
}

// Documents reads the trace in order. An error, which names file, row group and
// row, ends the iteration. Positions and Phases are nil where they are the
// defaults.
//
// Where GOMAXPROCS is more than one, row groups are decoded ahead on as many
// goroutines, which end with the iteration; documents that wait take at most
// 64 MiB for each. Otherwise one document at a time is in memory.
func (r *Reader) Documents() iter.Seq2[*Document, error] {
	return func(yield func(*Document, error) bool) {
		if n := runtime.GOMAXPROCS(0); n > 1 {
			r.readAhead(n, yield)
			return
		}
		for _, path := range r.paths {
			more, err := r.readShard(path, yield)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
		}
	}
}

func (r *Reader) readShard(path string, yield func(*Document, error) bool) (more bool, err error) {
	s, err := r.shard(path)
	if err != nil {
		return false, err
	}
	defer s.close()
	return s.scan(&r.filter, r.limit).documents(func(d *Document, _ place) bool { return yield(d, nil) })
}

// shard opens a shard of the trace.
func (r *Reader) shard(path string) (*shard, error) {
	s, err := openShard(r.open, path)
	if err != nil {
		return nil, err
	}
	if err := joins(&r.header, &s.header); err != nil {
		s.close()
		return nil, fileError(path, fmt.Errorf("shard changed since the trace was opened: %w", err))
	}
	return s, nil
}

// ReadAll reads all documents into memory.
func (r *Reader) ReadAll() ([]*Document, error) {
	var all []*Document
	for d, err := range r.Documents() {
		if err != nil {
			return all, err
		}
		all = append(all, d)
	}
	return all, nil
}

// shard is one open file of a trace.
type shard struct {
	path    string
	file    fs.File
	pq      *pq.File
	header  Header
	columns map[string]pq.Column
}

// openShard opens a file and reads its header.
func openShard(open opener, path string) (s *shard, err error) {
	f, r, size, err := openReaderAt(open, path)
	if err != nil {
		return nil, err
	}
	s, err = newShard(r, size)
	if err != nil {
		f.Close()
		return nil, fileError(path, err)
	}
	s.path, s.file = path, f
	return s, nil
}

// openReaderAt opens a regular file of any file system for random access.
func openReaderAt(open opener, path string) (f fs.File, r io.ReaderAt, size int64, err error) {
	f, err = open(path)
	if err != nil {
		return nil, nil, 0, err
	}
	info, err := f.Stat()
	if err := regular(info, err); err != nil {
		f.Close()
		return nil, nil, 0, fileError(path, err)
	}
	r, ok := f.(io.ReaderAt)
	if ok {
		return f, r, info.Size(), nil
	}
	b, err := io.ReadAll(f)
	if err != nil {
		f.Close()
		return nil, nil, 0, fileError(path, err)
	}
	return f, bytes.NewReader(b), int64(len(b)), nil
}

// newShard reads the header of a shard. Decoding corrupt bytes must never
// panic; a runtime error of a library is returned as an error.
func newShard(r io.ReaderAt, size int64) (s *shard, err error) {
	defer func() { recovered(recover(), &err) }()
	file, err := pq.Open(r, size)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(file.Lookup)
	if err != nil {
		return nil, err
	}
	columns, err := columnsOf(file, h)
	if err != nil {
		return nil, err
	}
	return &shard{pq: file, header: *h, columns: columns}, nil
}

func (s *shard) close() { s.file.Close() }
