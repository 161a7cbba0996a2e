package collect_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/collect"
)

func tryRun(docs []collect.Document, dir string, o collect.Options) (*collect.Report, error) {
	return collect.Run(context.Background(), must(model()), must(tokenizer()), []collect.Source{collect.Slice("mini", docs)}, dir, o)
}

// A run that would go on with other settings is refused, and told which.
func TestRefusesOtherSettings(t *testing.T) {
	dir := t.TempDir()
	docs := documents(3, 2)
	base := collect.Options{Docs: 2, Tokens: 9, Seed: 1, Shard: 2, ModelName: "a", Extra: map[string]string{"backend": "go"}}
	run(t, docs, dir, base)
	before := files(t, dir)
	for want, change := range map[string]func(o *collect.Options){
		`seed was "1" and is now "2"`:                         func(o *collect.Options) { o.Seed = 2 },
		`docs was "2" and is now "all"`:                       func(o *collect.Options) { o.Docs = 0 },
		`tokens was "9" and is now "10"`:                      func(o *collect.Options) { o.Tokens = 10 },
		`shard was "2" and is now "3"`:                        func(o *collect.Options) { o.Shard = 3 },
		`batch was "4096" and is now "64"`:                    func(o *collect.Options) { o.Batch = 64 },
		`logits was "none" and is now "all layers"`:           func(o *collect.Options) { o.Logits = true },
		`router-input was "none" and is now "layers 3"`:       func(o *collect.Options) { o.RouterInput, o.InputLayers = true, []int{3} },
		`float was "float32" and is now "float16"`:            func(o *collect.Options) { o.Float = trace.Float16 },
		`model was "a" and is now "b"`:                        func(o *collect.Options) { o.ModelName = "b" },
		`backend was "go" and is now "xla"; x was not set`:    func(o *collect.Options) { o.Extra = map[string]string{"backend": "xla", "x": "y"} },
		`program was "expertspec" and is now "other program"`: func(o *collect.Options) { o.Program = "other program" },
	} {
		o := base
		change(&o)
		if _, err := tryRun(docs, dir, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
	}
	changed := append([]collect.Document(nil), docs...)
	for i := range changed {
		changed[i].Text += " More."
	}
	if _, err := tryRun(changed, dir, base); err == nil || !strings.Contains(err.Error(), "other documents or texts") {
		t.Errorf("other texts: error %v", err)
	}
	same(t, files(t, dir), before)
	if err := os.Remove(filepath.Join(dir, "_collect.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := tryRun(docs, dir, base); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("foreign shards: error %v", err)
	}
}

// A shard that stands but is spoilt, or of another making, is named.
func TestRefusesSpoiltShard(t *testing.T) {
	dir := t.TempDir()
	docs := documents(3, 2)
	o := collect.Options{Tokens: 9, Shard: 2}
	run(t, docs, dir, o)
	path := filepath.Join(dir, "shard-00001.parquet")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := tryRun(docs, dir, o); err == nil || !strings.Contains(err.Error(), "shard-00001.parquet") {
		t.Errorf("error %v", err)
	}
	os.Remove(path)
	if rep := run(t, docs, dir, o); rep.Shards != 1 || rep.Standing != 2 {
		t.Errorf("%+v", rep)
	}
}

// What is left out is named, and the rest goes on.
func TestProblems(t *testing.T) {
	docs := documents(2, 2)
	docs = append(docs, collect.Document{Dataset: "drama", ID: "empty"}, docs[0],
		collect.Document{ID: "bad\xff", Text: "Its name is not UTF-8."})
	source := collect.Slice("mini", docs)
	broken := collect.Source{Name: "broken", Documents: func(context.Context) iter.Seq2[collect.Document, error] {
		return func(yield func(collect.Document, error) bool) {
			_ = yield(collect.Document{}, errors.New("file.txt: cannot be read")) && yield(collect.Document{ID: "good", Text: "Fine."}, nil)
		}
	}}
	var told []string
	o := collect.Options{Tokens: 12, Shard: 3, Problem: func(p collect.Problem) { told = append(told, p.Error()) }}
	dir := t.TempDir()
	rep, err := collect.Run(context.Background(), must(model()), must(tokenizer()), []collect.Source{source, broken}, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"drama: document empty: has no tokens", fmt.Sprintf("%s: document %s: another document of the data set has this id", docs[0].Dataset, docs[0].ID),
		"file.txt: cannot be read", "name is not UTF-8",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("not told of %q, but of\n%s", want, all)
		}
	}
	if rep.ProblemCount != 4 || len(rep.Problems) != 4 || rep.Documents != 5 {
		t.Errorf("%d problems, %d documents", rep.ProblemCount, rep.Documents)
	}
	// A run that finds all done tells of it again.
	first := strings.Join(told, "\n")
	told = nil
	again, err := collect.Run(context.Background(), must(model()), must(tokenizer()), []collect.Source{source, broken}, dir, o)
	if err != nil || again.Shards != 0 || strings.Join(told, "\n") != strings.ToValidUTF8(first, "\ufffd") {
		t.Errorf("%v, then told of\n%s\nnot\n%s", err, strings.Join(told, "\n"), first)
	}
	if v, err := trace.Validate(dir, trace.ValidateOptions{}); err != nil || v.Err() != nil || v.Documents != 5 {
		t.Errorf("%+v, %v", v, err)
	}
}

// Two processes cannot make the same part at once, and a cancelled run leaves
// nothing behind but whole shards.
func TestLockAndCancel(t *testing.T) {
	dir := t.TempDir()
	docs := documents(4, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := collect.Options{Tokens: 12, Shard: 2}
	second := error(nil)
	o.Progress = func(p collect.Progress) {
		if p.Stage == collect.Collecting && p.Shards == 1 {
			_, second = tryRun(docs, dir, collect.Options{Tokens: 12, Shard: 2})
			cancel()
		}
	}
	_, err := collect.Run(ctx, must(model()), must(tokenizer()), []collect.Source{collect.Slice("mini", docs)}, dir, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if second == nil || !strings.Contains(second.Error(), "another process") {
		t.Errorf("the second process got %v", second)
	}
	// _collect.json, a shard, and perhaps the next, whose file was being written.
	n := len(files(t, dir))
	if n != 2 && n != 3 {
		t.Errorf("%d files", n)
	}
	o.Progress = nil
	if rep := run(t, docs, dir, o); rep.Standing != n-1 || rep.Shards != 5-n {
		t.Errorf("%+v", rep)
	}
}

// Folders of parts whose process was killed go away.
func TestClearsStaleParts(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, ".part-3-of-7")
	if err := os.MkdirAll(filepath.Join(stale, "shard"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "texts", "shard/.shard-00000.parquet.tmp"} {
		if err := os.WriteFile(filepath.Join(stale, name), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	run(t, documents(1, 1), dir, collect.Options{Tokens: 5})
	if n := len(files(t, dir)); n != 2 {
		t.Errorf("%d files", n)
	}
}

// Progress ends with all done, and tells rate and memory.
func TestProgress(t *testing.T) {
	var last collect.Progress
	stages := make(map[collect.Stage]bool)
	o := collect.Options{Tokens: 12, Shard: 2, Progress: func(p collect.Progress) { last = p; stages[p.Stage] = true }}
	rep := run(t, documents(3, 1), t.TempDir(), o)
	if last.Stage != collect.Collecting || last.Documents != 3 || last.DocumentsTotal != 3 || last.Tokens != 36 || last.TokensTotal != 36 ||
		last.Shards != 2 || last.ShardsTotal != 2 || last.Rate <= 0 || last.Left != 0 || last.Elapsed <= 0 || last.Peak < 1<<20 {
		t.Errorf("%+v", last)
	}
	if rep.Peak < 1<<20 || rep.Elapsed < time.Microsecond || rep.Chosen != 3 {
		t.Errorf("%+v", rep)
	}
}

// The header says what made the trace.
func TestHeader(t *testing.T) {
	dir := t.TempDir()
	o := collect.Options{Docs: 1, Tokens: 5, Seed: 42, ModelName: "mini", Program: "test 1.0", Extra: map[string]string{"backend": "go"}}
	run(t, documents(2, 1), dir, o)
	h := must(trace.Open(dir)).Header()
	if m := h.Model; m.Name != "mini" || m.Layers != 16 || m.Experts != 8 || m.TopK != 2 || m.Hidden != 96 || m.Vocabulary != 4096 {
		t.Errorf("model %+v", m)
	}
	s := h.Source
	if s.Program != "test 1.0" || s.Seed != 42 || s.DType != "Float32" || s.Checkpoint != must(model()).CheckpointHash() ||
		s.Extra["docs"] != "1" || s.Extra["tokens"] != "5" || s.Extra["backend"] != "go" {
		t.Errorf("source %+v", s)
	}
}

func TestOptionsValidate(t *testing.T) {
	for _, o := range []collect.Options{
		{Docs: -1}, {Tokens: -1}, {Batch: -1}, {Shard: -2}, {Part: 3, Parts: 2}, {Part: -1}, {Part: 1},
		{LogitLayers: []int{1}}, {InputLayers: []int{1}}, {Float: 7}, {Logits: true, LogitLayers: []int{99}},
	} {
		if _, err := tryRun(documents(1, 1), t.TempDir(), o); err == nil {
			t.Errorf("%+v passes", o)
		}
	}
}
