package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/gofrs/flock"
)

// A writer locks a hidden file of its prefix while it is open. The system frees
// the lock of a process that is killed, so that a lock file alone stops nobody.

func lockPath(dir, prefix string) string { return filepath.Join(dir, "."+prefix+".lock") }

// lock locks the prefix for one writer, or returns an error if another has it.
func (w *Writer) lock() error {
	path := lockPath(w.dir, w.opts.Prefix)
	for range 100 {
		lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR))
		ok, err := lock.TryLock()
		switch {
		case errors.Is(err, fs.ErrPermission):
			return err
		case err != nil:
			return nil // the file system has no locks; unique names must do
		case !ok:
			return fmt.Errorf("%s: another writer with prefix %q is open", w.dir, w.opts.Prefix)
		}
		// The lock is ours if its file still has the name: another writer may have
		// removed it since it was opened.
		held, err := lock.Stat()
		if err == nil {
			var named fs.FileInfo
			if named, err = os.Stat(path); err == nil && os.SameFile(held, named) {
				w.locked = lock
				return nil
			}
		}
		lock.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s: cannot be locked", path)
}

// unlock lets another writer use the prefix.
func (w *Writer) unlock() {
	if w.locked == nil {
		return
	}
	if runtime.GOOS == "windows" { // where an open file cannot be removed
		w.locked.Close()
	}
	os.Remove(w.locked.Path())
	w.locked.Close()
	w.locked = nil
}

// clean removes the temporary files that killed writers of the prefix left. It
// needs the lock, without which they may be another writer's.
func (w *Writer) clean() error {
	if w.locked == nil {
		return nil
	}
	stale := regexp.MustCompile(`^\.` + regexp.QuoteMeta(w.opts.Prefix) + `-\d{5}\.parquet(\.\w+)?\.tmp$`)
	entries, err := os.ReadDir(w.dir)
	for _, e := range entries {
		if stale.MatchString(e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(w.dir, e.Name())))
		}
	}
	return err
}
