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

// lock locks the hidden file of the prefix, or returns an error if another
// writer has locked it. The system frees the lock of a process that is killed, so
// that an existing file without a lock is harmless.
func (w *Writer) lock() error {
	path := filepath.Join(w.dir, "."+w.opts.Prefix+".lock")
	for range 100 {
		lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR))
		ok, err := lock.TryLock()
		switch {
		case errors.Is(err, fs.ErrPermission):
			return err
		case err != nil:
			return nil // the file system has no locks
		case !ok:
			return fmt.Errorf("%s: another writer with prefix %q is open", w.dir, w.opts.Prefix)
		}
		// Another writer may have removed the file between opening and locking.
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

// unlock removes the locked file.
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

// clean removes the temporary files of killed writers of the prefix. Without the
// lock they may be those of an open writer, and remain.
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
