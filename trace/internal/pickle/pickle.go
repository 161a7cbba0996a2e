// Package pickle reads Python's pickles without executing anything and in memory
// proportional to their size, also when they are hostile.
//
// Of the libraries, github.com/nlpodyssey/gopickle 0.3.0 allocates what a pickle
// states before reading it, converts PyTorch's storages to slices of numbers when
// it loads them, and lets a memo repeat values without limit;
// github.com/kisielk/og-rek 1.3.0 has no limits either.
package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Values are nil, bool, int64, float64, string, []byte (a part of the input),
// []any for a tuple, *List, Dict, Function, and what an Environment makes.
type (
	List     struct{ Items []any }
	Dict     map[string]any
	Function func(args []any) (any, error)
)

// Environment gives meaning to the names, objects and ids of a pickle. Nothing
// else is looked up or called.
type Environment interface {
	// Global returns the value of a name such as torch._utils._rebuild_tensor_v2.
	// Only a Function can be called.
	Global(module, name string) (any, error)
	// Build sets the state of an object.
	Build(object, state any) error
	// Persistent returns the value of a persistent id.
	Persistent(id any) (any, error)
}

// Costs, in bytes of memory that a step may take. Copies of strings and of parts
// of the stack cost their size in addition.
const (
	costStep   = 32
	costObject = 128 // list, dict
	costEntry  = 96  // of a dict
	costMemo   = 64
	costCall   = 320
)

// Errors of Load that its caller may have to distinguish.
var (
	ErrEnd    = errors.New("pickle ends early")
	ErrBudget = errors.New("pickle makes more values than its size justifies")
)

var errStack = errors.New("pickle takes from an empty stack")

// Budget is what may still be spent on an input and what is nested in it, in bytes.
// It depends only on the size of the file, and nothing is given back, so it bounds
// time as well as memory.
type Budget int

// NewBudget returns the budget of an input of size bytes. A file of the smallest
// tensors costs 20 to 30 times its size, one with large tensors in it less than
// twice.
func NewBudget(size int) Budget { return Budget(1<<20 + 48*size) }

// Charge takes n bytes. If there are fewer it returns ErrBudget.
func (b *Budget) Charge(n int) error {
	if *b -= Budget(n); *b < 0 {
		return ErrBudget
	}
	return nil
}

// Decoder runs a pickle, a program for a small stack machine whose instructions
// Python's pickletools.py documents. It knows those that pickles of PyTorch's
// tensors, of protocols 2 to 5, consist of: they build data. Methods set err, and
// then return zero values until Load returns it.
type Decoder struct {
	b      []byte
	at     int
	stack  []any
	marks  []int
	memo   map[uint64]any
	budget *Budget
	env    Environment
	err    error
}

// NewDecoder returns a Decoder of the pickles in b, one after another.
func NewDecoder(b []byte, budget *Budget, env Environment) *Decoder {
	return &Decoder{b: b, budget: budget, env: env}
}

// Rest returns the input after the last pickle that was loaded.
func (d *Decoder) Rest() []byte { return d.b[d.at:] }

// Load runs the next pickle of the input and returns its value.
func (d *Decoder) Load() (any, error) {
	d.stack, d.marks, d.memo = d.stack[:0], d.marks[:0], map[uint64]any{}
	for {
		at := d.at
		op := byte(d.number(1))
		if op != '.' { // STOP
			d.step(op)
		} else if v := d.pop(1)[0]; d.err == nil {
			return v, nil
		}
		if d.err != nil {
			return nil, fmt.Errorf("byte %d: %w", at, d.err)
		}
	}
}

