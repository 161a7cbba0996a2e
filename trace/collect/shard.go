package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
)

const (
	// maxFailedShards in a row end a run: a full disk stays full.
	maxFailedShards = 3
	// maxFailedDocuments in a row end a run: then it is not the documents.
	maxFailedDocuments = 8
)

// shardWriter is what a shard needs of a trace.Writer.
type shardWriter interface {
	Write(d *trace.Document) error
	Close() error
	Abort()
}

func createShard(dir string, h trace.Header, o trace.WriterOptions) (shardWriter, error) {
	return trace.Create(dir, h, o)
}

// shards makes all shards of todo. One that cannot be written is reported and
// passed over. While a shard's file is made whole the next one is computed.
func (r *run) shards(ctx context.Context) (err error) {
	r.collect = time.Now()
	rec := newRecorder(&r.header)
	w := r.startWriting()
	defer func() {
		w.stop()
		if e := r.settleLast(rec, w); err == nil {
			err = e
		}
		if err == errEnough {
			err = nil
		}
	}()
	for i, s := range r.todo {
		j := newJob(s, i)
		if err := r.compute(ctx, j, rec, w); err != nil {
			return err
		}
		w.last = j
		if r.failedShards > 0 { // while shards fail, none is tried ahead
			<-j.done
			if err := r.settleLast(rec, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleLast accounts for the last job that was computed, if it is done.
func (r *run) settleLast(rec *recorder, w *writing) error {
	j := w.last
	if j == nil {
		return nil
	}
	select {
	case <-j.done:
		w.last = nil
		return r.settle(j, rec, w)
	default:
		return nil
	}
}

// errEnough ends a run without being its error.
var errEnough = errors.New("too many shards fail")

// settle accounts for a job that is done. Its error ends the run.
func (r *run) settle(j *job, rec *recorder, w *writing) error {
	r.takeBack(rec, w)
	if j.err == nil {
		for _, p := range j.problems {
			r.problem(p)
		}
		r.report.Documents += j.documents
		r.report.Tokens += j.tokens
		r.report.Shards++
		r.now.Shards++
		r.failedShards = 0
		r.tellNow(r.done())
		return nil
	}
	r.now.Documents -= j.documents
	r.now.Tokens -= j.tokens
	err := error(&writeError{filepath.Base(r.path(j.number)), j.err})
	for _, p := range j.left {
		r.problem(p)
	}
	for i := range j.docs {
		r.problem(Problem{j.docs[i].dataset, j.docs[i].id, err})
	}
	r.failedShards++
	if r.failedShards < maxFailedShards && j.at < len(r.todo)-1 {
		return nil
	}
	if r.report.Shards+r.report.Standing == 0 {
		return err
	}
	if rest := len(r.todo) - 1 - j.at; rest > 0 {
		r.problem(Problem{Err: fmt.Errorf("%d more shards, from %s on, were not tried", rest, filepath.Base(r.path(r.todo[j.at+1].number)))})
	}
	return errEnough
}

// takeBack takes the arrays of written batches back, and counts these.
func (r *run) takeBack(rec *recorder, w *writing) {
	for {
		select {
		case x := <-w.back:
			rec.spare = append(rec.spare, x.docs...)
			x.job.documents += x.documents
			x.job.tokens += x.tokens
			r.now.Documents += x.documents
			r.now.Tokens += x.tokens
		default:
			return
		}
	}
}

// writeError is an error about a shard's file.
type writeError struct {
	shard string
	err   error
}

func (e *writeError) Error() string { return fmt.Sprintf("%s was not written: %v", e.shard, e.err) }
func (e *writeError) Unwrap() error { return e.err }

// compute computes one shard and has it written.
func (r *run) compute(ctx context.Context, j *job, rec *recorder, w *writing) error {
	j.docs = make([]text, len(j.places))
	for i, p := range j.places {
		var err error
		if j.docs[i], err = r.spill.get(p, r.choice.names); err != nil {
			return err
		}
	}
	w.begin(j)
	for _, b := range r.batches(j.docs) {
		left, err := r.forward(ctx, b, rec)
		if err != nil {
			return err
		}
		w.write(j, rec.docs, left)
		rec.docs = nil
		r.takeBack(rec, w)
		r.tell(r.done())
		if err := r.settleLast(rec, w); err != nil {
			return err
		}
		if j.isLost() {
			break
		}
	}
	w.finish(j)
	return r.settleLast(rec, w) // done, for files are made one after the other
}

// publish gives a whole file its name and makes the name last.
func (r *run) publish(temp, path string) error {
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	dir.Sync() // where folders cannot be synced, the system does it
	return nil
}

// forward computes a batch into rec.docs. Should it fail, each document is tried
// alone, so that one that makes the model overflow, say, does not take others
// with it.
func (r *run) forward(ctx context.Context, b []text, rec *recorder) ([]Problem, error) {
	err := r.forwardOnce(ctx, b, rec)
	if err == nil {
		r.failed = 0
		return nil, nil
	}
	var problems []Problem
	var whole []*trace.Document
	for i := range b {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err = r.forwardOnce(ctx, b[i:i+1], rec); err == nil {
			whole = append(whole, rec.docs...)
			rec.docs = rec.docs[:0] // kept from being used again
			r.failed = 0
			continue
		}
		if r.failed++; r.failed == maxFailedDocuments {
			return nil, fmt.Errorf("%s: document %s, the %dth in a row that fails: %w", b[i].dataset, b[i].id, r.failed, err)
		}
		problems = append(problems, Problem{b[i].dataset, b[i].id, err})
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rec.docs = whole
	return problems, nil
}

func (r *run) forwardOnce(ctx context.Context, b []text, rec *recorder) error {
	_, err := r.model.Forward(ctx, mixtral.Request{
		Tokens: rec.begin(b), Logits: mixtral.NoLogits, Observe: rec.observe, RouterInput: len(r.header.InputLayers) > 0,
	})
	if err != nil {
		return err
	}
	return rec.end()
}

// batches sorts a shard's documents by data set and length and cuts them into
// batches of one data set and of lengths that round up to the same power of two.
func (r *run) batches(docs []text) [][]text {
	slices.SortFunc(docs, func(a, b text) int {
		return cmp.Or(cmp.Compare(a.dataset, b.dataset), cmp.Compare(len(a.tokens), len(b.tokens)), cmp.Compare(a.id, b.id))
	})
	bucket := func(t *text) int { return 1 << bits.Len(uint(len(t.tokens)-1)) }
	var out [][]text
	from := 0
	for i := range docs {
		size := bucket(&docs[i])
		if i > from && (docs[i].dataset != docs[from].dataset || size != bucket(&docs[from]) || (i-from+1)*size > r.batch()) {
			out = append(out, docs[from:i])
			from = i
		}
	}
	if from < len(docs) {
		out = append(out, docs[from:])
	}
	return out
}

// batch is the most tokens of a batch, so that what it records is bounded.
func (r *run) batch() int {
	m := &r.header.Model
	token := 4 * (2*m.Layers*m.TopK + len(r.header.LogitLayers)*m.Experts + len(r.header.InputLayers)*m.Hidden)
	return min(r.o.Batch, max(1, maxRecord/token))
}
