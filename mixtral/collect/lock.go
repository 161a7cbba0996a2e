package collect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// A process works in a hidden folder of its own, .parts/3-of-8/RANDOM beside the
// shards, and renames what is complete. Two processes of the same part, as where a
// scheduler restarts one on a node that only seemed dead, therefore do not disturb
// each other: each replaces the other's shards by equal ones.
//
// In the folder a file is locked while the process lives, so that the next process of
// the part knows which folders are of killed ones, and removes them. On file systems
// without locks it removes those in which nothing has changed for a day. Where locks
// are of one machine only, it may remove that of a process on another, which then
// ends with an error; its complete shards remain.

const (
	partsName  = ".parts"
	lockName   = "lock"
	shardsName = "shard" // of the shard that is being written
	staleAfter = 24 * time.Hour
)

// enter creates the process's folder, r.temp, and returns a function that removes it.
// Only the folders of the same part are listed: there may be thousands of others.
func (r *run) enter() (leave func(), err error) {
	part := filepath.Join(r.dir, partsName, fmt.Sprintf("%d-of-%d", r.o.Part, r.o.Parts))
	clearStale(part)
	for range 100 {
		var lock *flock.Flock
		if lock, err = r.ownFolder(part); err == nil {
			return func() {
				lock.Close()
				os.RemoveAll(r.temp)
				clearStale(part)
				os.Remove(part) // these fail unless the folders are empty
				os.Remove(filepath.Dir(part))
			}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// Another process has removed the folder, which was empty or not yet locked.
	}
	return nil, err
}

// ownFolder creates and locks r.temp.
func (r *run) ownFolder(part string) (*flock.Flock, error) {
	err := os.MkdirAll(part, 0o777)
	if err != nil {
		return nil, err
	}
	if r.temp, err = os.MkdirTemp(part, ""); err != nil {
		return nil, err
	}
	lock, ok, err := tryLock(r.temp)
	if err == nil && !ok {
		err = fs.ErrNotExist // soon: another process removes it
	}
	return lock, err
}

// tryLock locks the file of a process's folder, and creates it where it does not
// exist. The lock is valid only if the file still has its name, because the folder may
// have been removed meanwhile. On file systems without locks it locks nothing.
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

// clearStale removes the folders of the part's processes that have ended. Errors are
// ignored: what remains is hidden.
func clearStale(part string) {
	list, _ := os.ReadDir(part)
	for _, e := range list {
		dir := filepath.Join(part, e.Name())
		lock, ok, err := tryLock(dir)
		if err != nil || !ok {
			continue
		}
		if lock.Locked() || unchanged(dir) {
			os.RemoveAll(dir)
		}
		lock.Close()
	}
}

// unchanged reports whether nothing was created or renamed in a process's folder for
// a long time.
func unchanged(dir string) bool {
	for _, d := range []string{dir, filepath.Join(dir, shardsName)} {
		info, err := os.Stat(d)
		if err == nil && time.Since(info.ModTime()) < staleAfter || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}
