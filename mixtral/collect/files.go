package collect

import (
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// FileOptions say how files are read.
type FileOptions struct {
	Fields
	// Name is the data set of documents that do not name one; "": see Files.
	Name string
	// Format is jsonl, csv, tsv, parquet or text; "": by the file's extension.
	Format string
}

// formats are the extensions that are known.
var formats = map[string]string{
	".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
	".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
	".txt": "text", ".text": "text", ".md": "text",
}

// Validate checks that the format is known.
func (o *FileOptions) Validate() error {
	switch o.Format {
	case "", "jsonl", "csv", "tsv", "parquet", "text":
		return nil
	}
	return fmt.Errorf("format %q, want jsonl, csv, tsv, parquet or text", o.Format)
}

// Files returns sources for files and folders. Known are, by extension, JSON
// lines (.jsonl, .ndjson, .json), tables with a head line (.csv, .tsv), Parquet,
// and text files (.txt, .text, .md), which are a document each; all but Parquet
// also with .gz, .bz2 or .zst behind that. (Parquet that is packed with LZ4 is
// an error: parquet-go does not unpack all of it.) A folder stands for all such files in
// it and below, hidden ones and others left out.
//
// A document that names no data set belongs to the one that o.Name gives. Else
// it is, for a file in a folder below the given one, that folder's name; else
// for tables the file's name without extensions, and for text files the given
// folder's, or "text".
func Files(paths []string, o FileOptions) ([]Source, error) {
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
			list, err := o.folder(p)
			if err != nil {
				return nil, err
			}
			found = append(found, list...)
			continue
		}
		if o.Format == "" && formatOf(p) == "" {
			return nil, fmt.Errorf("%s: unknown kind of file: the extension is none of .jsonl, .csv, .tsv, .parquet, .txt and a format was not given", p)
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

// file is a file to read, what ids call it, and its data set.
type file struct{ path, name, set string }

// folder lists the known files of a folder, in the order of their names.
func (o *FileOptions) folder(dir string) ([]file, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var list []file
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") && p != dir {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if e.IsDir() || formatOf(p) == "" || o.Format != "" && formatOf(p) != o.Format {
			return nil
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		set, _, below := strings.Cut(name, "/")
		if !below {
			if set = stem(p); formatOf(p) == "text" {
				set = filepath.Base(abs)
			}
		}
		list = append(list, file{p, name, set})
		return nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s: no files of texts in this folder", dir)
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

// plain cuts the extension of a compressed file off.
func plain(p string) string {
	for _, ext := range []string{".gz", ".bz2", ".zst"} {
		if len(p) > len(ext) && strings.EqualFold(p[len(p)-len(ext):], ext) {
			return p[:len(p)-len(ext)]
		}
	}
	return p
}

// stem is a file's name without extensions.
func stem(p string) string {
	name := plain(filepath.Base(p))
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// source reads one file.
func (o FileOptions) source(p, name, set string) Source {
	if o.Name != "" {
		set = o.Name
	}
	format := o.formatOf(p)
	return Source{set, func(context.Context) iter.Seq2[Document, error] {
		return func(yield func(Document, error) bool) {
			f, err := os.Open(p)
			if err != nil {
				yield(Document{}, err)
				return
			}
			defer f.Close()
			if format == "parquet" {
				parquetRows(f, name, o.Fields, nil, yield)
				return
			}
			in, err := decompress(f)
			if err != nil {
				yield(Document{}, fmt.Errorf("%s: %w", p, err))
				return
			}
			defer in.Close()
			switch format {
			case "jsonl":
				jsonLines(in, p, name, o.Fields, yield)
			case "csv":
				table(in, p, name, ',', o.Fields, yield)
			case "tsv":
				table(in, p, name, '\t', o.Fields, yield)
			default:
				yield(wholeText(in, p, name))
			}
		}
	}}
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

// wholeText makes a document of a file, of at most maxLine bytes; Run does not
// look at what is beyond.
func wholeText(in io.Reader, p, name string) (Document, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxLine))
	if err != nil {
		var pe *fs.PathError
		if !errors.As(err, &pe) {
			err = fmt.Errorf("%s: %w", p, err)
		}
		return Document{}, err
	}
	return Document{ID: name, Text: string(text), Place: name}, nil
}

// Formats lists the known extensions, for help texts.
func Formats() []string {
	var list []string
	for ext := range formats {
		list = append(list, ext)
	}
	slices.Sort(list)
	return list
}
