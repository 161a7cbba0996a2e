package collect_test

import (
	"context"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
)

// The files do not depend on the number of batches that are computed at the same
// time, and everything is counted.
func TestConcurrency(t *testing.T) {
	docs := append(documents(7, 3), collect.Document{Dataset: "x", ID: "none"}) // no tokens
	o := collect.Options{MaxTokens: 40, DocumentsPerShard: 4, BatchTokens: 64, Logits: true, RouterInput: true, Float: trace.Float16}
	want := t.TempDir()
	report := run(t, docs, want, o)
	for _, n := range []int{2, 5} {
		o.Concurrency = n
		var last collect.Progress
		o.Progress = func(p collect.Progress) { last = p }
		dir := t.TempDir()
		got := run(t, docs, dir, o)
		same(t, files(t, dir), files(t, want))
		assert.Equal(t, report.Documents, got.Documents)
		assert.Equal(t, report.Tokens, got.Tokens)
		assert.Equal(t, report.Shards, got.Shards)
		assert.Equal(t, last.DocumentsTotal, last.Documents)
		assert.Equal(t, last.ShardsTotal, last.Shards)
	}
}

// Cancelling waits for the batches that are being computed.
func TestConcurrencyCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	o := collect.Options{MaxTokens: 40, DocumentsPerShard: 2, BatchTokens: 64, Concurrency: 3}
	o.Progress = func(p collect.Progress) {
		if p.Stage == "collecting" && p.Documents > 0 {
			cancel()
		}
	}
	m := must(model())
	_, err := tryRun(ctx, collect.Mixtral(m), dir, o, collect.Slice("mini", documents(7, 3)))
	assert.ErrorIs(t, err, context.Canceled)
	_, err = m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{{1}}})
	assert.NoError(t, err)
	o.Progress = nil
	run(t, documents(7, 3), dir, o)
	valid(t, dir, 21)
}

// spares checks that documents are reused within a data set only.
type spares struct {
	collect.Model
	t        *testing.T
	datasets map[int32]string // by the second token, the first of the text
	reused   *int
}

func (s spares) Record(ctx context.Context, h *trace.Header, tokens [][]int32, spare []*trace.Document) ([]*trace.Document, error) {
	for _, d := range spare {
		*s.reused++
		assert.Equal(s.t, s.datasets[tokens[0][1]], d.Dataset)
	}
	return s.Model.Record(ctx, h, tokens, spare)
}

// What a data set leaves in memory is not kept while the next is computed.
func TestSpares(t *testing.T) {
	tok := must(loadTokenizer())
	var docs []collect.Document
	datasets := map[int32]string{}
	for set, word := range map[string]string{"a": "apple", "b": "banana", "c": "cherry"} {
		datasets[tok.Encode(word, true)[1]] = set
		for i := range 12 {
			docs = append(docs, collect.Document{Dataset: set, ID: string(rune('a' + i)), Text: word + " pie"})
		}
	}
	reused := 0
	m := spares{collect.Mixtral(must(model())), t, datasets, &reused}
	_, err := tryRun(t.Context(), m, t.TempDir(), collect.Options{DocumentsPerShard: 6, BatchTokens: 8}, collect.Slice("x", docs))
	assert.NoError(t, err)
	assert.Positive(t, reused)
}
