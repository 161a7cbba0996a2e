package collect

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxLine bounds a line of a text format, in bytes.
const maxLine = 64 << 20

// jsonLines yields a document, or an error that names file and line, for each line
// that is not empty. Strings and numbers can be ids and names.
func (o *FileOptions) jsonLines(in io.Reader, path, name string, yield func(Document, error) bool) {
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
			d, err := o.object(line)
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

// readLine reads a line of at most maxLine bytes. A longer one is skipped and
// returned as errLongLine. The last line comes with io.EOF.
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
func (o *FileOptions) object(line []byte) (Document, error) {
	if !utf8.Valid(line) {
		return Document{}, errors.New("not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return Document{}, err
	}
	return o.document(func(field string) (string, bool, error) {
		raw, ok := fields[field]
		if !ok || string(raw) == "null" {
			return "", false, nil
		}
		var s string
		if raw[0] != '"' {
			if raw[0] == '{' || raw[0] == '[' {
				return "", false, fmt.Errorf("field %q is not a string", field)
			}
			return string(raw), true, nil
		}
		err := json.Unmarshal(raw, &s)
		return s, true, err
	})
}

// textFields returns the fields of the text.
func (o *FileOptions) textFields() []string { return strings.Split(cmp.Or(o.Text, "text"), ",") }

// document makes a document of a record's fields.
func (o *FileOptions) document(get func(field string) (value string, ok bool, err error)) (Document, error) {
	var d Document
	var parts []string
	for _, field := range o.textFields() {
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
	if d.ID, err = first(get, o.ID, "id"); err != nil {
		return d, err
	}
	d.Dataset, err = first(get, o.Dataset, "dataset", "domain")
	return d, err
}

// first returns the required field or, if that is "", the first of others that is
// present, or "".
func first(get func(string) (string, bool, error), required string, others ...string) (string, error) {
	if required != "" {
		v, ok, err := get(required)
		if err == nil && !ok {
			err = fmt.Errorf("no field %q", required)
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
