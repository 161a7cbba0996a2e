package convert

import (
	"encoding/json"
	"fmt"
)

// object walks the members of one JSON object without building it. b must hold
// valid JSON.
type object struct {
	b  []byte
	at int
}

// members calls f with the key and the raw value of each member.
func members(line []byte, f func(key string, value []byte) error) error {
	if !json.Valid(line) {
		var v any
		err := json.Unmarshal(line, &v) // for its message
		if err == nil {
			err = fmt.Errorf("malformed JSON")
		}
		return err
	}
	o := object{b: line}
	if o.space(); o.at >= len(line) || line[o.at] != '{' {
		return fmt.Errorf("not a JSON object")
	}
	o.at++
	for {
		if o.space(); o.b[o.at] == '}' {
			return nil
		}
		var key string
		raw := o.value()
		if err := json.Unmarshal(raw, &key); err != nil {
			return err
		}
		o.space()
		o.at++ // the colon
		o.space()
		if err := f(key, o.value()); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if o.space(); o.b[o.at] == ',' {
			o.at++
		}
	}
}

func (o *object) space() {
	for o.at < len(o.b) && (o.b[o.at] == ' ' || o.b[o.at] == '\t' || o.b[o.at] == '\r' || o.b[o.at] == '\n') {
		o.at++
	}
}

// value passes over one value and returns its bytes.
func (o *object) value() []byte {
	start, depth := o.at, 0
	for o.at < len(o.b) {
		c := o.b[o.at]
		switch {
		case c == '"':
			for o.at++; o.b[o.at] != '"'; o.at++ {
				if o.b[o.at] == '\\' {
					o.at++
				}
			}
			o.at++
		case c == '[' || c == '{':
			depth++
			o.at++
			continue
		case c == ']' || c == '}':
			if depth == 0 {
				return o.b[start:o.at]
			}
			depth--
			o.at++
		case c == ',' && depth == 0:
			return o.b[start:o.at]
		case depth == 0 && (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ':'):
			return o.b[start:o.at]
		default:
			o.at++
			continue
		}
		if depth == 0 {
			return o.b[start:o.at]
		}
	}
	return o.b[start:]
}

// integers reads an array of integers nested depth deep, whose parts all have
// the same lengths, and returns it flat with its shape. value is valid JSON.
func integers(value []byte, depth int) (flat []int32, shape []int, err error) {
	shape = make([]int, depth)
	for i := range shape {
		shape[i] = -1
	}
	counts := make([]int, depth) // of the open arrays
	level := 0
	for i := 0; i < len(value); {
		switch c := value[i]; {
		case c == '[':
			if level == depth {
				return nil, nil, fmt.Errorf("nested more than %d deep", depth)
			}
			if level > 0 {
				counts[level-1]++
			}
			counts[level] = 0
			level++
			i++
		case c == ']':
			level--
			if shape[level] < 0 {
				shape[level] = counts[level]
			} else if shape[level] != counts[level] {
				return nil, nil, fmt.Errorf("array of %d at depth %d where others have %d", counts[level], level+1, shape[level])
			}
			i++
		case c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
		default:
			if level != depth {
				return nil, nil, fmt.Errorf("value %d stands at depth %d, want %d", len(flat), level, depth)
			}
			v, n, err := integer(value[i:])
			if err != nil {
				return nil, nil, fmt.Errorf("value %d: %w", len(flat), err)
			}
			flat = append(flat, v)
			counts[level-1]++
			i += n
		}
	}
	for i, n := range shape {
		if n < 0 {
			shape[i] = 0
		}
	}
	return flat, shape, nil
}

// integer reads the 32-bit integer at the start of b.
func integer(b []byte) (v int32, n int, err error) {
	var x int64
	negative := b[0] == '-'
	if negative {
		n++
	}
	digits := n
	for ; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		if x = 10*x + int64(b[n]-'0'); x > 1<<31 {
			return 0, n, fmt.Errorf("integer does not fit 32 bits")
		}
	}
	if negative {
		x = -x
	}
	if n == digits || x != int64(int32(x)) || n < len(b) && b[n] != ',' && b[n] != ']' && b[n] > ' ' {
		return 0, n, fmt.Errorf("not a 32-bit integer")
	}
	return int32(x), n, nil
}
