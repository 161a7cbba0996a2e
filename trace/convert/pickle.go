package convert

import (
	"errors"
	"fmt"
	"strings"
)

// Values are nil, bool, int64, string, []byte (a part of the input), []any for a
// tuple, *list, dict, function, and what an environment makes.
type (
	list     struct{ items []any }
	dict     map[string]any
	function func(args []any) (any, error)
)

// environment gives meaning to the names, objects and ids of a pickle. Nothing
// else is looked up or called.
type environment interface {
	// global returns the value of a name such as torch._utils._rebuild_tensor_v2.
	// Only a function can be called.
	global(module, name string) (any, error)
	// build sets the state of an object.
	build(object, state any) error
	persistent(id any) (any, error)
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

var (
	errPickleEnd    = errors.New("pickle ends early")
	errPickleStack  = errors.New("pickle takes from an empty stack")
	errPickleBudget = errors.New("pickle makes more values than its size justifies")
)

// budget is what may still be spent on an input and what is nested in it. It
// depends only on the size of the file, and nothing is given back, so it bounds
// time as well as memory.
type budget int

func (b *budget) charge(n int) error {
	if *b -= budget(n); *b < 0 {
		return errPickleBudget
	}
	return nil
}

// unpickler runs a pickle, a program for a small stack machine whose instructions
// Python's pickletools.py documents. It knows those that specMoE's pickles of
// protocols 2 to 5, and torch's storages in them, consist of: they build data.
// Methods set err, and then return zero values until load returns it.
type unpickler struct {
	b      []byte
	at     int
	stack  []any
	marks  []int
	memo   map[uint64]any
	budget *budget
	env    environment
	err    error
}

// load runs the next pickle of the input and returns its value.
func (u *unpickler) load() (any, error) {
	u.stack, u.marks, u.memo = u.stack[:0], u.marks[:0], map[uint64]any{}
	for {
		at := u.at
		op := byte(u.number(1))
		if op != '.' { // STOP
			u.step(op)
		} else if v := u.pop(1)[0]; u.err == nil {
			return v, nil
		}
		if u.err != nil {
			return nil, fmt.Errorf("byte %d: %w", at, u.err)
		}
	}
}

func (u *unpickler) fail(err error) {
	if u.err == nil {
		u.err = err
	}
}

// charge reports whether the budget allows n more bytes.
func (u *unpickler) charge(n int) bool {
	if err := u.budget.charge(n); err != nil {
		u.fail(err)
	}
	return u.err == nil
}

func (u *unpickler) step(op byte) {
	if !u.charge(costStep) {
		return
	}
	switch op {
	case 0x80: // PROTO
		if v := u.number(1); v < 2 || v > 5 {
			u.fail(fmt.Errorf("pickle of protocol %d; must be 2 to 5", v))
		}
	case 0x95: // FRAME
		u.take(8)
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
	case 'N': // NONE
		u.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		u.push(op == 0x88)
	case 'K': // BININT1
		u.push(int64(u.number(1)))
	case 'M': // BININT2
		u.push(int64(u.number(2)))
	case 'J': // BININT
		u.push(int64(int32(u.number(4))))
	case 0x8a: // LONG1
		u.push(long(u.take(u.number(1))))
	case 0x8c: // SHORT_BINUNICODE
		u.push(u.text(1))
	case 'X': // BINUNICODE
		u.push(u.text(4))
	case 'C': // SHORT_BINBYTES
		u.push(u.take(u.number(1)))
	case 'B': // BINBYTES
		u.push(u.take(u.number(4)))
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		u.push(u.global(op))
	case 'R', 0x81: // REDUCE, NEWOBJ
		u.push(u.call())
	case 'b': // BUILD
		if v := u.pop(1); u.err == nil {
			u.fail(u.env.build(u.top(), v[0]))
		}
	case 'Q': // BINPERSID
		if v := u.pop(1); u.err == nil {
			id, err := u.env.persistent(v[0])
			u.fail(err)
			u.push(id)
		}
	default:
		if !u.container(op) && !u.remember(op) {
			u.fail(fmt.Errorf("instruction %#02x is not allowed", op))
		}
	}
}

// container runs the instructions of tuples, lists and dictionaries.
func (u *unpickler) container(op byte) bool {
	switch op {
	case ')': // EMPTY_TUPLE
		u.push([]any{})
	case 't': // TUPLE
		u.push(u.popMark())
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		u.push(u.pop(int(op) - 0x84))
	case ']': // EMPTY_LIST
		u.charge(costObject)
		u.push(&list{})
	case '}': // EMPTY_DICT
		u.charge(costObject)
		u.push(dict{})
	case 'a': // APPEND
		u.append(u.pop(1))
	case 'e': // APPENDS
		u.append(u.popMark())
	case 's': // SETITEM
		u.set(u.pop(2))
	case 'u': // SETITEMS
		u.set(u.popMark())
	default:
		return false
	}
	return true
}

// remember runs the instructions of the memo.
func (u *unpickler) remember(op byte) bool {
	switch op {
	case 0x94: // MEMOIZE
		u.put(uint64(len(u.memo)))
	case 'q': // BINPUT
		u.put(u.number(1))
	case 'r': // LONG_BINPUT
		u.put(u.number(4))
	case 'h': // BINGET
		u.get(u.number(1))
	case 'j': // LONG_BINGET
		u.get(u.number(4))
	default:
		return false
	}
	return true
}

func (u *unpickler) put(key uint64) {
	if v := u.top(); u.charge(costMemo) {
		u.memo[key] = v
	}
}

func (u *unpickler) get(key uint64) {
	v, ok := u.memo[key]
	if !ok {
		u.fail(fmt.Errorf("no memo %d", key))
	}
	u.push(v)
}

// global resolves a name in the input, or on the stack.
func (u *unpickler) global(op byte) any {
	var name [2]string
	if op == 'c' {
		for i := range name {
			name[i] = u.line()
		}
	} else if parts := u.pop(2); u.err == nil {
		var ok [2]bool
		for i, v := range parts {
			name[i], ok[i] = v.(string)
		}
		if !ok[0] || !ok[1] {
			u.fail(errors.New("a name is not a string"))
		}
	}
	if u.err != nil {
		return nil
	}
	v, err := u.env.global(name[0], name[1])
	u.fail(err)
	return v
}

func (u *unpickler) call() any {
	parts := u.pop(2)
	if !u.charge(costCall) {
		return nil
	}
	f, ok1 := parts[0].(function)
	args, ok2 := parts[1].([]any)
	if !ok1 || !ok2 {
		u.fail(fmt.Errorf("call of %s with %s", kind(parts[0]), kind(parts[1])))
		return nil
	}
	v, err := f(args)
	u.fail(err)
	return v
}

// append adds values to the list on top of the stack.
func (u *unpickler) append(values []any) {
	l, ok := u.top().(*list)
	if !ok {
		u.fail(fmt.Errorf("items for %s; must be a list", kind(u.top())))
	} else if u.charge(2 * costStep * len(values)) { // a growing list is copied
		l.items = append(l.items, values...)
	}
}

// set adds keys and values to the dictionary on top of the stack.
func (u *unpickler) set(values []any) {
	d, ok := u.top().(dict)
	if !ok || len(values)%2 != 0 {
		u.fail(fmt.Errorf("%d keys and values for %s; must be pairs for a dict", len(values), kind(u.top())))
		return
	}
	for ; len(values) > 0 && u.charge(costEntry); values = values[2:] {
		key, ok := values[0].(string)
		if !ok {
			u.fail(fmt.Errorf("key of a dict is %s; must be str", kind(values[0])))
			return
		}
		if u.charge(len(key)) { // the time to hash it
			d[key] = values[1]
		}
	}
}

func (u *unpickler) push(v any) {
	if u.err == nil {
		u.stack = append(u.stack, v)
	}
}

// pop returns the top n values in the order in which they were pushed.
func (u *unpickler) pop(n int) []any {
	values := make([]any, n)
	at := len(u.stack) - n
	if at < u.floor() {
		u.fail(errPickleStack)
	} else if u.charge(costStep * n) {
		copy(values, u.stack[at:])
		clear(u.stack[at:])
		u.stack = u.stack[:at]
	}
	return values
}

// popMark returns the values above the last mark, which is removed.
func (u *unpickler) popMark() []any {
	if len(u.marks) == 0 {
		u.fail(errors.New("pickle has no mark"))
		return nil
	}
	values := u.pop(len(u.stack) - u.floor())
	u.marks = u.marks[:len(u.marks)-1]
	return values
}

func (u *unpickler) top() any {
	if len(u.stack) <= u.floor() {
		u.fail(errPickleStack)
		return nil
	}
	return u.stack[len(u.stack)-1]
}

// floor is the length of the stack at the last mark.
func (u *unpickler) floor() int {
	if n := len(u.marks); n > 0 {
		return u.marks[n-1]
	}
	return 0
}

// take returns the next n bytes.
func (u *unpickler) take(n uint64) []byte {
	if n > uint64(len(u.b)-u.at) {
		u.fail(errPickleEnd)
	}
	if u.err != nil {
		return nil
	}
	u.at += int(n)
	return u.b[u.at-int(n) : u.at : u.at]
}

// number reads an unsigned little-endian number of n bytes.
func (u *unpickler) number(n int) uint64 {
	var x uint64
	for i, c := range u.take(uint64(n)) {
		x |= uint64(c) << (8 * i)
	}
	return x
}

// text reads a string after its length, which takes n bytes.
func (u *unpickler) text(n int) string {
	b := u.take(u.number(n))
	u.charge(len(b))
	return string(b)
}

// line reads a name to the end of its line.
func (u *unpickler) line() string {
	const longest = 200
	for n, c := range u.b[u.at:min(len(u.b), u.at+longest)] {
		if c == '\n' {
			s := string(u.take(uint64(n)))
			u.at++
			return s
		}
	}
	u.fail(fmt.Errorf("name does not end within %d bytes", longest))
	return ""
}

// long decodes a signed integer. One beyond 64 bits stays bytes, as torch's
// magic number does.
func long(b []byte) any {
	if len(b) > 8 {
		return b
	}
	v, _ := intType{size: len(b), signed: true}.value(b)
	return v
}

// kind names the type of a value. Messages never print the value itself, which
// may be nested without end.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case int64:
		return "int"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case []any:
		return "tuple"
	case *list:
		return "list"
	case dict:
		return "dict"
	case function:
		return "function"
	case *point:
		return "MixtralGatingDataPoint"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", v), "*convert.") // bool, tensor, storage
}
