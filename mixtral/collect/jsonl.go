package collect

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Fields name the fields, or columns, of a file that make a document.
type Fields struct {
	// Text is the field of the text; "": "text". Several, separated by commas, are
	// joined with empty lines between them.
	Text string
	// ID is the field of the id; "": "id", if present.
	ID string
	// Dataset is the field of the data set's name; "": "dataset" or "domain",
	// whichever is present.
	Dataset string
}

// maxLine bounds a line of a text format, in bytes.
const maxLine = 64 << 20

// JSONL is a source of one JSON object a line, as o.Fields say; the file may be
// compressed (.gz, .zst). Strings and numbers can be ids and names. A line that
// is no such object is an error that names file and line, and the rest goes on.
func JSONL(path string, o FileOptions) Source {
	o.Format = "jsonl"
	return o.source(path, filepath.Base(path), stem(path))
}

// jsonLines yields a document or an error for each line that is not empty.
func jsonLines(in io.Reader, path, name string, f Fields, yield func(Document, error) bool) {
	r := bufio.NewReaderSize(in, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(r)
		place := fmt.Sprintf("%s:%d", name, n)
		if err != nil && err != io.EOF && !errors.Is(err, errLongLine) {
			yield(Document{}, fmt.Errorf("%s:%d: %w", path, n, err))
			return
		}
		end := err == io.EOF
		if errors.Is(err, errLongLine) {
			if !yield(Document{}, fmt.Errorf("%s:%d: %w", path, n, err)) {
				return
			}
		} else if line = bytes.TrimSpace(line); len(line) > 0 {
			d, err := f.object(line)
			if err != nil {
				err = fmt.Errorf("%s:%d: %w", path, n, err)
			}
			d.Place = place
			if !yield(d, err) {
				return
			}
		}
		if end {
			return
		}
	}
}

var errLongLine = fmt.Errorf("line is longer than %d MiB", maxLine>>20)

// readLine reads a line of at most maxLine bytes; a longer one is passed over
// and errLongLine. The last line comes with io.EOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if !long {
			line = append(line, part...)
		}
		if len(line) > maxLine {
			line, long = nil, true
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if long && (err == nil || err == io.EOF) {
			return nil, errLongLine // at the end of the file, EOF comes next
		}
		return line, err
	}
}

// object reads a document from a JSON object.
func (f Fields) object(line []byte) (Document, error) {
	if !utf8.Valid(line) {
		return Document{}, errors.New("not valid UTF-8")
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(line, &o); err != nil {
		return Document{}, err
	}
	return f.document(func(field string) (string, bool, error) {
		raw, ok := o[field]
		if !ok || string(raw) == "null" {
			return "", false, nil
		}
		var s string
		if raw[0] != '"' {
			if raw[0] == '{' || raw[0] == '[' {
				return "", false, fmt.Errorf("field %q is no string", field)
			}
			return string(raw), true, nil
		}
		err := json.Unmarshal(raw, &s)
		return s, true, err
	})
}

func (f Fields) textField() string {
	if f.Text == "" {
		return "text"
	}
	return f.Text
}

// document makes a document of a record's fields.
func (f Fields) document(get func(field string) (value string, ok bool, err error)) (Document, error) {
	var d Document
	var parts []string
	for _, field := range strings.Split(f.textField(), ",") {
		v, ok, err := get(field)
		if err != nil {
			return d, err
		}
		if !ok {
			return d, fmt.Errorf("no field %q", field)
		}
		parts = append(parts, v)
	}
	d.Text = strings.Join(parts, "\n\n")
	var err error
	if d.ID, err = first(get, f.ID, "id"); err != nil {
		return d, err
	}
	d.Dataset, err = first(get, f.Dataset, "dataset", "domain")
	return d, err
}

// first returns the asked field, which must be there, or the first of others
// that is, or "".
func first(get func(string) (string, bool, error), asked string, others ...string) (string, error) {
	if asked != "" {
		v, ok, err := get(asked)
		if err == nil && !ok {
			err = fmt.Errorf("no field %q", asked)
		}
		return v, err
	}
	for _, field := range others {
		if v, ok, err := get(field); ok || err != nil {
			return v, err
		}
	}
	return "", nil
}
