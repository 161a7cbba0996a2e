package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A shard of which documents are left out has a file beside it that names them,
// so that a run that finds the shard standing tells of them again.

func (r *run) leftPath(n int) string {
	return filepath.Join(r.dir, fmt.Sprintf("_left-out-%05d.json", n))
}

// leftOut is a Problem in that file.
type leftOut struct {
	Dataset  string `json:"dataset"`
	Document string `json:"document"`
	Error    string `json:"error"`
}

// writeLeft writes the file, whole or not at all; for no problems none. The shard
// gets its name after that, so what is there without its shard is replaced.
func (r *run) writeLeft(n int, left []Problem) error {
	path := r.leftPath(n)
	if len(left) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	list := make([]leftOut, len(left))
	for i, p := range left {
		list[i] = leftOut{p.Dataset, p.Document, p.Err.Error()}
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	temp := filepath.Join(r.temp, "left-out.json")
	if err := writeSynced(temp, append(text, '\n')); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// readLeft reads the file; none is no problems.
func readLeft(path string) ([]Problem, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []leftOut
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	left := make([]Problem, len(list))
	for i, l := range list {
		left[i] = Problem{l.Dataset, l.Document, errors.New(l.Error)}
	}
	return left, nil
}

// writeSynced writes a file and waits until it is on the disk.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
