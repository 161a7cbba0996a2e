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
	maxShards     = 100000
)

// WriterOptions says how shards are cut. The zero value is ready to use.
type WriterOptions struct {
	// Prefix starts the shards' names, PREFIX-00000.parquet and so on, so that
	// several processes can write into one directory; "": "shard".
	Prefix string
	// ShardBytes ends a shard once it holds as many; 0: 256 MiB. A document is
	// never split between shards.
	ShardBytes int64
	// GroupTokens ends a row group once it holds as many tokens; 0: 32,768.
	// A row group also ends with its data set, unless it is still small. Smaller
	// groups let a reader pass over more, and cost bytes.
	GroupTokens int
	// Float is the type of router logits and router input.
	Float Float
	// Split stores float32 columns in Parquet's BYTE_STREAM_SPLIT, which takes a
	// fifth off routing weights. pandas (pyarrow), polars and DuckDB read it;
	// Spark's releases do not yet.
	Split bool
	// Append continues after the shards of the same prefix that the directory
	// holds, which must have the same header. Without it they are an error.
	Append bool
	// OnShard, if set, is told of each shard once it stands under its name.
	OnShard func(path string, documents int)
}

// Validate checks that sizes are not negative and that the prefix is a plain
// file name that readers do not take for a hidden file.
func (o *WriterOptions) Validate() error {
	switch {
	case o.ShardBytes < 0 || o.GroupTokens < 0:
		return fmt.Errorf("writer options: negative size")
	case o.Float != Float32 && o.Float != Float16:
		return fmt.Errorf("writer options: float type %d", o.Float)
	case strings.ContainsAny(o.Prefix, `/\`) || strings.HasPrefix(o.Prefix, ".") || strings.HasPrefix(o.Prefix, "_"):
		return fmt.Errorf("writer options: prefix %q is no visible file name", o.Prefix)
	}
	return nil
}

// Writer writes documents as a directory of Parquet shards. A shard is written
// under a hidden name, synced, and renamed when it is whole. A Writer is not
// safe for concurrent use.
type Writer struct {
	dir    string
	header Header
	opts   WriterOptions

	locked *flock.Flock // nil: on a file system without locks
	next   int          // number of the next shard
	file   *os.File     // the open shard, under its temporary name
	buf    *bufio.Writer
	pq     *pq.Writer
	specs  []pq.Spec

	seen      map[[16]byte]struct{}
	documents int    // of the open shard
	tokens    int    // of the open row group
	dataset   string // of the open row group
	written   int    // shards
	tally     WriterTotals
	err       error
}

// WriterTotals counts what was written.
type WriterTotals struct {
	Shards    int
	Documents int
	Tokens    int64
	Bytes     int64 // of finished shards
}

// Create starts a trace in dir, which is made if need be. Shards appear as they
// are finished; Close finishes the last one. Leftovers of an interrupted writer
// of the same prefix are removed.
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

// resume numbers the next shard after those that stand.
func (w *Writer) resume() error {
	for ; w.next < maxShards; w.next++ {
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

// WriterTotals returns what was written so far, without shards found by Append.
func (w *Writer) Totals() WriterTotals { return w.tally }

// Write appends a document. The document is checked by Document.Validate, and
// that this Writer has not written its name before; one that fails is left out
// and the writer stays usable. After any other error,
// of the disk for example, the open shard is lost and the writer refuses work.
// The writer keeps nothing of d.
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

// fitsHalf checks before anything is written that no number overflows.
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

// fail remembers the first error and gives the open shard up.
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
	w.tally.Documents++
	w.tally.Tokens += int64(d.Len())
	return appendDocument(w.pq, &w.header, d)
}

func (w *Writer) endGroup() error {
	w.tokens = 0
	return w.pq.FlushGroup()
}

// begin opens the next shard under its hidden name.
func (w *Writer) begin() error {
	if w.next >= maxShards {
		return fmt.Errorf("%s: more than %d shards", w.dir, maxShards)
	}
	// A name of its own, so that no other writer's file is ever renamed or removed.
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

// finish makes the open shard whole and gives it its name.
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
	size, temp := w.pq.Offset(), w.file.Name()
	if err := w.file.Close(); err != nil {
		return err
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
	w.tally.Shards++
	w.tally.Bytes += size
	if w.opts.OnShard != nil {
		w.opts.OnShard(path, w.documents)
	}
	return nil
}

// syncDir makes a rename last. Systems that cannot sync a directory do it
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

// EndShard finishes the open shard now, so that its documents are safe. The
// next document starts another.
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

// Close finishes the last shard. A trace of no documents becomes one shard of
// no rows, so that its header is kept. Closing twice does nothing; closing
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

// Abort gives the open shard up; finished shards stay.
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