func (d *Decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// charge reports whether the budget allows n more bytes.
func (d *Decoder) charge(n int) bool {
	if err := d.budget.Charge(n); err != nil {
		d.fail(err)
	}
	return d.err == nil
}

func (d *Decoder) step(op byte) {
	if !d.charge(costStep) {
		return
	}
	switch op {
	case 0x80: // PROTO
		if v := d.number(1); v < 2 || v > 5 {
			d.fail(fmt.Errorf("pickle of protocol %d; must be 2 to 5", v))
		}
	case 0x95: // FRAME
		d.take(8)
	case '(': // MARK
		d.marks = append(d.marks, len(d.stack))
	case 'N': // NONE
		d.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		d.push(op == 0x88)
	case 'K': // BININT1
		d.push(int64(d.number(1)))
	case 'M': // BININT2
		d.push(int64(d.number(2)))
	case 'J': // BININT
		d.push(int64(int32(d.number(4))))
	case 'G': // BINFLOAT
		if b := d.take(8); d.err == nil {
			d.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		}
	case 0x8a: // LONG1
		d.push(long(d.take(d.number(1))))
	case 0x8c: // SHORT_BINUNICODE
		d.push(d.text(1))
	case 'X': // BINUNICODE
		d.push(d.text(4))
	case 'C': // SHORT_BINBYTES
		d.push(d.take(d.number(1)))
	case 'B': // BINBYTES
		d.push(d.take(d.number(4)))
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		d.push(d.global(op))
	case 'R', 0x81: // REDUCE, NEWOBJ
		d.push(d.call())
	case 'b': // BUILD
		if v := d.pop(1); d.err == nil {
			d.fail(d.env.Build(d.top(), v[0]))
		}
	case 'Q': // BINPERSID
		if v := d.pop(1); d.err == nil {
			id, err := d.env.Persistent(v[0])
			d.fail(err)
			d.push(id)
		}
	default:
		if !d.container(op) && !d.remember(op) {
			d.fail(fmt.Errorf("instruction %#02x is not allowed", op))
		}
	}
}

// container runs the instructions of tuples, lists and dictionaries.
func (d *Decoder) container(op byte) bool {
	switch op {
	case ')': // EMPTY_TUPLE
		d.push([]any{})
	case 't': // TUPLE
		d.push(d.popMark())
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		d.push(d.pop(int(op) - 0x84))
	case ']': // EMPTY_LIST
		d.charge(costObject)
		d.push(&List{})
	case '}': // EMPTY_DICT
		d.charge(costObject)
		d.push(Dict{})
	case 'a': // APPEND
		d.append(d.pop(1))
	case 'e': // APPENDS
		d.append(d.popMark())
	case 's': // SETITEM
		d.set(d.pop(2))
	case 'u': // SETITEMS
		d.set(d.popMark())
	default:
		return false
	}
	return true
}

// remember runs the instructions of the memo.
func (d *Decoder) remember(op byte) bool {
	switch op {
	case 0x94: // MEMOIZE
		d.put(uint64(len(d.memo)))
	case 'q': // BINPUT
		d.put(d.number(1))
	case 'r': // LONG_BINPUT
		d.put(d.number(4))
	case 'h': // BINGET
		d.get(d.number(1))
	case 'j': // LONG_BINGET
		d.get(d.number(4))
	default:
		return false
	}
	return true
}

func (d *Decoder) put(key uint64) {
	if v := d.top(); d.charge(costMemo) {
		d.memo[key] = v
	}
}

func (d *Decoder) get(key uint64) {
	v, ok := d.memo[key]
	if !ok {
		d.fail(fmt.Errorf("no memo %d", key))
	}
	d.push(v)
}

// global resolves a name in the input, or on the stack.
func (d *Decoder) global(op byte) any {
	var name [2]string
	if op == 'c' {
		for i := range name {
			name[i] = d.line()
		}
	} else if parts := d.pop(2); d.err == nil {
		var ok [2]bool
		for i, v := range parts {
			name[i], ok[i] = v.(string)
		}
		if !ok[0] || !ok[1] {
			d.fail(errors.New("a name is not a string"))
		}
	}
	if d.err != nil {
		return nil
	}
	v, err := d.env.Global(name[0], name[1])
	d.fail(err)
	return v
}

func (d *Decoder) call() any {
	parts := d.pop(2)
	if !d.charge(costCall) {
		return nil
	}
	f, ok1 := parts[0].(Function)
	args, ok2 := parts[1].([]any)
	if !ok1 || !ok2 {
		d.fail(fmt.Errorf("call of %s with %s", Kind(parts[0]), Kind(parts[1])))
		return nil
	}
	v, err := f(args)
	d.fail(err)
	return v
}

// append adds values to the list on top of the stack.
func (d *Decoder) append(values []any) {
	l, ok := d.top().(*List)
	if !ok {
		d.fail(fmt.Errorf("items for %s; must be a list", Kind(d.top())))
	} else if d.charge(2 * costStep * len(values)) { // a growing list is copied
		l.Items = append(l.Items, values...)
	}
}

// set adds keys and values to the dictionary on top of the stack.
func (d *Decoder) set(values []any) {
	m, ok := d.top().(Dict)
	if !ok || len(values)%2 != 0 {
		d.fail(fmt.Errorf("%d keys and values for %s; must be pairs for a dict", len(values), Kind(d.top())))
		return
	}
	for ; len(values) > 0 && d.charge(costEntry); values = values[2:] {
		key, ok := values[0].(string)
		if !ok {
			d.fail(fmt.Errorf("key of a dict is %s; must be str", Kind(values[0])))
			return
		}
		if d.charge(len(key)) { // the time to hash it
			m[key] = values[1]
		}
	}
}

func (d *Decoder) push(v any) {
	if d.err == nil {
		d.stack = append(d.stack, v)
	}
}

// pop returns the top n values in the order in which they were pushed.
func (d *Decoder) pop(n int) []any {
	values := make([]any, n)
	at := len(d.stack) - n
	if at < d.floor() {
		d.fail(errStack)
	} else if d.charge(costStep * n) {
		copy(values, d.stack[at:])
		clear(d.stack[at:])
		d.stack = d.stack[:at]
	}
	return values
}

// popMark returns the values above the last mark, which is removed.
func (d *Decoder) popMark() []any {
	if len(d.marks) == 0 {
		d.fail(errors.New("pickle has no mark"))
		return nil
	}
	values := d.pop(len(d.stack) - d.floor())
	d.marks = d.marks[:len(d.marks)-1]
	return values
}

func (d *Decoder) top() any {
	if len(d.stack) <= d.floor() {
		d.fail(errStack)
		return nil
	}
	return d.stack[len(d.stack)-1]
}

// floor is the length of the stack at the last mark.
func (d *Decoder) floor() int {
	if n := len(d.marks); n > 0 {
		return d.marks[n-1]
	}
	return 0
}

// take returns the next n bytes.
func (d *Decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)-d.at) {
		d.fail(ErrEnd)
	}
	if d.err != nil {
		return nil
	}
	d.at += int(n)
	return d.b[d.at-int(n) : d.at : d.at]
}

