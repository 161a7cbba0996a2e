package trace

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/flock"

	"github.com/expertspec/expertspec/trace/internal/floats"
	"github.com/expertspec/expertspec/trace/internal/pq"
)

const (
	shardSuffix = ".parquet"
	tempSuffix  = ".tmp"
	createdBy   = "expertspec"

	defaultShardBytes  = 256 << 20
	defaultGroupTokens = 32 << 10
	// A row group also ends when its numbers fill this much memory.
	maxGroupBytes = 32 << 20
)

// WriterOptions configures a Writer. The zero value is ready to use.
type WriterOptions struct {
	// Prefix begins the shards' names, PREFIX-00000.parquet and so on; "":
	// "shard". Several writers can write into one directory with different
	// prefixes.
	Prefix string
	// ShardBytes is the size in bytes at which a shard ends; 0: 256 MiB. A
	// document is never split between shards.
	ShardBytes int64
	// GroupTokens is the number of tokens at which a row group ends; 0: 32,768. A
	// row group also ends with its data set, unless it is still small. Smaller
	// groups let a filtering reader skip more, and cost bytes.
	GroupTokens int
	// Float is the type of router logits and router input.
	Float Float
	// Split stores float32 columns in Parquet's BYTE_STREAM_SPLIT, which makes
	// routing weights a fifth smaller. pandas (pyarrow), polars and DuckDB read
	// it; Spark's releases do not yet.
	Split bool
	// Append continues after existing shards of the same prefix, which must have
	// the same header. Without Append they are an error.
	Append bool
	// OnShard, if not nil, is called after each shard is complete.
	OnShard func(path string, documents int)
}

// Validate checks that sizes are not negative and that the prefix is the
// beginning of a plain file name that readers do not ignore.
func (o *WriterOptions) Validate() error {
	switch {
	case o.ShardBytes < 0 || o.GroupTokens < 0:
		return fmt.Errorf("writer options: negative size")
	case o.Float != Float32 && o.Float != Float16:
		return fmt.Errorf("writer options: float type %d", o.Float)
	case strings.ContainsAny(o.Prefix, "/\\\x00") || strings.HasPrefix(o.Prefix, ".") || strings.HasPrefix(o.Prefix, "_"),
		!utf8.ValidString(o.Prefix):
		return fmt.Errorf("writer options: prefix %q is not the beginning of a visible file name", o.Prefix)
	}
	return nil
}

// Writer writes documents as a directory of Parquet shards. A shard is written
// to a hidden temporary file, synced, and renamed when it is complete. A Writer
// is not safe for concurrent use.
type Writer struct {
	dir    string
	header Header
	opts   WriterOptions

	locked *flock.Flock // nil: on a file system without locks
	next   int          // number of the next shard
	file   *os.File     // the open shard, a temporary file
	buf    *bufio.Writer
	pq     *pq.Writer
	specs  []pq.Spec

	seen      map[[16]byte]struct{}
	documents int    // of the open shard
	tokens    int    // of the open row group
	dataset   string // of the open row group
	written   int    // shards
	err       error
}

// Create starts a trace in dir, which is created if it does not exist. Shards
// appear as they are complete; Close completes the last one. It is an error if
// another writer with the same prefix is open in dir. Temporary files of writers
// that were killed are removed.
func Create(dir string, h Header, opts WriterOptions) (*Writer, error) {
	if err := errors.Join(h.Validate(), opts.Validate()); err != nil {
		return nil, err
	}
	if opts.Prefix == "" {
		opts.Prefix = "shard"
	}
	if opts.ShardBytes == 0 {
		opts.ShardBytes = defaultShardBytes
	}
	if opts.GroupTokens == 0 {
		opts.GroupTokens = defaultGroupTokens
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, header: h, opts: opts, seen: map[[16]byte]struct{}{}, specs: specs(&h, opts.Float, opts.Split)}
	if err := w.lock(); err != nil {
		return nil, err
	}
	if err := errors.Join(w.resume(), w.clean()); err != nil {
		w.unlock()
		return nil, err
	}
	return w, nil
}

