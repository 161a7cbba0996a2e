package collect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A run that would continue a trace with other settings is refused, with an error
// that names them.
func TestRefusesOtherSettings(t *testing.T) {
	dir := t.TempDir()
	docs := documents(3, 2)
	base := collect.Options{DocumentsPerDataset: 2, MaxTokens: 9, Seed: 1, DocumentsPerShard: 2, ModelName: "a", Extra: map[string]string{"backend": "go"}}
	run(t, docs, dir, base)
	before := files(t, dir)
	for want, change := range map[string]func(o *collect.Options){
		`seed was "1" and is now "2"`:                         func(o *collect.Options) { o.Seed = 2 },
		`docs was "2" and is now "all"`:                       func(o *collect.Options) { o.DocumentsPerDataset = 0 },
		`tokens was "9" and is now "10"`:                      func(o *collect.Options) { o.MaxTokens = 10 },
		`shard was "2" and is now "3"`:                        func(o *collect.Options) { o.DocumentsPerShard = 3 },
		`batch was "4096" and is now "64"`:                    func(o *collect.Options) { o.BatchTokens = 64 },
		`logits was "none" and is now "all layers"`:           func(o *collect.Options) { o.Logits = true },
		`router-input was "none" and is now "layers 3"`:       func(o *collect.Options) { o.RouterInput, o.InputLayers = true, []int{3} },
		`float was "float32" and is now "float16"`:            func(o *collect.Options) { o.Float = trace.Float16 },
		`model was "a" and is now "b"`:                        func(o *collect.Options) { o.ModelName = "b" },
		`backend was "go" and is now "xla"; x was not set`:    func(o *collect.Options) { o.Extra = map[string]string{"backend": "xla", "x": "y"} },
		`program was "expertspec" and is now "other program"`: func(o *collect.Options) { o.Program = "other program" },
	} {
		o := base
		change(&o)
		_, err := tryRun(t.Context(), miniModel(), dir, o, collect.Slice("mini", docs))
		assert.ErrorContains(t, err, want)
	}
	changed := append([]collect.Document(nil), docs...)
	for i := range changed {
		changed[i].Text += " More."
	}
	_, err := tryRun(t.Context(), miniModel(), dir, base, collect.Slice("mini", changed))
	assert.ErrorContains(t, err, "other documents or texts")
	same(t, files(t, dir), before)
	require.NoError(t, os.Remove(filepath.Join(dir, "_collect.json")))
	_, err = tryRun(t.Context(), miniModel(), dir, base, collect.Slice("mini", docs))
	assert.ErrorContains(t, err, "another program")
}

// A damaged shard is rewritten, and the trace is that of an uninterrupted run.
func TestDamagedShard(t *testing.T) {
	want := t.TempDir()
	docs := documents(3, 2)
	o := collect.Options{MaxTokens: 9, DocumentsPerShard: 2}
	run(t, docs, want, o)
	for name, damage := range map[string]func(path string) error{
		"byte of a page": func(path string) error {
			data := must(os.ReadFile(path))
			i := bytes.Index(data, []byte("drama")) // in the first page, behind its header
			data[i] ^= 1
			return os.WriteFile(path, data, 0o666)
		},
		"middle of the file": func(path string) error {
			data := must(os.ReadFile(path))
			data[len(data)/2] ^= 1
			return os.WriteFile(path, data, 0o666)
		},
		"truncated": func(path string) error { return os.Truncate(path, 100) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(dir, os.DirFS(want)))
			require.NoError(t, damage(filepath.Join(dir, "shard-00001.parquet")))
			rep := run(t, docs, dir, o)
			assert.Equal(t, []string{"shard-00001.parquet"}, rep.Damaged)
			assert.Equal(t, 1, rep.Shards)
			assert.Equal(t, 2, rep.Existing)
			assert.Zero(t, rep.ProblemCount)
			same(t, files(t, dir), files(t, want))
			assert.Empty(t, run(t, docs, dir, o).Damaged)
		})
	}
	// A missing shard is not damaged.
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(want)))
	require.NoError(t, os.Remove(filepath.Join(dir, "shard-00001.parquet")))
	rep := run(t, docs, dir, o)
	assert.Empty(t, rep.Damaged)
	assert.Equal(t, 1, rep.Shards)
	same(t, files(t, dir), files(t, want))
}

