package collect_test

import (
	"context"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// However many batches are computed at once, the files are the same, and all
// is counted.
func TestAtOnce(t *testing.T) {
	docs := append(documents(7, 3), collect.Document{Dataset: "x", ID: "none"}) // no tokens
	o := collect.Options{Tokens: 40, Shard: 4, Batch: 64, Logits: true, RouterInput: true, Float: trace.Float16}
	want := t.TempDir()
	report := run(t, docs, want, o)
	for _, n := range []int{2, 5} {
		o.AtOnce = n
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

// Cancelling waits for the batches that are under way.
func TestAtOnceCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := t.TempDir()
	o := collect.Options{Tokens: 40, Shard: 2, Batch: 64, AtOnce: 3}
	o.Progress = func(p collect.Progress) {
		if p.Stage == collect.Collecting && p.Documents > 0 {
			cancel()
		}
	}
	m := must(model())
	sources := []collect.Source{collect.Slice("mini", documents(7, 3))}
	_, err := collect.Run(ctx, m, must(loadTokenizer()), sources, dir, o)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{{1}}})
	assert.NoError(t, err)
	o.Progress = nil
	run(t, documents(7, 3), dir, o)
	v, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	require.NoError(t, v.Err())
	assert.Equal(t, 21, v.Documents)
}
