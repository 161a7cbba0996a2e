package collect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/gofrs/flock"
)

// A part works in a hidden folder beside the shards, in which a file is locked
// while the process lives. The system releases the lock of a killed process, and
// the next one removes the folder.

const (
	partPrefix = ".part-"
	lockName   = "lock"
)

// enter creates the part's folder, r.temp, and returns a function that removes it.
func (r *run) enter() (leave func(), err error) {
	r.clearStale()
	r.temp = filepath.Join(r.dir, fmt.Sprintf("%s%d-of-%d", partPrefix, r.o.Part, r.o.Parts))
	for range 100 {
		if err := os.MkdirAll(r.temp, 0o777); err != nil {
			return nil, err
		}
		lock, ok, err := tryLock(r.temp)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // another process has removed the folder
		case err != nil:
			return nil, err
		case !ok:
			return nil, fmt.Errorf("%s: another process is collecting part %d of %d", r.dir, r.o.Part, r.o.Parts)
		}
		return func() {
			if runtime.GOOS == "windows" { // which does not remove open files
				lock.Close()
			}
			os.RemoveAll(r.temp)
			lock.Close()
		}, r.clear()
	}
	return nil, fmt.Errorf("%s: cannot be locked", r.temp)
}

// clear removes everything but the lock from the part's folder.
func (r *run) clear() error {
	list, err := os.ReadDir(r.temp)
	for _, e := range list {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.temp, e.Name())))
		}
	}
	return err
}

// tryLock locks a part's folder. The lock is valid only if the file still has its
// name, because the folder may have been removed meanwhile. On file systems
// without locks it locks nothing.
func tryLock(dir string) (lock *flock.Flock, ok bool, err error) {
	path := filepath.Join(dir, lockName)
	lock = flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR))
	ok, err = lock.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		return nil, false, err
	case err != nil:
		return lock, true, nil
	case !ok:
		return nil, false, nil
	}
	held, err := lock.Stat()
	if err != nil {
		lock.Close()
		return nil, false, err
	}
	named, err := os.Stat(path)
	if err == nil && !os.SameFile(held, named) {
		err = fs.ErrNotExist
	}
	if err != nil {
		lock.Close()
		return nil, false, err
	}
	return lock, true, nil
}

// clearStale removes the folders of parts whose processes have ended. Errors are
// ignored: what remains is hidden.
func (r *run) clearStale() {
	list, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	for _, e := range list {
		path := filepath.Join(r.dir, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), partPrefix) || !fileExists(filepath.Join(path, lockName)) {
			continue
		}
		if lock, ok, err := tryLock(path); err == nil && ok && lock.Locked() {
			os.RemoveAll(path)
			lock.Close()
		}
	}
}
