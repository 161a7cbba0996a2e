package collect

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"fmt"
	"os"
)

// text is a tokenized document.
type text struct {
	Dataset, ID string
	Tokens      []int32 // [T]
}

// spill stores tokenized documents in a file, because memory may be too small
// for all of them.
type spill struct {
	file   *os.File
	w      *bufio.Writer
	offset int64
	buf    bytes.Buffer
}

// place is where a document is in the spill.
type place struct {
	offset int64
	length int
}

func newSpill(path string) (*spill, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &spill{file: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

func (s *spill) add(t *text) (place, error) {
	s.buf.Reset()
	if err := gob.NewEncoder(&s.buf).Encode(t); err != nil {
		return place{}, err
	}
	p := place{s.offset, s.buf.Len()}
	s.offset += int64(p.length)
	_, err := s.buf.WriteTo(s.w)
	return p, err
}

// get reads a document back, after flush.
func (s *spill) get(p place) (t text, err error) {
	b := make([]byte, p.length)
	if _, err = s.file.ReadAt(b, p.offset); err == nil {
		err = gob.NewDecoder(bytes.NewReader(b)).Decode(&t)
	}
	if err != nil {
		err = fmt.Errorf("%s: at byte %d: %w", s.file.Name(), p.offset, err)
	}
	return t, err
}

func (s *spill) flush() error { return s.w.Flush() }

func (s *spill) close() { s.file.Close() }