// Shards of a small run are small, so that an interrupted one keeps something.
func TestDefaultShards(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := collect.Options{MaxTokens: 6}
	docs := documents(12, 1)
	o.Progress = func(p collect.Progress) {
		if p.Shards == 1 {
			cancel()
		}
	}
	rep, err := tryRun(ctx, miniModel(), dir, o, collect.Slice("mini", docs))
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, rep.Shards, 3)
	o.Progress = nil
	again := run(t, docs, dir, o)
	assert.Equal(t, rep.Shards, again.Existing)
	assert.Equal(t, 3, again.Existing+again.Shards)
	valid(t, dir, 12)
}

// What is omitted is named, and the run continues.
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
	var reported []string
	o := collect.Options{MaxTokens: 12, DocumentsPerShard: 3, Problem: func(p collect.Problem) { reported = append(reported, p.Error()) }}
	dir := t.TempDir()
	rep, err := tryRun(t.Context(), miniModel(), dir, o, source, broken)
	require.NoError(t, err)
	all := strings.Join(reported, "\n")
	for _, want := range []string{
		"drama: document empty: has no tokens", fmt.Sprintf("%s: document %s: another document of the data set has this id", docs[0].Dataset, docs[0].ID),
		"file.txt: cannot be read", "name is not UTF-8",
	} {
		assert.Contains(t, all, want)
	}
	assert.Equal(t, 4, rep.ProblemCount)
	require.Len(t, rep.Problems, 4)
	assert.Equal(t, int64(5), rep.Documents)
	// A run that finds everything done reports it again.
	slices.Sort(reported) // sources are read in any order
	first := strings.Join(reported, "\n")
	reported = nil
	again, err := tryRun(t.Context(), miniModel(), dir, o, source, broken)
	require.NoError(t, err)
	assert.Equal(t, 0, again.Shards)
	slices.Sort(reported)
	assert.Equal(t, strings.ToValidUTF8(first, "\ufffd"), strings.Join(reported, "\n"))
	valid(t, dir, 5)
}

// Of two processes of the same part, as where a scheduler believes that a node is
// dead, each makes the trace of one. The second begins and ends while the first
// writes a shard; then the first is cancelled, or finishes.
func TestTwoOfOnePart(t *testing.T) {
	want, dir := t.TempDir(), t.TempDir()
	docs := documents(9, 2)
	o := collect.Options{MaxTokens: 12, DocumentsPerShard: 3, BatchTokens: 12, Part: 1, Parts: 2}
	run(t, docs, want, o)
	for _, stop := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		// When the third batch is computed, the first is in the open shard.
		m := &atBatch{Model: miniModel(), batch: 3, do: func() {
			run(t, docs, dir, o)
			if stop {
				cancel()
			}
		}}
		rep, err := tryRun(ctx, m, dir, o, collect.Slice("mini", docs))
		if stop {
			assert.ErrorIs(t, err, context.Canceled)
		} else {
			assert.NoError(t, err)
		}
		assert.Empty(t, rep.Problems)
		assert.LessOrEqual(t, m.batch, 0)
		cancel()
		same(t, files(t, dir), files(t, want))
		require.NoError(t, os.Remove(filepath.Join(dir, "shard-00001.parquet")))
	}
}

// atBatch calls do before it computes a batch.
type atBatch struct {
	collect.Model
	batch int
	do    func()
}

func (m *atBatch) Record(ctx context.Context, h *trace.Header, tokens [][]int32, spare []*trace.Document) ([]*trace.Document, error) {
	if m.batch--; m.batch == 0 {
		m.do()
	}
	return m.Model.Record(ctx, h, tokens, spare)
}

