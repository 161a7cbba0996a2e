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
	r.spare = new(spareDocuments)
	w := r.startWriting()
	ctx, cancel := context.WithCancel(ctx)
	var ahead []*pass
	defer func() {
		cancel()
		for _, p := range ahead {
			<-p.done
		}
		w.stop()
		if e := r.settleLast(w); err == nil {
			err = e
		}
		if err == errEnough {
			err = nil
		}
	}()
	todo := passes{r: r}
	for {
		for len(ahead) < r.o.AtOnce {
			p, err := todo.next()
			if err != nil {
				return err
			}
			if p == nil {
				break
			}
			r.compute(ctx, p)
			ahead = append(ahead, p)
		}
		if len(ahead) == 0 {
			return nil
		}
		<-ahead[0].done
		if err := r.finished(ctx, ahead[0], w); err != nil {
			return err
		}
		ahead = ahead[1:]
	}
}

// finished has what a pass computed written. It is called in order.
func (r *run) finished(ctx context.Context, p *pass, w *writing) error {
	if p.first {
		w.begin(p.job)
	}
	docs, left, err := r.recorded(ctx, p)
	if err != nil {
		return err
	}
	w.write(p.job, docs, left)
	r.takeBack(w)
	r.tell(r.done())
	if err := r.settleLast(w); err != nil {
		return err
	}
	if !p.last {
		return nil
	}
	w.finish(p.job)
	// The job before is done, for files are made one after the other.
	if err := r.settleLast(w); err != nil {
		return err
	}
	w.last = p.job
	if r.failedShards > 0 { // while shards fail, no file is begun ahead
		<-p.job.done
		return r.settleLast(w)
	}
	return nil
}

// settleLast accounts for the last job that was computed, if it is done.
func (r *run) settleLast(w *writing) error {
	j := w.last
	if j == nil {
		return nil
	}
	select {
	case <-j.done:
		w.last = nil
		return r.settle(j, w)
	default:
		return nil
	}
}

// errEnough ends a run without being its error.
var errEnough = errors.New("too many shards fail")

// settle accounts for a job that is done. Its error ends the run.
func (r *run) settle(j *job, w *writing) error {
	r.takeBack(w)
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
func (r *run) takeBack(w *writing) {
	for {
		select {
		case x := <-w.back:
			r.spare.docs = append(r.spare.docs, x.docs...)
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