// resume finds the number of the next shard.
func (w *Writer) resume() error {
	for ; w.next < MaxShards; w.next++ {
		path := w.path(w.next)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		if !w.opts.Append {
			return fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		s, err := openShard(openFile, path)
		if err != nil {
			return err
		}
		s.close()
		if diff := w.header.difference(&s.header); diff != "" {
			return fmt.Errorf("%s: not written with this header: %s", path, diff)
		}
		w.written++
	}
	return nil
}

func (w *Writer) path(n int) string {
	return filepath.Join(w.dir, fmt.Sprintf("%s-%05d%s", w.opts.Prefix, n, shardSuffix))
}

// Write appends a document. A document that Document.Validate refuses, or whose
// name this Writer wrote before, is an error after which the Writer remains
// usable. After any other error, for example of the disk, the open shard is lost
// and all methods return that error. Write does not retain d.
func (w *Writer) Write(d *Document) error {
	if w.err != nil {
		return w.err
	}
	if err := d.Validate(&w.header); err != nil {
		return err
	}
	if w.opts.Float == Float16 {
		if err := fitsHalf(d, &w.header); err != nil {
			return err
		}
	}
	key := d.Key().sum()
	if _, twice := w.seen[key]; twice {
		return fmt.Errorf("document %q of data set %q: written before", d.ID, d.Dataset)
	}
	w.seen[key] = struct{}{}
	return w.fail(w.write(d))
}

// fitsHalf checks that no number overflows in float16.
func fitsHalf(d *Document, h *Header) error {
	const limit = 65520 // rounds to infinity
	for _, values := range [][]float32{d.RouterLogits, d.RouterInput} {
		if floats.Magnitude(values) < math.Float32bits(limit) {
			continue
		}
		for i, v := range values {
			if v >= limit || v <= -limit {
				return fmt.Errorf("document %q of data set %q: %g (value %d) does not fit float16", d.ID, d.Dataset, v, i)
			}
		}
	}
	return nil
}

// fail keeps an error and discards the open shard.
func (w *Writer) fail(err error) error {
	if err == nil {
		return nil
	}
	w.discard()
	w.err = err
	return err
}

func (w *Writer) write(d *Document) error {
	if w.pq == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	full := w.tokens >= w.opts.GroupTokens || w.pq.Buffered() >= maxGroupBytes
	if full || w.dataset != d.Dataset && w.tokens > w.opts.GroupTokens/8 {
		if err := w.endGroup(); err != nil {
			return err
		}
		if w.pq.Offset() >= w.opts.ShardBytes {
			if err := w.finish(); err != nil {
				return err
			}
			if err := w.begin(); err != nil {
				return err
			}
		}
	}
	w.dataset = d.Dataset
	w.tokens += d.Len()
	w.documents++
	return appendDocument(w.pq, &w.header, d)
}

func (w *Writer) endGroup() error {
	w.tokens = 0
	return w.pq.FlushGroup()
}

// begin creates the temporary file of the next shard.
func (w *Writer) begin() error {
	if w.next >= MaxShards {
		return fmt.Errorf("%s: more than %d shards", w.dir, MaxShards)
	}
	// The random name keeps writers apart on a file system without locks.
	name := fmt.Sprintf(".%s-%05d%s.%s%s", w.opts.Prefix, w.next, shardSuffix, rand.Text()[:8], tempSuffix)
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	w.file, w.buf, w.documents = f, bufio.NewWriterSize(f, 1<<16), 0
	var keys []pq.KeyValue
	for _, kv := range w.header.keys() {
		keys = append(keys, pq.KeyValue(kv))
	}
	w.pq, err = pq.NewWriter(w.buf, w.specs, keys, createdBy)
	return err
}

// finish completes the open shard and renames it.
func (w *Writer) finish() error {
	if err := w.pq.Close(); err != nil {
		return err
	}
	if err := w.buf.Flush(); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	temp := w.file.Name()
	written, err := w.file.Stat()
	if err != nil {
		return err
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	if named, err := os.Lstat(temp); err != nil {
		return err
	} else if !os.SameFile(written, named) {
		return fmt.Errorf("%s: replaced by another file while it was written", temp)
	}
	path := w.path(w.next)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	w.file, w.pq = nil, nil
	if err := syncDir(w.dir); err != nil {
		return err
	}
	w.next++
	w.written++
	w.tokens = 0
	if w.opts.OnShard != nil {
		w.opts.OnShard(path, w.documents)
	}
	return nil
}

// syncDir makes a rename durable. Systems that cannot sync a directory do so by
// themselves.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

// EndShard completes the open shard, so that its documents are safe. The next
// document starts another shard.
func (w *Writer) EndShard() error {
	if w.err != nil {
		return w.err
	}
	if w.pq == nil {
		return nil
	}
	return w.fail(w.finish())
}

var errClosed = errors.New("trace writer is closed")

// Close completes the last shard. A trace without documents becomes one shard
// without rows, so that its header is kept. Closing twice does nothing; closing
// after a failed Write returns its error.
func (w *Writer) Close() error {
	if w.err == errClosed {
		return nil
	}
	if w.err != nil {
		return w.err
	}
	if w.pq == nil && w.written == 0 {
		if err := w.fail(w.begin()); err != nil {
			return err
		}
	}
	if err := w.EndShard(); err != nil {
		return err
	}
	w.err = errClosed
	w.unlock()
	return nil
}

// Abort discards the open shard. Complete shards remain.
func (w *Writer) Abort() {
	w.discard()
	if w.err == nil {
		w.err = errClosed
	}
}

func (w *Writer) discard() {
	if w.file != nil {
		w.file.Close()
		os.Remove(w.file.Name())
	}
	w.file, w.pq = nil, nil
	w.unlock()
}
