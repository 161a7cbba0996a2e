package convert

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A pickle is a program for a small stack machine (Python's pickletools.py
// documents its instructions). unpickler runs only those that build data. What
// it may name and call is decided by its resolver, which knows a short list;
// nothing is looked up or run otherwise. Extension codes, and instructions of
// protocols 0 and 1 that make instances, are errors.
type unpickler struct {
	b       []byte
	at      int
	stack   []any
	marks   []int
	memo    map[uint64]any
	budget  int // bytes of values that may still be made
	resolve resolver
}

// resolver gives meaning to names and calls.
type resolver interface {
	// call is REDUCE and NEWOBJ: a named callable and its arguments.
	call(f global, args []any) (any, error)
	// build is BUILD: gives an object that call made its state.
	build(object, state any) error
	// persistent is BINPERSID.
	persistent(id any) (any, error)
}

// global is a name, such as torch._utils._rebuild_tensor_v2.
type global struct{ module, name string }

func (g global) String() string { return g.module + "." + g.name }

// Values are nil, bool, int64, float64, string, []byte (a part of the input),
// []any for a tuple, *list, *dict, global, and what the resolver makes.
type list struct{ items []any }

type dict struct{ keys, values []any }

// get returns the value of a string key.
func (d *dict) get(key string) (any, bool) {
	for i, k := range d.keys {
		if s, ok := k.(string); ok && s == key {
			return d.values[i], true
		}
	}
	return nil, false
}

func newUnpickler(b []byte, budget int, r resolver) *unpickler {
	return &unpickler{b: b, memo: map[uint64]any{}, budget: budget, resolve: r}
}

var (
	errPickleEnd   = errors.New("pickle ends early")
	errPickleStack = errors.New("pickle takes from an empty stack")
	errPickleSize  = errors.New("pickle makes more values than its size justifies")
)

// load runs one pickle to its STOP and returns its value. What follows in the
// input stays.
func (u *unpickler) load() (any, error) {
	u.stack, u.marks = u.stack[:0], u.marks[:0]
	for {
		at := u.at
		op, err := u.byte()
		if err != nil {
			return nil, err
		}
		if op == '.' {
			v, err := u.pop()
			if err != nil {
				return nil, fmt.Errorf("byte %d: %w", at, err)
			}
			return v, nil
		}
		if err := u.step(op); err != nil {
			return nil, fmt.Errorf("byte %d: %w", at, err)
		}
	}
}

func (u *unpickler) byte() (byte, error) {
	if u.at >= len(u.b) {
		return 0, errPickleEnd
	}
	u.at++
	return u.b[u.at-1], nil
}

// take returns the next n bytes.
func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.b)-u.at) {
		return nil, errPickleEnd
	}
	b := u.b[u.at : u.at+int(n) : u.at+int(n)]
	u.at += int(n)
	return b, nil
}

// number reads an unsigned little-endian number of n bytes.
func (u *unpickler) number(n int) (uint64, error) {
	b, err := u.take(uint64(n))
	if err != nil {
		return 0, err
	}
	var x uint64
	for i, c := range b {
		x |= uint64(c) << (8 * i)
	}
	return x, nil
}

// text reads to the end of a line.
func (u *unpickler) text() (string, error) {
	n := bytes.IndexByte(u.b[u.at:], '\n')
	if n < 0 {
		return "", errPickleEnd
	}
	s := string(u.b[u.at : u.at+n])
	u.at += n + 1
	return s, nil
}

// Bytes that values are taken to cost, their part of the stack included.
const (
	costValue  = 24
	costObject = 64
	costMemo   = 48
)

func (u *unpickler) charge(bytes int) error {
	if u.budget -= bytes; u.budget < 0 {
		return errPickleSize
	}
	return nil
}

func (u *unpickler) push(v any) error {
	cost := costValue
	switch v := v.(type) {
	case nil, bool, int64, float64:
	case string:
		cost += len(v)
	default:
		cost = costObject
	}
	if err := u.charge(cost); err != nil {
		return err
	}
	u.stack = append(u.stack, v)
	return nil
}

func (u *unpickler) floor() int {
	if n := len(u.marks); n > 0 {
		return u.marks[n-1]
	}
	return 0
}

func (u *unpickler) pop() (any, error) {
	n := len(u.stack)
	if n <= u.floor() {
		return nil, errPickleStack
	}
	v := u.stack[n-1]
	u.stack[n-1] = nil
	u.stack = u.stack[:n-1]
	return v, nil
}

