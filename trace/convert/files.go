package convert

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// base returns the name of a file or folder without its last extension.
func base(path string) string {
	name := filepath.Base(filepath.Clean(path))
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// datasetOr returns the data set of the options, or else name.
func datasetOr(o Options, name string) string {
	if o.Dataset != "" {
		return o.Dataset
	}
	return name
}

// maxLine bounds a line; OLMoE's of 2,048 tokens with 16 layers take 1 MB.
const maxLine = 1 << 30

var errLongLine = fmt.Errorf("line of more than %d bytes", maxLine)

// lines calls f with each line of a file, without its end, and its number from
// 1. The bytes are only valid during the call.
func lines(path string, f func(n int, line []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return readLines(file, path, f)
}

func readLines(in io.Reader, path string, f func(n int, line []byte) error) error {
	r := bufio.NewReaderSize(in, 1<<16)
	var line []byte
	for n := 1; ; n++ {
		line = line[:0]
		for {
			part, err := r.ReadSlice('\n')
			line = append(line, part...)
			if err == nil {
				break
			}
			if errors.Is(err, bufio.ErrBufferFull) && len(line) < maxLine {
				continue
			}
			if !errors.Is(err, io.EOF) {
				if errors.Is(err, bufio.ErrBufferFull) {
					err = errLongLine
				}
				return &Error{File: path, Line: n, Err: err}
			}
			if len(line) == 0 {
				return nil
			}
			return f(n, trimEnd(line))
		}
		if err := f(n, trimEnd(line)); err != nil {
			return err
		}
	}
}

func trimEnd(line []byte) []byte {
	n := len(line)
	if n > 0 && line[n-1] == '\n' {
		n--
	}
	if n > 0 && line[n-1] == '\r' {
		n--
	}
	return line[:n]
}

// whole writes a file aside, syncs it and gives it its name. The file must not
// exist.
func whole(path string, write func(w *bufio.Writer) error) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriterSize(f, 1<<16)
	err = write(w)
	err = errors.Join(err, w.Flush())
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return err
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// newFolder makes a folder that must not exist or be empty.
func newFolder(path string) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s: folder is not empty", path)
	}
	return err
}

// each calls f with every document of a trace and counts them.
func each(ctx context.Context, r *trace.Reader, filter trace.Filter, f func(d *trace.Document) error) (*Report, error) {
	report := &Report{Header: r.Header()}
	for d, err := range r.Select(filter).Documents() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = f(d)
		}
		if out := (leftOut{}); errors.As(err, &out) {
			report.LeftOut = append(report.LeftOut, out.error)
			continue
		} else if err != nil {
			return report, err
		}
		report.Documents++
		report.Tokens += int64(d.Len())
	}
	return report, nil
}

// fileName makes a file name of a data set and a document's id.
func fileName(d *trace.Document) string {
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(`/\:*?"<>|%`, r) || r < ' ' {
				return '_'
			}
			return r
		}, s)
	}
	return clean(d.Dataset) + "." + clean(d.ID)
}
