package convert

import (
	"errors"
	"fmt"
)

// integers decodes an array of integers of depth axes, whose parts all have the
// same lengths. It returns the values in order and the shape. value is valid JSON.
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
				return nil, nil, fmt.Errorf("value %d is at depth %d, expected %d", len(flat), level, depth)
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
	for i := range shape {
		shape[i] = max(shape[i], 0)
	}
	return flat, shape, nil
}

// integer decodes the 32-bit integer at the start of b, which has n bytes.
func integer(b []byte) (v int32, n int, err error) {
	var x int64
	negative := b[0] == '-'
	if negative {
		n++
	}
	digits := n
	for ; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		if x = 10*x + int64(b[n]-'0'); x > 1<<31 {
			return 0, n, errors.New("integer does not fit 32 bits")
		}
	}
	if negative {
		x = -x
	}
	if n == digits || x != int64(int32(x)) || n < len(b) && b[n] != ',' && b[n] != ']' && b[n] > ' ' {
		return 0, n, errors.New("not a 32-bit integer")
	}
	return int32(x), n, nil
}
