package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxJSONDepth is far more nesting than a tokenizer.json has.
const maxJSONDepth = 32

// value is one value of a JSON file with its path, so that every error names the
// file and the field. Unlike the structs of encoding/json it keeps the order of
// members and refuses duplicate and unknown ones.
//
// Its methods panic with invalid where the value is not what they read. [Parse]
// returns that as its error.
type value struct {
	file, path string // path of the array that contains it if index is positive
	index      int    // 1-based, in an array
	v          any    // nil, bool, string, json.Number, []any or *object
}

type object struct {
	keys []string
	vals []any
}

type invalid struct{ err error }

// where returns the value's path, "" for the root.
func (j value) where() string {
	if j.index > 0 {
		return j.path + "[" + strconv.Itoa(j.index-1) + "]"
	}
	return j.path
}

// fail ends the reading of the file.
func (j value) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if path := j.where(); path != "" {
		err = fmt.Errorf("%s: %w", path, err)
	}
	panic(invalid{fmt.Errorf("%s: %w", j.file, err)})
}

// readJSON reads a file that is one JSON value.
func readJSON(file string, data []byte) value {
	root := value{file: file}
	if !utf8.Valid(data) {
		root.fail("is not valid UTF-8")
	}
	r := jsonReader{json.NewDecoder(bytes.NewReader(data)), root}
	r.dec.UseNumber()
	root.v = r.value(0)
	if _, err := r.dec.Token(); err != io.EOF {
		r.fail("data follows the JSON value")
	}
	return root
}

type jsonReader struct {
	dec  *json.Decoder
	root value
}

func (r *jsonReader) fail(format string, args ...any) {
	r.root.fail("at byte %d: %w", r.dec.InputOffset(), fmt.Errorf(format, args...))
}

func (r *jsonReader) token() json.Token {
	tok, err := r.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.fail("%w", err)
	}
	return tok
}

func (r *jsonReader) value(depth int) any {
	if depth > maxJSONDepth {
		r.fail("nesting is deeper than %d", maxJSONDepth)
	}
	switch tok := r.token(); tok {
	case json.Delim('['):
		list := []any{}
		for r.dec.More() {
			list = append(list, r.value(depth+1))
		}
		r.token()
		return list
	case json.Delim('{'):
		obj, seen := &object{}, map[string]bool{}
		for r.dec.More() {
			key := r.token().(string) // the decoder accepts no other key
			if seen[key] {
				r.fail("member %q occurs twice", key)
			}
			seen[key] = true
			obj.keys, obj.vals = append(obj.keys, key), append(obj.vals, r.value(depth+1))
		}
		r.token()
		return obj
	default:
		return tok
	}
}

// mustBe fails, for a value of another type than the one wanted.
func (j value) mustBe(what string) {
	is := "an object"
	switch v := j.v.(type) {
	case nil:
		is = "null"
	case bool:
		is = "a boolean"
	case string:
		is = "a string"
	case json.Number:
		is = "the number " + v.String()
	case []any:
		is = "an array"
	}
	j.fail("is %s; must be %s", is, what)
}

func (j value) null() bool { return j.v == nil }

func (j value) str() string {
	s, ok := j.v.(string)
	if !ok {
		j.mustBe("a string")
	}
	return s
}

// char reads a string of one character.
func (j value) char() string {
	s := j.str()
	if utf8.RuneCountInString(s) != 1 {
		j.fail("is %q; must be one character", s)
	}
	return s
}

func (j value) boolean() bool {
	b, ok := j.v.(bool)
	if !ok {
		j.mustBe("a boolean")
	}
	return b
}

// id reads a whole number that fits a token id or a small count.
func (j value) id() int32 {
	id, ok := wholeNumber(j.v)
	if !ok {
		j.mustBe("a whole number in [0, 2^31)")
	}
	return id
}

func wholeNumber(v any) (int32, bool) {
	n, _ := v.(json.Number)
	i, err := strconv.ParseInt(n.String(), 10, 32)
	return int32(i), err == nil && i >= 0
}

func (j value) list() []value {
	l, ok := j.v.([]any)
	if !ok {
		j.mustBe("an array")
	}
	out, path := make([]value, len(l)), j.where()
	for i, v := range l {
		out[i] = value{j.file, path, i + 1, v}
	}
	return out
}

// members reads an object; if names are known, it may have no others.
func (j value) members(known ...string) *object {
	o, ok := j.v.(*object)
	if !ok {
		j.mustBe("an object")
	}
	for _, k := range o.keys {
		if len(known) > 0 && !slices.Contains(known, k) {
			j.member(k).fail("is not implemented")
		}
	}
	return o
}

// member returns the member of an object, null if it is absent.
func (j value) member(name string) value {
	m := value{file: j.file, path: name}
	if path := j.where(); path != "" {
		m.path = path + "." + name
	}
	if o, ok := j.v.(*object); ok {
		if i := slices.Index(o.keys, name); i >= 0 {
			m.v = o.vals[i]
		}
	}
	return m
}

// typ returns the "type" of an object.
func (j value) typ() string {
	j.members()
	return j.member("type").str()
}

// flag reads an optional boolean.
func (j value) flag(name string, absent bool) bool {
	m := j.member(name)
	return m.null() && absent || !m.null() && m.boolean()
}
