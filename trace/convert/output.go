package convert

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// aside calls write with a temporary path, and moves the file or folder that it
// creates there to out once it is complete. Otherwise nothing is left behind.
func aside(out string, write func(temp string) error) error {
	entries, err := os.ReadDir(out)
	exists := err == nil
	switch {
	case len(entries) > 0:
		return fmt.Errorf("%s: folder is not empty", out)
	case !exists && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", out, fs.ErrExist)
	}
	parent := filepath.Dir(out)
	if exists { // and may be a mount point, which cannot be renamed over
		parent = out
	}
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, ".convert-*.tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "out"+filepath.Ext(out))
	if err := write(temp); err != nil {
		return err
	}
	if !exists {
		return os.Rename(temp, out)
	}
	return moveEntries(temp, out)
}

// moveEntries moves all entries of a folder to another, or none.
func moveEntries(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("%s: %w", to, fs.ErrExist) // a file was written
	}
	for i, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			for _, moved := range entries[:i] {
				os.Remove(filepath.Join(to, moved.Name()))
			}
			return err
		}
	}
	return nil
}

// outFile is a new file that is written through a buffer.
type outFile struct {
	*bufio.Writer
	file *os.File
}

func createFile(path string) (*outFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	return &outFile{bufio.NewWriterSize(f, 1<<16), f}, nil
}

func (f *outFile) close() error {
	err := f.Flush()
	if err == nil {
		err = f.file.Sync()
	}
	return errors.Join(err, f.file.Close())
}

// writeFile creates a file and calls write with it.
func writeFile(path string, write func(w *bufio.Writer) error) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f.Writer), f.close())
}

// names gives each document a name of its own.
type names struct {
	taken map[string]bool        // names in lower case: file systems may ignore case
	keys  map[string]documentKey // by name
}

// documentKey is the data set and id of a document.
type documentKey [2]string

func newNames() *names { return &names{taken: map[string]bool{}, keys: map[string]documentKey{}} }

// add returns the name of a document, at most limit bytes of UTF-8: stem, or, if
// that is too long or taken, its beginning and a hash of the document's key.
func (n *names) add(d *trace.Document, stem string, limit int) string {
	name := stem
	for i := 0; ; i++ {
		folded := strings.ToLower(name)
		if len(name) <= limit && !n.taken[folded] {
			n.taken[folded] = true
			n.keys[name] = documentKey{d.Dataset, d.ID}
			return name
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d", d.Dataset, d.ID, i))
		hash := fmt.Sprintf("~%x", sum[:8])
		name = strings.ToValidUTF8(stem[:min(len(stem), limit-len(hash))], "") + hash
	}
}

// fileStem returns the beginning of a file name for a document.
func fileStem(d *trace.Document) string {
	stem := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:*?"<>|%`, r) || r < ' ' {
			return '_'
		}
		return r
	}, d.Dataset+"."+d.ID)
	if stem[0] == '.' || !filepath.IsLocal(stem) { // hidden, or reserved by Windows
		stem = "_" + stem
	}
	lower := strings.ToLower(stem)
	if strings.HasSuffix(lower, idsSuffix) || strings.HasSuffix(lower, expertsSuffix) {
		stem += "_" // the suffixes have a meaning
	}
	return stem
}

// dense returns an omission if a format without gaps cannot hold a document.
func dense(d *trace.Document, tokens bool) error {
	if i := slices.Index(d.Experts, trace.NoExpert); i >= 0 {
		return omission{fmt.Errorf("document %q of data set %q: a token has fewer than top-k experts (choice %d), which the format cannot hold", d.ID, d.Dataset, i)}
	}
	if i := slices.Index(d.Tokens, trace.NoToken); tokens && i >= 0 {
		return omission{fmt.Errorf("document %q of data set %q: the id of token %d is unknown, which the format cannot hold", d.ID, d.Dataset, i)}
	}
	return nil
}