// number reads an unsigned little-endian number of n bytes.
func (d *Decoder) number(n int) uint64 {
	var x uint64
	for i, c := range d.take(uint64(n)) {
		x |= uint64(c) << (8 * i)
	}
	return x
}

// text reads a string after its length, which takes n bytes.
func (d *Decoder) text(n int) string {
	b := d.take(d.number(n))
	d.charge(len(b))
	return string(b)
}

// line reads a name to the end of its line.
func (d *Decoder) line() string {
	const longest = 200
	for n, c := range d.b[d.at:min(len(d.b), d.at+longest)] {
		if c == '\n' {
			s := string(d.take(uint64(n)))
			d.at++
			return s
		}
	}
	if len(d.b)-d.at < longest {
		d.fail(ErrEnd)
	}
	d.fail(fmt.Errorf("name does not end within %d bytes", longest))
	return ""
}

// long decodes a signed integer. One beyond 64 bits stays bytes, as torch's
// magic number does.
func long(b []byte) any {
	if len(b) > 8 {
		return b
	}
	var x uint64
	for i, c := range b {
		x |= uint64(c) << (8 * i)
	}
	shift := 64 - 8*len(b) // 64: no bytes, 0
	return int64(x<<shift) >> shift
}

// Kind names the type of a value. Messages never print the value itself, which
// may be nested without end. A type of the environment may have a method Kind.
func Kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case []any:
		return "tuple"
	case *List:
		return "list"
	case Dict:
		return "dict"
	case Function:
		return "function"
	case interface{ Kind() string }:
		return v.Kind()
	}
	name := fmt.Sprintf("%T", v) // bool, *convert.tensor
	return name[strings.LastIndexByte(name, '.')+1:]
}

// NotAllowed is the error of an Environment about a name that it does not know.
func NotAllowed(module, name string) error {
	return fmt.Errorf("%s is not allowed", strings.ToValidUTF8(module+"."+name, "?"))
}
