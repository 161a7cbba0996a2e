package collect

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/trace"
)

// fullDisk is a writer whose disk is full for some of the shards.
type fullDisk struct {
	shardWriter
	err error
}

func (f *fullDisk) Close() error {
	if f.err != nil {
		f.Abort()
		return f.err
	}
	return f.shardWriter.Close()
}

// A shard that the disk has no room for is named with its documents; the others
// are written, and the next run makes up for it.
func TestFullDisk(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	m, err := mixtral.Load(context.Background(), mini.FS(), mixtral.Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tok, err := mixtral.LoadTokenizer(mini.FS(), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	var docs []Document
	for _, id := range strings.Fields("a b c d e f g h i j k l") {
		docs = append(docs, Document{ID: id, Text: "The letter " + id + " is in the alphabet."})
	}
	n := 0
	full := map[int]bool{1: true}
	o := Options{Tokens: 6, Shard: 2}
	o.createShard = func(dir string, h trace.Header, w trace.WriterOptions) (shardWriter, error) {
		s, err := createShard(dir, h, w)
		f := &fullDisk{shardWriter: s}
		if full[n] {
			f.err = &fs.PathError{Op: "write", Path: filepath.Join(dir, "x"), Err: syscall.ENOSPC}
		}
		n++
		return f, err
	}
	dir := t.TempDir()
	sources := []Source{Slice("set", docs)}
	rep, err := Run(context.Background(), m, tok, sources, dir, o)
	if err != nil || rep.Shards != 5 || rep.Documents != 10 || rep.ProblemCount != 2 {
		t.Fatalf("%v, %+v", err, rep)
	}
	if p := rep.Problems[0]; !errors.Is(p, syscall.ENOSPC) || p.Dataset != "set" || p.Document == "" || !strings.Contains(p.Error(), "shard-00001.parquet") {
		t.Errorf("%v", p)
	}
	// Full for good: it gives up after three, also if more is computed ahead.
	o.AtOnce = 4
	full = map[int]bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: true}
	n = 0
	if rep, err := Run(context.Background(), m, tok, sources, t.TempDir(), o); !errors.Is(err, syscall.ENOSPC) || rep.ProblemCount != 6 || n != 3 {
		t.Errorf("%v after %d shards, %+v", err, n, rep)
	}
	full = map[int]bool{}
	if rep, err := Run(context.Background(), m, tok, sources, dir, o); err != nil || rep.Shards != 1 || rep.Standing != 5 || rep.ProblemCount != 0 {
		t.Errorf("%v, %+v", err, rep)
	}
}
