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

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func tryRun(docs []collect.Document, dir string, o collect.Options) (*collect.Report, error) {
	return collect.Run(context.Background(), must(model()), must(loadTokenizer()), []collect.Source{collect.Slice("mini", docs)}, dir, o)
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
		_, err := tryRun(docs, dir, o)
		assert.ErrorContains(t, err, want)
	}
	changed := append([]collect.Document(nil), docs...)
	for i := range changed {
		changed[i].Text += " More."
	}
	_, err := tryRun(changed, dir, base)
	assert.ErrorContains(t, err, "other documents or texts")
	same(t, files(t, dir), before)
	require.NoError(t, os.Remove(filepath.Join(dir, "_collect.json")))
	_, err = tryRun(docs, dir, base)
	assert.ErrorContains(t, err, "another program")
}

// A shard that stands but is spoilt, or of another making, is named.
func TestRefusesSpoiltShard(t *testing.T) {
	dir := t.TempDir()
	docs := documents(3, 2)
	o := collect.Options{Tokens: 9, Shard: 2}
	run(t, docs, dir, o)
	path := filepath.Join(dir, "shard-00001.parquet")
	require.NoError(t, os.Truncate(path, 100))
	_, err := tryRun(docs, dir, o)
	assert.ErrorContains(t, err, "shard-00001.parquet")
	os.Remove(path)
	rep := run(t, docs, dir, o)
	assert.Equal(t, 1, rep.Shards)
	assert.Equal(t, 2, rep.Standing)
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
	rep, err := collect.Run(context.Background(), must(model()), must(loadTokenizer()), []collect.Source{source, broken}, dir, o)
	require.NoError(t, err)
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"drama: document empty: has no tokens", fmt.Sprintf("%s: document %s: another document of the data set has this id", docs[0].Dataset, docs[0].ID),
		"file.txt: cannot be read", "name is not UTF-8",
	} {
		assert.Contains(t, all, want)
	}
	assert.Equal(t, 4, rep.ProblemCount)
	require.Len(t, rep.Problems, 4)
	assert.Equal(t, int64(5), rep.Documents)
	// A run that finds all done tells of it again.
	first := strings.Join(told, "\n")
	told = nil
	again, err := collect.Run(context.Background(), must(model()), must(loadTokenizer()), []collect.Source{source, broken}, dir, o)
	require.NoError(t, err)
	assert.Equal(t, 0, again.Shards)
	assert.Equal(t, strings.ToValidUTF8(first, "\ufffd"), strings.Join(told, "\n"))
	v, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	require.NoError(t, v.Err())
	assert.Equal(t, 5, v.Documents)
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
	_, err := collect.Run(ctx, must(model()), must(loadTokenizer()), []collect.Source{collect.Slice("mini", docs)}, dir, o)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, second, "another process")
	// _collect.json, a shard, and perhaps the next, whose file was being written.
	n := len(files(t, dir))
	assert.False(t, n != 2 && n != 3, "%d files", n)
	o.Progress = nil
	rep := run(t, docs, dir, o)
	assert.Equal(t, n-1, rep.Standing)
	assert.Equal(t, 5-n, rep.Shards)
}

// Folders of parts whose process was killed go away.
func TestClearsStaleParts(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, ".part-3-of-7")
	require.NoError(t, os.MkdirAll(filepath.Join(stale, "shard"), 0o777))
	for _, name := range []string{"lock", "texts", "shard/.shard-00000.parquet.tmp"} {
		require.NoError(t, os.WriteFile(filepath.Join(stale, name), []byte("x"), 0o666))
	}
	run(t, documents(1, 1), dir, collect.Options{Tokens: 5})
	assert.Equal(t, 2, len(files(t, dir)))
}

// Progress ends with all done, and tells rate and memory.
func TestProgress(t *testing.T) {
	var last collect.Progress
	stages := make(map[collect.Stage]bool)
	o := collect.Options{Tokens: 12, Shard: 2, Progress: func(p collect.Progress) { last = p; stages[p.Stage] = true }}
	rep := run(t, documents(3, 1), t.TempDir(), o)
	assert.Equal(t, collect.Collecting, last.Stage)
	assert.Equal(t, int64(3), last.Documents)
	assert.Equal(t, int64(3), last.DocumentsTotal)
	assert.Equal(t, int64(36), last.Tokens)
	assert.Equal(t, int64(36), last.TokensTotal)
	assert.Equal(t, 2, last.Shards)
	assert.Equal(t, 2, last.ShardsTotal)
	assert.Greater(t, last.Rate, float64(0))
	assert.EqualValues(t, 0, last.Left)
	assert.Greater(t, last.Elapsed, time.Duration(0))
	assert.GreaterOrEqual(t, last.Peak, int64(1<<20))
	assert.GreaterOrEqual(t, rep.Peak, int64(1<<20))
	assert.GreaterOrEqual(t, rep.Elapsed, time.Microsecond)
	assert.Equal(t, int64(3), rep.Chosen)
}

// The header says what made the trace.
func TestHeader(t *testing.T) {
	dir := t.TempDir()
	o := collect.Options{Docs: 1, Tokens: 5, Seed: 42, ModelName: "mini", Program: "test 1.0", Extra: map[string]string{"backend": "go"}}
	run(t, documents(2, 1), dir, o)
	h := must(trace.Open(dir)).Header()
	m := h.Model
	assert.Equal(t, "mini", m.Name)
	assert.Equal(t, 16, m.Layers)
	assert.Equal(t, 8, m.Experts)
	assert.Equal(t, 2, m.TopK)
	assert.Equal(t, 96, m.Hidden)
	assert.Equal(t, 4096, m.Vocabulary)
	s := h.Source
	assert.Equal(t, "test 1.0", s.Program)
	assert.Equal(t, uint64(42), s.Seed)
	assert.Equal(t, "Float32", s.DType)
	assert.Equal(t, must(model()).CheckpointHash(), s.Checkpoint)
	assert.Equal(t, "1", s.Extra["docs"])
	assert.Equal(t, "5", s.Extra["tokens"])
	assert.Equal(t, "go", s.Extra["backend"])
}

func TestOptionsValidate(t *testing.T) {
	for _, o := range []collect.Options{
		{Docs: -1}, {Tokens: -1}, {Batch: -1}, {Shard: -2}, {Part: 3, Parts: 2}, {Part: -1}, {Part: 1},
		{LogitLayers: []int{1}}, {InputLayers: []int{1}}, {Float: 7}, {Logits: true, LogitLayers: []int{99}},
	} {
		_, err := tryRun(documents(1, 1), t.TempDir(), o)
		assert.Error(t, err, "%+v passes", o)
	}
}
