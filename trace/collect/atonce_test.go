package collect_test

import (
	"context"
	"errors"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/collect"
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
		if got.Documents != report.Documents || got.Tokens != report.Tokens || got.Shards != report.Shards ||
			last.Documents != last.DocumentsTotal || last.Shards != last.ShardsTotal {
			t.Errorf("%d at once: %+v and %+v, want %+v", n, got, last, report)
		}
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
	if _, err := collect.Run(ctx, m, must(tokenizer()), sources, dir, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{{1}}}); err != nil {
		t.Error(err)
	}
	o.Progress = nil
	run(t, documents(7, 3), dir, o)
	if v, err := trace.Validate(dir, trace.ValidateOptions{}); err != nil || v.Err() != nil || v.Documents != 21 {
		t.Errorf("%+v, %v", v, err)
	}
}
