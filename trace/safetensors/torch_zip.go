package safetensors

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace/internal/pickle"
)

// torchZip is the zip file of torch.save: in one folder data.pkl, byteorder, and
// the storages as data/0, data/1, ..., none of them compressed.
type torchZip struct {
	f       *Reader
	entries map[string]*zip.File // by the name in the folder
	places  map[string]place     // of the entries in use
}

func (f *Reader) readTorchZip() error {
	archive, err := zip.NewReader(f.r, f.size)
	if err != nil {
		return fmt.Errorf("zip file: %w", err)
	}
	z := &torchZip{f: f, entries: map[string]*zip.File{}, places: map[string]place{}}
	if err := z.list(archive.File); err != nil {
		return err
	}
	if _, ok := z.entries["byteorder"]; ok { // versions before 2.1 do not write it
		order, err := z.text("byteorder", 16)
		if err != nil {
			return err
		}
		if string(order) != "little" {
			return fmt.Errorf("byte order is %s, expected little", clip(order))
		}
	}
	text, err := z.text("data.pkl", maxPickle)
	if err != nil {
		return err
	}
	budget := pickle.NewBudget(len(text))
	object, err := pickle.NewDecoder(text, &budget, &torchEnv{}).Load()
	if err != nil {
		return fmt.Errorf("data.pkl: %w", err)
	}
	if err := f.addTensors(object, func(key string) (place, error) { return z.place("data/" + key) }); err != nil {
		return err
	}
	return z.check()
}

// list finds the folder with data.pkl, and takes its entries.
func (z *torchZip) list(files []*zip.File) error {
	const name = "/data.pkl"
	folder := ""
	for _, file := range files {
		if at := strings.IndexByte(file.Name, '/'); at >= 0 && file.Name[at:] == name {
			if folder != "" {
				return fmt.Errorf("zip file has %s in more than one folder, or twice", name[1:])
			}
			folder = file.Name[:at+1]
		}
	}
	if folder == "" {
		return errors.New("zip file without data.pkl: torch.save did not write it")
	}
	for _, file := range files {
		name, ok := strings.CutPrefix(file.Name, folder)
		if !ok {
			continue
		}
		if z.entries[name] != nil {
			return fmt.Errorf("zip file has entry %s twice", clip([]byte(name)))
		}
		z.entries[name] = file
	}
	return nil
}

// place finds an entry's data.
func (z *torchZip) place(name string) (place, error) {
	if p, ok := z.places[name]; ok {
		return p, nil
	}
	file, ok := z.entries[name]
	switch {
	case !ok:
		return place{}, errors.New("does not exist in the zip file")
	case file.Method != zip.Store || file.CompressedSize64 != file.UncompressedSize64:
		return place{}, errors.New("is compressed, expected stored as torch.save writes it")
	case file.Flags&1 != 0:
		return place{}, errors.New("is encrypted")
	}
	offset, err := file.DataOffset()
	if err != nil {
		return place{}, fmt.Errorf("header in the zip file: %w", err)
	}
	if offset < 0 || offset > z.f.size || file.CompressedSize64 > uint64(z.f.size-offset) {
		return place{}, fmt.Errorf("truncated: %d bytes at %d, but the file has %d", file.CompressedSize64, offset, z.f.size)
	}
	p := place{offset, int64(file.CompressedSize64)}
	z.places[name] = p
	return p, nil
}

// text reads an entry of at most limit bytes.
func (z *torchZip) text(name string, limit int64) ([]byte, error) {
	p, err := z.place(name)
	if err == nil && p.size > limit {
		err = fmt.Errorf("has %d bytes, above the limit of %d", p.size, limit)
	}
	var text []byte
	if err == nil {
		text, err = z.f.readText(p.offset, p.size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// check returns an error if entries in use overlap, and finds where storages begin.
func (z *torchZip) check() error {
	type entry struct {
		place
		name string
	}
	var entries []entry
	z.f.data = z.f.size
	for name, p := range z.places {
		if p.size > 0 {
			entries = append(entries, entry{p, name})
		}
		if strings.HasPrefix(name, "data/") {
			z.f.data = min(z.f.data, p.offset)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), strings.Compare(a.name, b.name))
	})
	for i := 1; i < len(entries); i++ {
		before, e := entries[i-1], entries[i]
		if e.offset < before.offset+before.size {
			return fmt.Errorf("entries %s and %s of the zip file overlap", clip([]byte(before.name)), clip([]byte(e.name)))
		}
	}
	return nil
}
