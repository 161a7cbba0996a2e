package collect

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A shard from which documents were omitted has a file beside it that names them,
// so that a run that finds the shard reports them again.

func (r *run) omittedPath(n int) string {
	return filepath.Join(r.dir, fmt.Sprintf(omittedFormat, n))
}

// omittedDocument is a Problem in that file.
type omittedDocument struct {
	Dataset  string `json:"dataset"`
	Document string `json:"document"`
	Error    string `json:"error"`
}

// writeOmitted writes the file, whole or not at all, or removes it if there are
// no problems. It comes before the shard is published, and replaces what was
// there without a shard.
func (r *run) writeOmitted(n int, omitted []Problem) error {
	path := r.omittedPath(n)
	if len(omitted) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	// Sources are read in any order.
	slices.SortStableFunc(omitted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Dataset, b.Dataset), cmp.Compare(a.Document, b.Document))
	})
	list := make([]omittedDocument, len(omitted))
	for i, p := range omitted {
		list[i] = omittedDocument{p.Dataset, p.Document, p.Err.Error()}
	}
	temp := filepath.Join(r.temp, "omitted.json")
	if err := writeSynced(temp, list); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// readOmitted reads the file; none means no problems.
func readOmitted(path string) ([]Problem, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []omittedDocument
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	omitted := make([]Problem, len(list))
	for i, l := range list {
		omitted[i] = Problem{l.Dataset, l.Document, errors.New(l.Error)}
	}
	return omitted, nil
}

// writeSynced writes v as indented JSON and waits until the file is on the disk.
func writeSynced(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