func (u *unpickler) top() (any, error) {
	if len(u.stack) <= u.floor() {
		return nil, errPickleStack
	}
	return u.stack[len(u.stack)-1], nil
}

// popMark returns the values above the last mark, which is removed.
func (u *unpickler) popMark() ([]any, error) {
	n := len(u.marks)
	if n == 0 {
		return nil, errors.New("pickle has no mark")
	}
	from := u.marks[n-1]
	u.marks = u.marks[:n-1]
	values := append([]any(nil), u.stack[from:]...)
	clear(u.stack[from:])
	u.stack = u.stack[:from]
	return values, nil
}

// step runs one instruction.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := u.byte()
		if err == nil && v > 5 {
			err = fmt.Errorf("pickle of protocol %d", v)
		}
		return err
	case 0x95: // FRAME
		_, err := u.number(8)
		return err
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
		return u.charge(costValue)
	case '0': // POP
		if n := len(u.marks); n > 0 && u.marks[n-1] == len(u.stack) {
			u.marks = u.marks[:n-1]
			return nil
		}
		_, err := u.pop()
		return err
	case '1': // POP_MARK
		_, err := u.popMark()
		return err
	case '2': // DUP
		v, err := u.top()
		if err != nil {
			return err
		}
		return u.push(v)
	}
	if done, err := u.scalar(op); done {
		return err
	}
	if done, err := u.container(op); done {
		return err
	}
	if done, err := u.remember(op); done {
		return err
	}
	return u.object(op)
}

// scalar runs instructions that push one number or string.
func (u *unpickler) scalar(op byte) (bool, error) {
	var v any
	var err error
	switch op {
	case 'N':
	case 0x88:
		v = true
	case 0x89:
		v = false
	case 'K', 'M', 'J': // BININT1, BININT2, BININT
		size := map[byte]int{'K': 1, 'M': 2, 'J': 4}[op]
		var x uint64
		x, err = u.number(size)
		v = int64(x)
		if op == 'J' {
			v = int64(int32(x))
		}
	case 0x8a, 0x8b: // LONG1, LONG4
		v, err = u.long(op == 0x8b)
	case 'I', 'L':
		v, err = u.decimal()
	case 'G': // BINFLOAT
		var b []byte
		if b, err = u.take(8); err == nil {
			v = math.Float64frombits(binary.BigEndian.Uint64(b))
		}
	case 'F':
		var s string
		if s, err = u.text(); err == nil {
			v, err = strconv.ParseFloat(s, 64)
		}
	case 0x8c, 'X', 0x8d: // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
		var b []byte
		b, err = u.sized(map[byte]int{0x8c: 1, 'X': 4, 0x8d: 8}[op])
		v = string(b)
	case 'U', 'T': // SHORT_BINSTRING, BINSTRING
		var b []byte
		b, err = u.sized(map[byte]int{'U': 1, 'T': 4}[op])
		v = string(b)
	case 'V': // UNICODE: escapes are left as they are, none of our strings has any
		v, err = u.text()
	case 'C', 'B', 0x8e, 0x96: // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
		v, err = u.sized(map[byte]int{'C': 1, 'B': 4, 0x8e: 8, 0x96: 8}[op])
	default:
		return false, nil
	}
	if err != nil {
		return true, err
	}
	return true, u.push(v)
}

// sized reads bytes after their length, which takes n bytes.
func (u *unpickler) sized(n int) ([]byte, error) {
	x, err := u.number(n)
	if err != nil {
		return nil, err
	}
	return u.take(x)
}

// long reads an integer of any length. Those beyond 64 bits are kept as bytes.
func (u *unpickler) long(wide bool) (any, error) {
	size := 1
	if wide {
		size = 4
	}
	b, err := u.sized(size)
	if err != nil || len(b) > 8 {
		return b, err
	}
	var x uint64
	for i, c := range b {
		x |= uint64(c) << (8 * i)
	}
	if len(b) == 0 {
		return int64(0), nil
	}
	shift := 64 - 8*len(b)
	return int64(x<<shift) >> shift, nil
}

// decimal reads INT and LONG of protocol 0.
func (u *unpickler) decimal() (any, error) {
	s, err := u.text()
	if err != nil {
		return nil, err
	}
	switch s {
	case "00":
		return false, nil
	case "01":
		return true, nil
	}
	return strconv.ParseInt(strings.TrimSuffix(s, "L"), 10, 64)
}
