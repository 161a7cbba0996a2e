package collect

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
)

// text is a tokenized document.
type text struct {
	dataset, id string
	tokens      []int32 // [T]
}

// spill keeps tokenized documents in a file, since all of them may be more than
// memory holds.
type spill struct {
	file   *os.File
	w      *bufio.Writer
	offset int64
	buf    []byte
}

// place is where a document is in the spill.
type place struct {
	offset int64
	length int32
}

func newSpill(path string) (*spill, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &spill{file: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

// add appends a document: number of the data set, id, tokens.
func (s *spill) add(dataset int, id string, tokens []int32) (place, error) {
	b := binary.AppendUvarint(s.buf[:0], uint64(dataset))
	b = binary.AppendUvarint(b, uint64(len(id)))
	b = append(b, id...)
	for _, t := range tokens {
		b = binary.AppendUvarint(b, uint64(t))
	}
	s.buf = b
	p := place{s.offset, int32(len(b))}
	s.offset += int64(len(b))
	_, err := s.w.Write(b)
	return p, err
}

// get reads a document back, after flush.
func (s *spill) get(p place, names []string) (text, error) {
	b := make([]byte, p.length)
	if _, err := s.file.ReadAt(b, p.offset); err != nil {
		return text{}, err
	}
	bad := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	dataset, n := next(), next()
	if bad || dataset >= uint64(len(names)) || n > uint64(len(b)) {
		return text{}, fmt.Errorf("%s: spoilt at byte %d", s.file.Name(), p.offset)
	}
	t := text{dataset: names[dataset], id: string(b[:n])}
	b = b[n:]
	for len(b) > 0 {
		t.tokens = append(t.tokens, int32(next()))
	}
	if bad {
		return text{}, fmt.Errorf("%s: spoilt at byte %d", s.file.Name(), p.offset)
	}
	return t, nil
}

func (s *spill) flush() error { return s.w.Flush() }

func (s *spill) close() { s.file.Close() }
