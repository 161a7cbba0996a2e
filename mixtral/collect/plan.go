package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	omitted  []Problem
}

func (r *run) path(n int) string {
	return filepath.Join(r.dir, fmt.Sprintf(shardFormat, n))
}

// plan finds the shards of this part that are missing or damaged.
func (r *run) plan(ctx context.Context) error {
	n, size, total := len(r.choice.docs), r.o.DocumentsPerShard, r.header.Source.Shards
	for s := r.o.Part; s < total; s += r.o.Parts {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.show(Progress{Stage: "verifying", Shards: s, ShardsTotal: total})
		exists, err := r.exists(s)
		if err != nil {
			return err
		}
		if exists {
			r.report.Existing++
			continue
		}
		sh := &shard{number: s, from: s * size, to: min((s+1)*size, n)}
		r.todo = append(r.todo, sh)
		r.now.DocumentsTotal += int64(sh.to - sh.from)
		r.now.ShardsTotal++
	}
	return nil
}

// exists reports whether an earlier run has written a shard, and reports the
// documents that it lacks. A damaged shard counts as missing.
func (r *run) exists(n int) (bool, error) {
	path := r.path(n)
	err := r.verify(path)
	var onDisk *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, errOtherSettings) || errors.As(err, &onDisk):
		return false, err
	case err != nil:
		r.report.Damaged = append(r.report.Damaged, filepath.Base(path))
		return false, nil
	}
	omitted, err := readOmitted(r.omittedPath(n))
	for _, p := range omitted {
		r.problem(p)
	}
	return true, err
}

var errOtherSettings = errors.New("was made with other settings")

// verify checks that a shard is intact and was made with the same settings.
func (r *run) verify(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	t, err := trace.Open(path)
	if err != nil {
		return err
	}
	h := t.Header()
	if !r.header.Equal(&h) {
		return fmt.Errorf("%s %w: %s", path, errOtherSettings, differences(settings(&h), settings(&r.header)))
	}
	return trace.VerifyShard(path)
}

// read reads the sources again and tokenizes the documents of todo.
func (r *run) read(ctx context.Context) error {
	shards := make(map[int]*shard)
	for _, s := range r.todo {
		shards[s.number] = s
	}
	taken := make([]bool, len(r.choice.docs))
	specials := len(r.tok.Encode("", true))
	p := Progress{Stage: "reading", DocumentsTotal: r.now.DocumentsTotal}
	err := r.documents(ctx, false, func(d *Document) error {
		// What was not there when documents were chosen is ignored.
		i, ok := r.choice.find(d.Dataset, number(r.o.Seed, d))
		if !ok {
			return nil
		}
		s := shards[i/r.o.DocumentsPerShard]
		if s == nil || r.choice.docs[i].text != hashText(d) {
			return nil
		}
		r.reading.Lock()
		defer r.reading.Unlock()
		if taken[i] {
			return nil
		}
		taken[i] = true
		p.Documents++
		r.show(p)
		return r.take(s, d, specials)
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
func (r *run) take(s *shard, d *Document, specials int) error {
	ids := r.tok.Encode(r.cut(d.Text), true)
	if len(ids) <= specials {
		s.omitted = append(s.omitted, Problem{d.Dataset, d.name(), errNoTokens})
		return nil
	}
	ids = ids[:min(len(ids), r.o.MaxTokens)]
	for t, id := range ids {
		if v := r.header.Model.Vocabulary; id < 0 || int(id) >= v {
			s.omitted = append(s.omitted, Problem{d.Dataset, d.name(), fmt.Errorf("token %d: id %d is not in the model's vocabulary of %d", t, id, v)})
			return nil
		}
	}
	p, err := r.spill.add(&text{Dataset: d.Dataset, ID: d.id(), Tokens: ids})
	s.places = append(s.places, p)
	r.now.TokensTotal += int64(len(ids))
	return err
}

// cut shortens a text of which only the beginning matters, so that a file of a
// gigabyte costs no more than a long document: to 1 MiB, or 64 bytes a token if
// that is more, at the end of a character. No tokens are as long as that.
func (r *run) cut(text string) string {
	limit := max(1<<20, 64*r.o.MaxTokens)
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
