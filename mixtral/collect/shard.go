package collect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/expertspec/expertspec/trace"
)

// maxFailedShards in a row end a run: the disk stays full.
const maxFailedShards = 3

// shardWriter is what a shard needs of a trace.Writer.
type shardWriter interface {
	Write(d *trace.Document) error
	Close() error
	Abort()
}

func createShard(dir string, h trace.Header, o trace.WriterOptions) (shardWriter, error) {
	return trace.Create(dir, h, o)
}

// job is a shard that is being made.
type job struct {
	*shard
	at   int    // in run.todo
	docs []text // in the order of the file
	lost atomic.Bool

	// Of the goroutine that writes.
	w         shardWriter // nil: not created
	temp      string
	refused   error // by w, for the last document
	problems  []Problem
	documents int64
	tokens    int64
	err       error // the shard cannot be written; then lost is set
}

func (j *job) lose(err error) {
	j.err = err
	j.lost.Store(true)
}

// create creates the shard's file under a hidden name.
func (r *run) create(j *job) {
	j.problems = append(j.problems, j.omitted...)
	j.temp = filepath.Join(r.temp, shardsName)
	err := os.RemoveAll(j.temp)
	if err == nil {
		j.w, err = r.o.createShard(j.temp, r.header, trace.WriterOptions{Float: r.o.Float, ShardBytes: 1 << 62})
	}
	if err != nil {
		j.lose(err)
	}
}

// write writes the documents of a batch, except those omitted.
func (r *run) write(j *job, docs []*trace.Document, omitted []Problem) {
	j.problems = append(j.problems, omitted...)
	for _, d := range docs {
		if j.err != nil {
			return
		}
		err := j.w.Write(d)
		switch {
		case err == nil:
			j.documents++
			j.tokens += int64(d.Len())
			r.now.Documents++
			r.now.Tokens += int64(d.Len())
		case j.refused != nil && errors.Is(err, j.refused):
			j.lose(err) // a writer repeats its error once its file is lost
		default:
			j.refused = err
			j.problems = append(j.problems, Problem{d.Dataset, d.ID, err})
		}
	}
}

// finish completes the shard's file, publishes it, and reports on it. Its error
// ends the run.
func (r *run) finish(j *job) error {
	if j.err == nil {
		j.err = r.complete(j)
	}
	j.abort()
	if j.err != nil {
		return r.failedShard(j)
	}
	for _, p := range j.problems {
		r.problem(p)
	}
	r.report.Documents += j.documents
	r.report.Tokens += j.tokens
	r.report.Shards++
	r.now.Shards++
	r.failedShards = 0
	r.showNow(r.collected())
	return nil
}

func (r *run) complete(j *job) error {
	if err := j.w.Close(); err != nil {
		return err
	}
	if err := r.writeOmitted(j.number, j.problems); err != nil {
		return err
	}
	return r.publish(filepath.Join(j.temp, "shard-00000.parquet"), r.path(j.number))
}

// abort deletes the shard's file unless it is complete.
func (j *job) abort() {
	if j.w != nil {
		j.w.Abort()
	}
}

// publish gives a complete file its name and makes the name durable.
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

// errEnough ends a run without being its error.
var errEnough = errors.New("too many shards fail")

// failedShard reports a shard that cannot be written.
func (r *run) failedShard(j *job) error {
	r.now.Documents -= j.documents
	r.now.Tokens -= j.tokens
	err := fmt.Errorf("%s was not written: %w", filepath.Base(r.path(j.number)), j.err)
	for _, p := range j.omitted {
		r.problem(p)
	}
	for i := range j.docs {
		r.problem(Problem{j.docs[i].Dataset, j.docs[i].ID, err})
	}
	r.failedShards++
	rest := len(r.todo) - 1 - j.at
	if r.failedShards < maxFailedShards && rest > 0 {
		return nil
	}
	if r.report.Shards+r.report.Existing == 0 {
		return err
	}
	if rest > 0 {
		r.problem(Problem{Err: fmt.Errorf("%d more shards, beginning with %s, were not tried", rest, filepath.Base(r.path(r.todo[j.at+1].number)))})
	}
	return errEnough
}
