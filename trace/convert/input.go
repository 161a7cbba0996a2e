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
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace/safetensors"
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

// located adds file and item to an error that does not name a file.
func located(path, item string, err error) error {
	var mine *place
	var theirs *safetensors.Error
	var file *fs.PathError
	if err == nil || errors.As(err, &mine) || errors.As(err, &theirs) || errors.As(err, &file) {
		return err
	}
	return &place{file: path, item: item, err: err}
}

// inputs are the files that a path names.
type inputs struct {
	folder  bool
	files   []string
	omitted []error // entries of a folder that are not regular files
}

// listInputs returns path itself, or the entries of the folder path whose names
// end in one of the extensions. Names that begin with a dot are ignored.
func listInputs(path string, extensions ...string) (*inputs, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return &inputs{files: []string{path}}, regular(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	in := &inputs{folder: true}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || !slices.Contains(extensions, ext) {
			continue
		}
		file := filepath.Join(path, e.Name())
		if err := regular(file); err != nil {
			in.omitted = append(in.omitted, err)
			continue
		}
		in.files = append(in.files, file)
	}
	if len(in.files) == 0 {
		err := fmt.Errorf("%s: no %s in the folder", path, strings.Join(extensions, " or "))
		return nil, errors.Join(append([]error{err}, in.omitted...)...)
	}
	return in, nil
}

// name names document n of a file.
func (in *inputs) name(o Options, file string, n int) (dataset, id string) {
	dataset, id = datasetOr(o, base(file)), strconv.Itoa(n)
	if len(in.files) > 1 && o.Dataset != "" { // numbers alone would occur twice
		id = base(file) + "-" + id
	}
	return dataset, id
}

// regular returns an error if path is not a regular file: to open a FIFO or
// device could block forever.
func regular(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &place{file: path, err: errors.New("not a regular file")}
	}
	return err
}

// file is a regular file that is read until ctx is done.
type file struct {
	*os.File
	ctx context.Context
}

func openFile(ctx context.Context, path string) (*file, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	return &file{f, ctx}, err
}

func (f *file) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

// readAll returns the bytes of a file.
func readAll(ctx context.Context, path string) ([]byte, error) {
	f, err := openFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	_, err = io.ReadFull(f, b)
	return b, located(path, "", err)
}

// maxLine bounds a line; OLMoE's of 2,048 tokens with 16 layers take 1 MB.
const maxLine = 1 << 30

// lineReader scans the lines of a file.
type lineReader struct {
	*bufio.Scanner
	file *file
	n    int // number of the line, from 1
}

func openLines(ctx context.Context, path string) (*lineReader, error) {
	f, err := openFile(ctx, path)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 1<<16), maxLine)
	return &lineReader{Scanner: s, file: f}, nil
}

func (l *lineReader) Scan() bool {
	l.n++
	return l.Scanner.Scan()
}

func (l *lineReader) Err() error {
	err := l.Scanner.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("line of more than %d bytes", maxLine)
	}
	if err != nil {
		err = l.place(err)
	}
	return err
}

func (l *lineReader) place(err error) error {
	return &place{file: l.file.Name(), line: l.n, err: err}
}

func (l *lineReader) close() { l.file.Close() }

// eachLine calls f with a reader at each line of a file.
func eachLine(ctx context.Context, path string, f func(l *lineReader) error) error {
	l, err := openLines(ctx, path)
	if err != nil {
		return err
	}
	defer l.close()
	for l.Scan() {
		if err := f(l); err != nil {
			return err
		}
	}
	return l.Err()
}
