// Package calls is what the models share about calls: those of their own methods, which
// Close waits for, and those of a user's functions, which may panic.
package calls

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// ErrGoexit is the error of a pass whose hook ended the goroutine.
var ErrGoexit = errors.New("a hook called runtime.Goexit (as t.FailNow does)")

// Protect calls a user's function, the value of an options field, and returns its panic
// as an error with the stack: hooks run in goroutines of this module, where a panic
// would end the process.
func Protect(field string, f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("panic in %s: %w\n\n%s", field, p, debug.Stack())
		default:
			err = fmt.Errorf("panic in %s: %v\n\n%s", field, p, debug.Stack())
		}
	}()
	return f()
}

// Prefixed adds a package's name to an error, except to a context's.
func Prefixed(name string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Lifetime counts the calls of a model's methods, until it is closed and none is in
// progress. The zero value is open.
type Lifetime struct {
	mu      sync.Mutex
	running int           // calls in progress
	closed  chan struct{} // closed once Close was called and no call is in progress; nil before
	free    func() error  // of Close
	err     error         // of free
}

// Begin counts a call in and returns true, or returns false once Close was called. End
// must follow where it returns true.
func (l *Lifetime) Begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return false
	}
	l.running++
	return true
}

// End counts a call out.
func (l *Lifetime) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running--; l.running == 0 && l.closed != nil {
		l.end()
	}
}

// Close calls the free of its first call once no call is in progress, and returns its
// error.
func (l *Lifetime) Close(free func() error) error {
	l.mu.Lock()
	if l.closed == nil {
		l.closed, l.free = make(chan struct{}), free
		if l.running == 0 {
			l.end()
		}
	}
	l.mu.Unlock()
	<-l.closed
	return l.err
}

// end is called with mu locked.
func (l *Lifetime) end() {
	l.err = l.free()
	close(l.closed)
}
