package collect

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
)

// limited is a reader of at most left bytes.
type limited struct {
	r    io.Reader
	left int
}

var errLongRecord = fmt.Errorf("record is longer than %d MiB", maxLine>>20)

// Read reads, or fails if a record does not end.
func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errLongRecord
	}
	n, err := l.r.Read(p)
	l.left -= n
	return n, err
}

// table yields a document, or an error that names file and line, for each record
// of a table whose first line names the fields.
func (o *FileOptions) table(in io.Reader, path, name string, comma rune, yield func(Document, error) bool) {
	l := &limited{in, maxLine}
	r := csv.NewReader(l)
	r.Comma = comma
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		if err == io.EOF {
			err = errors.New("no header line that names the fields")
		}
		yield(Document{}, fmt.Errorf("%s: %w", path, err))
		return
	}
	column := make(map[string]int)
	for i, field := range head {
		field = strings.TrimPrefix(field, "\ufeff") // which spreadsheets put first
		if _, ok := column[field]; ok {
			yield(Document{}, fmt.Errorf("%s: two fields have the name %q", path, field))
			return
		}
		column[strings.Clone(field)] = i
	}
	if err := o.check(func(field string) bool { _, ok := column[field]; return ok }); err != nil {
		yield(Document{}, fmt.Errorf("%s: %w", path, err))
		return
	}
	for {
		l.left = maxLine
		record, err := r.Read()
		if err == io.EOF {
			return
		}
		var pe *csv.ParseError
		if err != nil {
			if !yield(Document{}, fmt.Errorf("%s: %w", path, err)) || !errors.As(err, &pe) {
				return
			}
			continue
		}
		line, _ := r.FieldPos(0)
		d, err := o.document(func(field string) (string, bool, error) {
			i, ok := column[field]
			if !ok {
				return "", false, nil
			}
			return strings.ToValidUTF8(strings.Clone(record[i]), "\ufffd"), true, nil
		})
		d.Place = fmt.Sprintf("%s:%d", name, line)
		if err != nil {
			err = fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if !yield(d, err) {
			return
		}
	}
}

// check reports required fields that are missing.
func (o *FileOptions) check(has func(field string) bool) error {
	for _, field := range append(o.textFields(), o.ID, o.Dataset) {
		if field != "" && !has(field) {
			return fmt.Errorf("no field %q", field)
		}
	}
	return nil
}
