package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/expertspec/expertspec/trace"
)

// shard is a part of the choice, and one file.
type shard struct {
	number   int
	from, to int // of choice.docs
	places   []place
	left     []Problem // documents of it that are left out
}

func (r *run) path(n int) string {
	return filepath.Join(r.dir, fmt.Sprintf("shard-%05d.parquet", n))
}

// plan finds the shards of this part that are still to make.
func (r *run) plan() error {
	n := len(r.choice.docs)
	for s, from := 0, 0; from < n; s, from = s+1, from+r.o.Shard {
		if s%r.o.Parts != r.o.Part {
			continue
		}
		_, err := os.Stat(r.path(s))
		switch {
		case err == nil:
			if err := r.sameHeader(r.path(s)); err != nil {
				return err
			}
			left, err := readLeft(r.leftPath(s))
			if err != nil {
				return err
			}
			for _, p := range left {
				r.problem(p)
			}
			r.report.Standing++
		case errors.Is(err, os.ErrNotExist):
			sh := &shard{number: s, from: from, to: min(from+r.o.Shard, n)}
			r.todo = append(r.todo, sh)
			r.now.DocumentsTotal += int64(sh.to - sh.from)
			r.now.ShardsTotal++
		default:
			return err
		}
	}
	return nil
}

// sameHeader checks that a shard that stands can be read and is of the same
// making.
func (r *run) sameHeader(path string) error {
	t, err := trace.Open(path)
	if err != nil {
		return err
	}
	h := t.Header()
	if !r.header.Equal(&h) {
		return fmt.Errorf("%s was made with other settings: %s", path, differences(settings(&h), settings(&r.header)))
	}
	return nil
}

// read goes through the sources again and tokenizes what todo needs.
func (r *run) read(ctx context.Context) error {
	index := make(map[string]int32)
	for i, name := range r.choice.names {
		index[name] = int32(i)
	}
	want := make(map[int]*shard)
	for _, s := range r.todo {
		want[s.number] = s
	}
	taken := make([]bool, len(r.choice.docs))
	specials := len(r.tok.Encode("", true))
	p := Progress{Stage: Reading, DocumentsTotal: r.now.DocumentsTotal}
	err := r.documents(ctx, false, func(d *Document) error {
		if d.Text == "" {
			return nil
		}
		o, hash := number(r.o.Seed, d)
		set, ok := index[d.Dataset]
		if !ok {
			return nil // it came since; the texts of the choice are all that count
		}
		i, ok := r.choice.find(set, o)
		if !ok || taken[i] || r.choice.docs[i].text != hash {
			return nil
		}
		s := want[i/r.o.Shard]
		if s == nil {
			return nil
		}
		taken[i] = true
		p.Documents++
		r.tell(p)
		return r.take(s, int(set), d, specials)
	})
	if err != nil {
		return err
	}
	for _, s := range r.todo {
		for i := s.from; i < s.to; i++ {
			if !taken[i] {
				return fmt.Errorf("collect: the sources changed while they were read: a document of %s is gone", r.choice.names[r.choice.docs[i].dataset])
			}
		}
	}
	return r.spill.flush()
}

// take tokenizes a document for shard s.
func (r *run) take(s *shard, set int, d *Document, specials int) error {
	ids := r.tok.Encode(r.cut(d.Text), true)
	if len(ids) <= specials {
		s.left = append(s.left, Problem{d.Dataset, d.name(), errNoTokens})
		return nil
	}
	ids = ids[:min(len(ids), r.o.Tokens)]
	for t, id := range ids {
		if v := r.header.Model.Vocabulary; id < 0 || int(id) >= v {
			s.left = append(s.left, Problem{d.Dataset, d.name(), fmt.Errorf("token %d: id %d is not in the model's vocabulary of %d", t, id, v)})
			return nil
		}
	}
	id := d.ID
	if id == "" {
		id = d.Place
	}
	p, err := r.spill.add(set, id, ids)
	s.places = append(s.places, p)
	r.now.TokensTotal += int64(len(ids))
	return err
}

// cut shortens a text of which only the beginning matters, so that a file of a
// gigabyte costs no more than a long document: to 1 MiB, or 64 bytes a token if
// that is more, at the end of a character. No tokens are as long as that.
func (r *run) cut(text string) string {
	limit := max(1<<20, 64*r.o.Tokens)
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
