package collect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/parquet-go/parquet-go"
)

// parquetRows yields a document for each row of a Parquet file. Columns are
// strings, or integers for ids, that are not within lists; null means missing.
// After a page that cannot be read the rest of the file is skipped.
func (o *FileOptions) parquetRows(f *os.File, name string, yield func(Document, error) bool) {
	stopped := false
	err := func() (err error) {
		// parquet-go panics on some corrupt files.
		defer func() {
			if p := recover(); p != nil && !stopped {
				err = fmt.Errorf("corrupt Parquet: %v", p)
			} else if p != nil {
				panic(p) // of the caller
			}
		}()
		t, err := o.openTable(f)
		if err != nil {
			return err
		}
		row := int64(0)
		for i, g := range t.file.RowGroups() {
			for j, column := range t.index {
				if err := t.guard.Check(i, column); err != nil {
					return fmt.Errorf("row group %d: column %q: %w", i, t.names[j], err)
				}
			}
			err := t.group(g, func(values map[string]*string) bool {
				d, err := o.document(func(field string) (string, bool, error) {
					v := values[field]
					if v == nil {
						return "", false, nil
					}
					return *v, true, nil
				})
				d.Place = fmt.Sprintf("%s:%d", name, row)
				if err != nil {
					err = fmt.Errorf("%s: row %d: %w", f.Name(), row, err)
				}
				row++
				stopped = true // a panic now is not of parquet-go
				more := yield(d, err)
				stopped = !more
				return more
			})
			if err != nil {
				return fmt.Errorf("after row %d: %w", row, err)
			}
			if stopped {
				return nil
			}
		}
		return nil
	}()
	if err != nil && !stopped {
		yield(Document{}, fmt.Errorf("%s: %w", f.Name(), err))
	}
}

// columns is an open Parquet file and the columns that are read.
type columns struct {
	guard *trace.ParquetGuard
	file  *parquet.File
	names []string
	index []int
}

func (o *FileOptions) openTable(f *os.File) (*columns, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	guard, err := trace.GuardParquet(f, info.Size())
	if err != nil {
		return nil, err
	}
	file, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	t := &columns{guard: guard, file: file}
	names := append(o.textFields(), o.ID, o.Dataset)
	if o.ID == "" {
		names = append(names, "id")
	}
	if o.Dataset == "" {
		names = append(names, "dataset", "domain")
	}
	has := make(map[string]bool)
	for _, name := range names {
		leaf, ok := file.Schema().Lookup(strings.Split(name, ".")...)
		if name == "" || !ok || has[name] || leaf.MaxRepetitionLevel > 0 {
			continue
		}
		switch leaf.Node.Type().Kind() {
		case parquet.ByteArray, parquet.FixedLenByteArray, parquet.Int32, parquet.Int64:
		default:
			continue // as if it were missing
		}
		has[name] = true
		t.names = append(t.names, name)
		t.index = append(t.index, leaf.ColumnIndex)
	}
	return t, o.check(func(field string) bool { return has[field] })
}

// group calls row for the rows of a row group. A null value is nil.
func (t *columns) group(g parquet.RowGroup, row func(map[string]*string) bool) error {
	readers := make([]*valueReader, len(t.index))
	for i, c := range t.index {
		readers[i] = &valueReader{pages: g.ColumnChunks()[c].Pages()}
		defer readers[i].close()
	}
	values := make(map[string]*string)
	for range g.NumRows() {
		for i, r := range readers {
			v, err := r.next()
			if err != nil {
				if err == io.EOF {
					err = errors.New("fewer values than rows")
				}
				return fmt.Errorf("column %q: %w", t.names[i], err)
			}
			values[t.names[i]] = v
		}
		if !row(values) {
			return nil
		}
	}
	return nil
}

// valueReader reads the values of a column one by one, with a page in memory.
type valueReader struct {
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	buf    [64]parquet.Value
	at, n  int
}

func (r *valueReader) next() (*string, error) {
	for r.at == r.n {
		if r.values == nil {
			page, err := r.pages.ReadPage()
			if err != nil {
				return nil, err
			}
			r.page, r.values = page, page.Values()
		}
		n, err := r.values.ReadValues(r.buf[:])
		r.at, r.n = 0, n
		if err != nil && err != io.EOF {
			return nil, err
		}
		if n == 0 {
			parquet.Release(r.page)
			r.page, r.values = nil, nil
		}
	}
	v := r.buf[r.at]
	r.at++
	if v.IsNull() {
		return nil, nil
	}
	var s string
	switch v.Kind() {
	case parquet.Int32, parquet.Int64:
		s = fmt.Sprint(v.Int64())
	default:
		s = strings.ToValidUTF8(string(v.ByteArray()), "\ufffd")
	}
	return &s, nil
}

func (r *valueReader) close() {
	if r.page != nil {
		parquet.Release(r.page)
	}
	r.pages.Close()
}
