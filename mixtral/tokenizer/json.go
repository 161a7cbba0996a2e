package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// maxJSONDepth is far more nesting than a tokenizer.json has.
const maxJSONDepth = 32

// jsonValue is one value of a JSON file with the path that leads to it, so that
// every error names the file and the field. Unlike encoding/json's structs it
// keeps the order of members, refuses a member given twice, and lets a reader
// refuse those it does not know.
type jsonValue struct {
	file, path string
	v          any // nil, bool, string, json.Number, []any or *jsonObject
}

type jsonObject struct {
	keys []string
	vals []any
}

// parseJSON reads one JSON value that fills the whole file.
func parseJSON(file string, data []byte) (jsonValue, error) {
	if !utf8.Valid(data) {
		return jsonValue{}, fmt.Errorf("%s: is not valid UTF-8", file)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseJSONValue(dec, 0)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("there is more after the JSON value")
		}
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return jsonValue{}, fmt.Errorf("%s: at byte %d: %w", file, dec.InputOffset(), err)
	}
	return jsonValue{file: file, v: v}, nil
}

func parseJSONValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxJSONDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			v, err := parseJSONValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = dec.Token()
		return list, err
	}
	obj, seen := &jsonObject{}, map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		k := key.(string) // the decoder accepts no other key
		if seen[k] {
			return nil, fmt.Errorf("member %q is given twice", k)
		}
		seen[k] = true
		v, err := parseJSONValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		obj.keys, obj.vals = append(obj.keys, k), append(obj.vals, v)
	}
	_, err = dec.Token()
	return obj, err
}

// errorf is an error that names the file and the field.
func (j jsonValue) errorf(format string, args ...any) error {
	if j.path == "" {
		return fmt.Errorf("%s: %w", j.file, fmt.Errorf(format, args...))
	}
	return fmt.Errorf("%s: %s: %w", j.file, j.path, fmt.Errorf(format, args...))
}

func (j jsonValue) kind() string {
	switch v := j.v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "the number " + v.String()
	case []any:
		return "an array"
	}
	return "an object"
}

func (j jsonValue) isNull() bool { return j.v == nil }

func (j jsonValue) str() (string, error) {
	s, ok := j.v.(string)
	if !ok {
		return "", j.errorf("is %s, want a string", j.kind())
	}
	return s, nil
}

func (j jsonValue) boolean() (bool, error) {
	b, ok := j.v.(bool)
	if !ok {
		return false, j.errorf("is %s, want a boolean", j.kind())
	}
	return b, nil
}

// id reads a whole number that fits a token id or a small count.
func (j jsonValue) id() (int32, error) {
	i, ok := wholeNumber(j.v)
	if !ok {
		return 0, j.errorf("is %s, want a whole number in [0, 2^31)", j.kind())
	}
	return i, nil
}

func wholeNumber(v any) (int32, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(n.String(), 10, 32)
	return int32(i), err == nil && i >= 0
}

func (j jsonValue) list() ([]jsonValue, error) {
	l, ok := j.v.([]any)
	if !ok {
		return nil, j.errorf("is %s, want an array", j.kind())
	}
	out := make([]jsonValue, len(l))
	for i, v := range l {
		out[i] = jsonValue{j.file, fmt.Sprintf("%s[%d]", j.path, i), v}
	}
	return out, nil
}

// member returns the member of an object, null if it is absent.
func (j jsonValue) member(name string) jsonValue {
	path := name
	if j.path != "" {
		path = j.path + "." + name
	}
	if o, ok := j.v.(*jsonObject); ok {
		for i, k := range o.keys {
			if k == name {
				return jsonValue{j.file, path, o.vals[i]}
			}
		}
	}
	return jsonValue{j.file, path, nil}
}

// object checks that the value is an object with no members but those named.
func (j jsonValue) object(known ...string) error {
	o, ok := j.v.(*jsonObject)
	if !ok {
		return j.errorf("is %s, want an object", j.kind())
	}
next:
	for _, k := range o.keys {
		for _, name := range known {
			if k == name {
				continue next
			}
		}
		return j.member(k).errorf("this field is not implemented")
	}
	return nil
}

// typ returns the "type" of an object.
func (j jsonValue) typ() (string, error) {
	if _, ok := j.v.(*jsonObject); !ok {
		return "", j.errorf("is %s, want an object", j.kind())
	}
	return j.member("type").str()
}

// flag reads an optional boolean.
func (j jsonValue) flag(name string, absent bool) (bool, error) {
	m := j.member(name)
	if m.isNull() {
		return absent, nil
	}
	return m.boolean()
}
