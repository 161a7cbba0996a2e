package collect_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The state of a folder follows its parts: 7 shards of 13 documents, of which one has
// no tokens, between 3 parts.
func TestInspect(t *testing.T) {
	dir := t.TempDir()
	docs := append(documents(4, 3), collect.Document{Dataset: "drama", ID: "bad\xff", Text: "Its name is not UTF-8."})
	o := collect.Options{MaxTokens: 7, DocumentsPerShard: 2, Parts: 3}
	_, err := collect.Inspect(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	part := func(i int) (problems int) {
		o.Part = i
		rep := run(t, docs, dir, o)
		return rep.ProblemCount
	}
	inspect := func() *collect.State {
		s, err := collect.Inspect(dir)
		require.NoError(t, err)
		assert.Equal(t, 3, s.Parts)
		assert.Equal(t, 7, s.Shards)
		assert.Equal(t, int64(13), s.Documents)
		return s
	}
	omitted := part(1)
	s := inspect()
	assert.Equal(t, []int{0, 2, 3, 5, 6}, s.MissingShards)
	assert.Equal(t, []int{0, 2}, s.MissingParts)
	assert.Len(t, s.Omitted, omitted)
	omitted += part(0)
	s = inspect()
	assert.Equal(t, []int{2, 5}, s.MissingShards)
	assert.Equal(t, []int{2}, s.MissingParts)
	omitted += part(2)
	s = inspect()
	assert.Empty(t, s.MissingShards)
	assert.Empty(t, s.MissingParts)
	require.Equal(t, 1, omitted)
	require.Len(t, s.Omitted, 1)
	assert.Equal(t, "drama", s.Omitted[0].Dataset)
	report := must(trace.Validate(dir, trace.ValidateOptions{}))
	assert.Empty(t, report.Missing)
	assert.Equal(t, 7, report.Header.Source.Shards)
	assert.Equal(t, 12, report.Documents)

	path := filepath.Join(dir, "_collect.json")
	text := string(must(os.ReadFile(path)))
	for want, change := range map[string][2]string{
		"_collect.json: unknown version 2":                       {`"version": 1`, `"version": 2`},
		"_collect.json: the trace is divided between 0":          {`"parts": 3`, `"parts": 0`},
		`_collect.json: the number of shards is "70000000000000`: {`"shards": "7"`, `"shards": "70000000000000"`},
		`_collect.json: the number of shards is not set`:         {`"shards": "7"`, `"shard s": "7"`},
		"_collect.json: invalid character":                       {`"version"`, `version`},
	} {
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(text, change[0], change[1], 1)), 0o666))
		_, err := collect.Inspect(dir)
		assert.ErrorContains(t, err, want)
	}
}

// A part of another division is refused, except a process that does all.
func TestRefusesOtherParts(t *testing.T) {
	dir := t.TempDir()
	docs := documents(3, 2)
	o := collect.Options{MaxTokens: 7, DocumentsPerShard: 1, Part: 2, Parts: 4}
	run(t, docs, dir, o)
	before := files(t, dir)
	path := filepath.Join(dir, "_collect.json")
	for _, other := range []collect.Options{{Part: 1, Parts: 3}, {Part: 2, Parts: 8}} {
		other.MaxTokens, other.DocumentsPerShard = 7, 1
		_, err := tryRun(t.Context(), miniModel(), dir, other, collect.Slice("mini", docs))
		assert.ErrorContains(t, err, path+": the trace is divided between 4 processes, so part ")
	}
	same(t, files(t, dir), before)
	o.Part, o.Parts = 0, 0
	run(t, docs, dir, o)
	valid(t, dir, 6)
	assert.Equal(t, 4, must(collect.Inspect(dir)).Parts)

	// One process has begun: parts need the number in the file to be changed.
	whole := t.TempDir()
	run(t, docs, whole, o)
	o.Part, o.Parts = 4, 5
	_, err := tryRun(t.Context(), miniModel(), whole, o, collect.Slice("mini", docs))
	assert.ErrorContains(t, err, "divided between 1 processes")
	text := must(os.ReadFile(filepath.Join(whole, "_collect.json")))
	require.NoError(t, os.WriteFile(filepath.Join(whole, "_collect.json"), []byte(strings.Replace(string(text), `"parts": 1`, `"parts": 5`, 1)), 0o666))
	assert.Equal(t, 1, run(t, docs, whole, o).Existing)
}

// Parts that have no shards, because there are more parts than shards, do nothing.
func TestMorePartsThanShards(t *testing.T) {
	dir, whole := t.TempDir(), t.TempDir()
	docs := documents(2, 2)
	o := collect.Options{MaxTokens: 7, DocumentsPerShard: 3}
	run(t, docs, whole, o)
	o.Parts = 5
	for _, part := range []int{4, 2, 0, 3, 1} {
		o.Part = part
		rep := run(t, docs, dir, o)
		assert.Equal(t, map[bool]int{true: 1, false: 0}[part < 2], rep.Shards)
	}
	same(t, files(t, dir), divided(files(t, whole), 5))
	s := must(collect.Inspect(dir))
	assert.Empty(t, s.MissingParts)
}

// More shards than a trace may have are refused before anything is computed.
func TestTooManyShards(t *testing.T) {
	docs := make([]collect.Document, trace.MaxShards+1)
	for i := range docs {
		docs[i].Text = "x"
	}
	_, err := tryRun(t.Context(), miniModel(), t.TempDir(), collect.Options{DocumentsPerShard: 1}, collect.Slice("mini", docs))
	assert.ErrorContains(t, err, "are more than 100000 shards")
}

// Sources are read at the same time; the files are those of one source in another
// order, of documents that two sources have too, and of those omitted.
func TestManySources(t *testing.T) {
	docs := documents(4, 5)
	for i := range 6 {
		docs = append(docs, collect.Document{Dataset: "drama", ID: fmt.Sprint(i, "bad\xff"), Text: "Its name is not UTF-8."})
	}
	want := t.TempDir()
	o := collect.Options{MaxTokens: 7, DocumentsPerShard: 9}
	run(t, docs, want, o)
	require.FileExists(t, filepath.Join(want, "_omitted-00000.json"))
	for range 3 {
		dir := t.TempDir()
		rand.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		var sources []collect.Source
		for i, d := range docs {
			list := []collect.Document{d}
			if i%5 == 0 {
				list = append(list, docs[(i+1)%len(docs)]) // twice: also of the next source
			}
			sources = append(sources, collect.Slice(fmt.Sprint("source ", i), list))
		}
		rep, err := tryRun(t.Context(), miniModel(), dir, o, sources...)
		require.NoError(t, err)
		assert.Equal(t, 6+6, rep.ProblemCount)
		same(t, files(t, dir), files(t, want))
	}
}
