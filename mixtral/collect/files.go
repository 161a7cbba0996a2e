package collect

import (
	"compress/bzip2"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// FileOptions are how [Files] reads files.
type FileOptions struct {
	// Text is the field, or column, of the text; if empty, "text". Several,
	// separated by commas, are joined by empty lines.
	Text string
	// ID is the field of the document's id; if empty, "id" where present.
	ID string
	// Dataset is the field of the data set's name; if empty, "dataset" or "domain"
	// where present.
	Dataset string
	// Name is the data set of documents that do not name one; see Files for what it
	// is if empty.
	Name string
	// Format is jsonl, csv, tsv, parquet or text; if empty, it depends on the file's
	// extension.
	Format string
}

// formats are the known extensions.
var formats = map[string]string{
	".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
	".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
	".txt": "text", ".text": "text", ".md": "text",
}

// Formats returns the extensions that [Files] knows.
func Formats() []string { return slices.Sorted(maps.Keys(formats)) }

// Validate reports an unknown format.
func (o *FileOptions) Validate() error {
	switch o.Format {
	case "", "jsonl", "csv", "tsv", "parquet", "text":
		return nil
	}
	return fmt.Errorf("unknown format %q; must be jsonl, csv, tsv, parquet or text", o.Format)
}

// Files returns sources for files and folders. The formats are, by extension, JSON
// lines (.jsonl, .ndjson, .json), tables with a header line (.csv, .tsv), Parquet
// (not compressed with LZ4), and text files (.txt, .text, .md), each of which is a
// document. All but Parquet may be compressed, with a further extension .gz, .bz2
// or .zst. A folder means all such files in it and below, except hidden ones.
//
// A document that does not name its data set belongs to o.Name or, if that is
// empty, to the data set named after the folder of the file, below the given
// folder; in the given folder itself, and for a given file, it is named after the
// file, without extensions. Text files are in the data set named after the given
// folder, or "text".
//
// What is not a regular file when it is read, for example a pipe, is an error of
// its source.
func Files(ctx context.Context, paths []string, o FileOptions) ([]Source, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	var found []file
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			list, err := o.folder(ctx, p)
			if err != nil {
				return nil, err
			}
			found = append(found, list...)
			continue
		}
		if o.formatOf(p) == "" {
			return nil, fmt.Errorf("%s: unknown extension; known are %s, or the format must be given", p, strings.Join(Formats(), ", "))
		}
		set := stem(p)
		if o.formatOf(p) == "text" {
			set = "text"
		}
		found = append(found, file{p, filepath.Base(p), set})
	}
	// Names appear in ids, so they must differ.
	count := make(map[string]int)
	for _, f := range found {
		count[f.name]++
	}
	var sources []Source
	for _, f := range found {
		if count[f.name] > 1 {
			f.name = filepath.ToSlash(f.path)
		}
		sources = append(sources, o.source(f.path, f.name, f.set))
	}
	return sources, nil
}

// file is a file to read, its name in ids, and its data set.
type file struct{ path, name, set string }

// folder lists the known files of a folder, in the order of their names.
func (o *FileOptions) folder(ctx context.Context, dir string) ([]file, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var list []file
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") && p != dir {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		format := formatOf(p)
		if e.IsDir() || format == "" || o.Format != "" && format != o.Format {
			return nil
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		set, _, below := strings.Cut(name, "/")
		if !below {
			if set = stem(p); format == "text" {
				set = filepath.Base(abs)
			}
		}
		list = append(list, file{p, name, set})
		return nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s: the folder has no files of texts", dir)
	}
	return list, err
}

func (o *FileOptions) formatOf(p string) string {
	if o.Format != "" {
		return o.Format
	}
	return formatOf(p)
}

// formatOf returns the format of a file by its extension; "": unknown.
func formatOf(p string) string { return formats[strings.ToLower(path.Ext(plain(p)))] }

// plain removes the extension of a compressed file.
func plain(p string) string {
	for _, ext := range []string{".gz", ".bz2", ".zst"} {
		if len(p) > len(ext) && strings.EqualFold(p[len(p)-len(ext):], ext) {
			return p[:len(p)-len(ext)]
		}
	}
	return p
}

// stem returns a file's name without extensions.
func stem(p string) string {
	name := plain(filepath.Base(p))
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// source reads one file.
func (o FileOptions) source(p, name, set string) Source {
	if o.Name != "" {
		set = o.Name
	}
	return Source{set, func(ctx context.Context) iter.Seq2[Document, error] {
		return func(yield func(Document, error) bool) {
			f, err := openRegular(p)
			if err != nil {
				yield(Document{}, err)
				return
			}
			defer f.Close()
			if o.formatOf(p) == "parquet" {
				o.parquetRows(f, name, yield)
				return
			}
			in, err := decompress(f)
			if err != nil {
				yield(Document{}, fmt.Errorf("%s: %w", p, err))
				return
			}
			defer in.Close()
			text := &cancellable{ctx, in}
			switch o.formatOf(p) {
			case "jsonl":
				o.jsonLines(text, p, name, yield)
			case "csv":
				o.table(text, p, name, ',', yield)
			case "tsv":
				o.table(text, p, name, '\t', yield)
			default:
				yield(wholeText(text, p, name))
			}
		}
	}}
}

// openRegular opens a file. Opening or reading anything but a regular file could
// block forever, and a pipe can be read only once.
func openRegular(p string) (*os.File, error) {
	info, err := os.Stat(p)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file (%s)", p, info.Mode())
	}
	return os.Open(p)
}

// cancellable fails once its context is done.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

// Read reads from r.
func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// decompress reads f by its extension.
func decompress(f *os.File) (io.ReadCloser, error) {
	switch strings.ToLower(filepath.Ext(f.Name())) {
	case ".gz":
		return gzip.NewReader(f)
	case ".bz2":
		return io.NopCloser(bzip2.NewReader(f)), nil
	case ".zst":
		r, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	}
	return io.NopCloser(f), nil
}

// wholeText makes a document of a file, of at most maxLine bytes. [Run] ignores
// what is after them.
func wholeText(in io.Reader, p, name string) (Document, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxLine))
	if err != nil {
		return Document{}, fmt.Errorf("%s: %w", p, err)
	}
	return Document{ID: name, Text: string(text), Place: name}, nil
}
