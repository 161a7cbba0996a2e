package convert

import (
	"errors"
	"fmt"
	"strconv"
)

// container runs instructions on tuples, lists and dictionaries.
func (u *unpickler) container(op byte) (bool, error) {
	switch op {
	case ')':
		return true, u.push([]any{})
	case 0x85, 0x86, 0x87: // TUPLE1..3
		values := make([]any, op-0x84)
		for i := len(values) - 1; i >= 0; i-- {
			v, err := u.pop()
			if err != nil {
				return true, err
			}
			values[i] = v
		}
		return true, u.push(values)
	case 't', 'l', 'd':
		values, err := u.popMark()
		if err != nil {
			return true, err
		}
		switch op {
		case 't':
			return true, u.push(values)
		case 'l':
			return true, u.push(&list{values})
		}
		d := &dict{}
		if err := u.put(d, values); err != nil {
			return true, err
		}
		return true, u.push(d)
	case ']':
		return true, u.push(&list{})
	case '}':
		return true, u.push(&dict{})
	case 'a', 'e', 's', 'u':
		return true, u.extend(op)
	}
	return false, nil
}

// extend is APPEND, APPENDS, SETITEM and SETITEMS.
func (u *unpickler) extend(op byte) error {
	var values []any
	var err error
	switch op {
	case 'e', 'u':
		values, err = u.popMark()
	case 'a':
		values = make([]any, 1)
		values[0], err = u.pop()
	case 's':
		values = make([]any, 2)
		if values[1], err = u.pop(); err == nil {
			values[0], err = u.pop()
		}
	}
	if err != nil {
		return err
	}
	target, err := u.top()
	if err != nil {
		return err
	}
	if op == 'a' || op == 'e' {
		l, ok := target.(*list)
		if !ok {
			return fmt.Errorf("items for %T, which is no list", target)
		}
		l.items = append(l.items, values...)
		return nil
	}
	return u.put(target, values)
}

func (u *unpickler) put(target any, values []any) error {
	d, ok := target.(*dict)
	if !ok || len(values)%2 != 0 {
		return fmt.Errorf("%d keys and values for %T", len(values), target)
	}
	for i := 0; i < len(values); i += 2 {
		d.keys, d.values = append(d.keys, values[i]), append(d.values, values[i+1])
	}
	return nil
}

// remember runs the instructions of the memo.
func (u *unpickler) remember(op byte) (bool, error) {
	var key uint64
	var err error
	get := false
	switch op {
	case 0x94: // MEMOIZE
		key = uint64(len(u.memo))
	case 'q', 'h':
		key, err = u.number(1)
		get = op == 'h'
	case 'r', 'j':
		key, err = u.number(4)
		get = op == 'j'
	case 'p', 'g':
		var s string
		if s, err = u.text(); err == nil {
			key, err = strconv.ParseUint(s, 10, 32)
		}
		get = op == 'g'
	default:
		return false, nil
	}
	if err != nil {
		return true, err
	}
	if get {
		v, ok := u.memo[key]
		if !ok {
			return true, fmt.Errorf("no memo %d", key)
		}
		u.stack = append(u.stack, v)
		return true, u.charge(costValue)
	}
	v, err := u.top()
	if err != nil {
		return true, err
	}
	u.memo[key] = v
	return true, u.charge(costMemo)
}

// object runs the instructions that name and make things, through the resolver.
func (u *unpickler) object(op byte) error {
	switch op {
	case 'c': // GLOBAL
		module, err := u.text()
		if err != nil {
			return err
		}
		name, err := u.text()
		if err != nil {
			return err
		}
		return u.push(global{module, name})
	case 0x93: // STACK_GLOBAL
		name, err := u.pop()
		if err != nil {
			return err
		}
		module, err := u.pop()
		if err != nil {
			return err
		}
		m, ok1 := module.(string)
		n, ok2 := name.(string)
		if !ok1 || !ok2 {
			return errors.New("a name that is no string")
		}
		return u.push(global{m, n})
	case 'R', 0x81: // REDUCE, NEWOBJ
		args, err := u.pop()
		if err != nil {
			return err
		}
		f, err := u.pop()
		if err != nil {
			return err
		}
		tuple, ok := args.([]any)
		name, isName := f.(global)
		if !ok || !isName {
			return fmt.Errorf("call of %T with %T", f, args)
		}
		v, err := u.resolve.call(name, tuple)
		if err != nil {
			return err
		}
		return u.push(v)
	case 'b': // BUILD
		state, err := u.pop()
		if err != nil {
			return err
		}
		target, err := u.top()
		if err != nil {
			return err
		}
		return u.resolve.build(target, state)
	case 'Q': // BINPERSID
		id, err := u.pop()
		if err != nil {
			return err
		}
		v, err := u.resolve.persistent(id)
		if err != nil {
			return err
		}
		return u.push(v)
	}
	return fmt.Errorf("instruction %#02x is not allowed", op)
}