// A cancelled run leaves only complete shards.
func TestCancelLeaves(t *testing.T) {
	dir := t.TempDir()
	docs := documents(4, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := collect.Options{MaxTokens: 12, DocumentsPerShard: 2}
	o.Progress = func(p collect.Progress) {
		if p.Stage == "collecting" && p.Shards == 1 {
			cancel()
		}
	}
	_, err := tryRun(ctx, miniModel(), dir, o, collect.Slice("mini", docs))
	assert.ErrorIs(t, err, context.Canceled)
	// _collect.json, a shard, and perhaps the next, whose file was being written.
	n := len(files(t, dir))
	assert.Contains(t, []int{2, 3}, n)
	o.Progress = nil
	rep := run(t, docs, dir, o)
	assert.Equal(t, n-1, rep.Existing)
	assert.Equal(t, 5-n, rep.Shards)
}

// A process removes the folders of killed ones of its part, whether they have locked
// theirs or not, and no others.
func TestClearsStale(t *testing.T) {
	dir := t.TempDir()
	stale := func(part, name string, files ...string) string {
		folder := filepath.Join(dir, ".parts", part, name)
		require.NoError(t, os.MkdirAll(filepath.Join(folder, "shard"), 0o777))
		for _, f := range files {
			require.NoError(t, os.WriteFile(filepath.Join(folder, f), []byte("x"), 0o666))
		}
		return folder
	}
	stale("2-of-7", "a", "lock", "texts", "shard/.shard-00000.parquet.tmp")
	stale("2-of-7", "b", "texts")
	other := stale("3-of-7", "c", "lock")
	run(t, documents(1, 1), dir, collect.Options{MaxTokens: 5, Part: 2, Parts: 7})
	assert.NoDirExists(t, filepath.Join(dir, ".parts", "2-of-7"))
	assert.DirExists(t, other)
	run(t, documents(1, 1), dir, collect.Options{MaxTokens: 5, Part: 3, Parts: 7})
	assert.Equal(t, 1, len(files(t, dir)))
}

// Progress ends with everything done, and has rate and memory.
func TestProgress(t *testing.T) {
	var last collect.Progress
	stages := make(map[string]bool)
	o := collect.Options{MaxTokens: 12, DocumentsPerShard: 2, Progress: func(p collect.Progress) { last = p; stages[p.Stage] = true }}
	rep := run(t, documents(3, 1), t.TempDir(), o)
	assert.Equal(t, "collecting", last.Stage)
	assert.Equal(t, int64(3), last.Documents)
	assert.Equal(t, int64(3), last.DocumentsTotal)
	assert.Equal(t, int64(36), last.Tokens)
	assert.Equal(t, int64(36), last.TokensTotal)
	assert.Equal(t, 2, last.Shards)
	assert.Equal(t, 2, last.ShardsTotal)
	assert.Positive(t, last.Rate)
	assert.Zero(t, last.Remaining)
	assert.Positive(t, last.Elapsed)
	assert.GreaterOrEqual(t, last.Peak, int64(1<<20))
	assert.GreaterOrEqual(t, rep.Peak, int64(1<<20))
	assert.GreaterOrEqual(t, rep.Elapsed, time.Microsecond)
	assert.Equal(t, int64(3), rep.Chosen)
}

// The header has the settings.
func TestHeader(t *testing.T) {
	dir := t.TempDir()
	o := collect.Options{DocumentsPerDataset: 1, MaxTokens: 5, Seed: 42, ModelName: "mini", Program: "test 1.0", Extra: map[string]string{"backend": "go"}}
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
		{DocumentsPerDataset: -1}, {MaxTokens: -1}, {BatchTokens: -1}, {DocumentsPerShard: -2}, {Part: 3, Parts: 2}, {Part: -1}, {Part: 1},
		{LogitLayers: []int{1}}, {InputLayers: []int{1}}, {Float: 7}, {Logits: true, LogitLayers: []int{99}},
	} {
		_, err := tryRun(t.Context(), miniModel(), t.TempDir(), o, collect.Slice("mini", documents(1, 1)))
		assert.Error(t, err, "%+v", o)
	}
}
