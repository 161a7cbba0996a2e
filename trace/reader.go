package trace

import (
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
	Column   string // "": none in particular
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
	header Header
	paths  []string
	tokens int64
	bytes  int64
}

// Open opens the trace at path, a directory of shards or one shard. It reads
// the footers of all shards and checks that their headers agree. Files that do
// not end in .parquet, or start with a dot or an underscore, are left alone.
func Open(path string) (*Reader, error) {
	paths, err := shards(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{paths: paths}
	for i, p := range paths {
		s, err := openShard(p)
		if err != nil {
			return nil, err
		}
		s.close()
		if i == 0 {
			r.header = s.header
		} else if err := joins(&r.header, &s.header); err != nil {
			return nil, fileError(p, fmt.Errorf("%w (in %s)", err, paths[0]))
		}
		for g := range s.pq.NumRowGroups() {
			r.tokens += s.pq.NumRows(g)
		}
		r.bytes += s.pq.Size()
	}
	return r, nil
}

// joins checks that two shards belong to one trace.
func joins(a, b *Header) error {
	if diff := a.difference(b); diff != "" {
		return errors.New(diff)
	}
	if a.NoWeights != b.NoWeights {
		return errors.New("only one of two shards has routing weights")
	}
	return nil
}

// shards lists the files of a trace in the order of their names.
func shards(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || !strings.HasSuffix(name, shardSuffix) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			continue
		}
		paths = append(paths, filepath.Join(path, name))
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: no trace: no file ends in %s", path, shardSuffix)
	}
	return paths, nil
}

// Header returns what all documents share.
func (r *Reader) Header() Header { return r.header }

// Paths returns the shards in reading order.
func (r *Reader) Paths() []string { return slices.Clone(r.paths) }

// Tokens returns the number of tokens, as the footers state it.
func (r *Reader) Tokens() int64 { return r.tokens }

// Bytes returns the size of all shards on disk.
func (r *Reader) Bytes() int64 { return r.bytes }

// Filter selects what to read. The zero value selects everything.
type Filter struct {
	// Datasets and Documents, where not empty, are the names of the data sets
	// and the ids of the documents to read. By the shards' statistics, row
	// groups without them are passed over unread.
	Datasets  []string
	Documents []string
	// NoLogits and NoInput leave Document.RouterLogits and RouterInput nil
	// without reading them. Header is unchanged by it.
	NoLogits bool
	NoInput  bool
	// MaxDocumentBytes bounds the memory of one document's arrays; 0: 512 MiB
	// and 64 times the size of its shard, which only a hostile or very
	// repetitive file exceeds.
	MaxDocumentBytes int64
}

// Documents reads the trace in order. After an error, which names file, row
// group and row, there is nothing more. Positions and Phases are nil where they
// say no more than nil does.
//
// Where GOMAXPROCS is more than one, row groups are decoded ahead on as many
// goroutines, which end with the iteration; documents that wait take at most
// 64 MiB for each. Otherwise one document at a time is in memory.
func (r *Reader) Documents(f Filter) iter.Seq2[*Document, error] {
	return func(yield func(*Document, error) bool) {
		if n := runtime.GOMAXPROCS(0); n > 1 {
			r.readAhead(&f, n, yield)
			return
		}
		for _, path := range r.paths {
			more, err := r.readShard(path, &f, yield)
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

func (r *Reader) readShard(path string, f *Filter, yield func(*Document, error) bool) (more bool, err error) {
	s, err := r.open(path)
	if err != nil {
		return false, err
	}
	defer s.close()
	return s.documents(f, func(d *Document, _ place) bool { return yield(d, nil) })
}

// open opens a shard of the trace.
func (r *Reader) open(path string) (*shard, error) {
	s, err := openShard(path)
	if err != nil {
		return nil, err
	}
	if err := joins(&r.header, &s.header); err != nil {
		s.close()
		return nil, fileError(path, fmt.Errorf("shard changed since the trace was opened: %w", err))
	}
	return s, nil
}

// ReadAll reads all selected documents into memory.
func (r *Reader) ReadAll(f Filter) ([]*Document, error) {
	var all []*Document
	for d, err := range r.Documents(f) {
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
	file    *os.File
	pq      *pq.File
	header  Header
	columns map[string]pq.Column
}

// openShard opens a file and reads its header. Decoding corrupt bytes must
// never panic; should a library do so, it is turned into an error here.
func openShard(path string) (s *shard, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fileError(path, errors.New("not a regular file"))
	}
	s, err = newShard(f, info.Size())
	if err != nil {
		return nil, fileError(path, err)
	}
	s.path, s.file = path, f
	return s, nil
}

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

func (s *shard) close() {
	if s.file != nil {
		s.file.Close()
	}
}
