package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// FieldError returns an error about one field of a JSON file, a nested one as
// "rope_parameters.rope_type".
func FieldError(file, field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", file, field, fmt.Errorf(format, args...))
}

// Fields is a JSON object whose fields are read one by one. The first error is
// kept in Err; after it fields have their defaults.
type Fields struct {
	File   string // that errors name
	Prefix string // of the names in errors
	Values map[string]json.RawMessage
	Err    error
}

// ParseFields reads an object of a file. Duplicate names are an error and names are
// case-sensitive, unlike in encoding/json.
func ParseFields(file string, text []byte) (*Fields, error) {
	var object json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, fmt.Errorf("bad JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(object))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New("bad JSON: not an object")
	}
	f := &Fields{File: file, Values: map[string]json.RawMessage{}}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		name, _ := tok.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		if _, twice := f.Values[name]; twice {
			return nil, fmt.Errorf("duplicate field %q", name)
		}
		f.Values[name] = value
	}
	return f, nil
}

// Fail sets Err to an error about a field, unless there is one.
func (f *Fields) Fail(name, format string, args ...any) {
	if f.Err == nil {
		f.Err = FieldError(f.File, f.Prefix+name, format, args...)
	}
}

// Absent reports whether there is no such field.
func (f *Fields) Absent(name string) bool {
	_, ok := f.Values[name]
	return !ok
}

// Null reports whether the field is null.
func (f *Fields) Null(name string) bool { return string(f.Values[name]) == "null" }

// Int reads an integer; def if the field is absent.
func (f *Fields) Int(name string, def int) int {
	value, ok := f.Values[name]
	if !ok {
		return def
	}
	n, err := strconv.ParseInt(string(value), 10, strconv.IntSize)
	if err != nil {
		f.Fail(name, "%s is not an integer", Clip(value))
		return def
	}
	return int(n)
}

// Ints reads an integer, a list of them, or null for none.
func (f *Fields) Ints(name string, def []int) []int {
	value, ok := f.Values[name]
	if !ok {
		return def
	}
	if f.Null(name) {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		list = []json.RawMessage{value}
	}
	numbers := make([]int, len(list))
	for i, v := range list {
		n, err := strconv.ParseInt(string(v), 10, strconv.IntSize)
		if err != nil {
			f.Fail(name, "%s is neither an integer nor a list of integers", Clip(value))
			return def
		}
		numbers[i] = int(n)
	}
	return numbers
}

// Float reads a number.
func (f *Fields) Float(name string, def float64) float64 {
	value, ok := f.Values[name]
	if !ok {
		return def
	}
	var x *float64
	if err := json.Unmarshal(value, &x); err != nil || x == nil {
		f.Fail(name, "%s is not a number", Clip(value))
		return def
	}
	return *x
}

// Bool reads true or false.
func (f *Fields) Bool(name string, def bool) bool {
	value, ok := f.Values[name]
	if !ok {
		return def
	}
	var b *bool
	if err := json.Unmarshal(value, &b); err != nil || b == nil {
		f.Fail(name, "%s is neither true nor false", Clip(value))
		return def
	}
	return *b
}

// String reads a string; null is as absent.
func (f *Fields) String(name string, def string) string {
	value, ok := f.Values[name]
	if !ok || f.Null(name) {
		return def
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		f.Fail(name, "%s is not a string", Clip(value))
		return def
	}
	return s
}

// Clip shortens a part of a file for an error.
func Clip(b []byte) string {
	const limit = 60
	if len(b) <= limit {
		return string(b)
	}
	return string(b[:limit]) + "..."
}
