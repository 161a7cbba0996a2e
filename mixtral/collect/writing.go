package collect

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/expertspec/expertspec/trace"
)

// writing does what is about files on a goroutine of its own, in order, so that
// the model need not wait for it. While one batch is written and the next is
// computed, there are no others.
type writing struct {
	r    *run
	todo chan func()
	done chan struct{}
	back chan written
	open *job // of which the file is not whole
	last *job // computed and not settled; of the model's goroutine
}

// written is a batch whose arrays are free again.
type written struct {
	job               *job
	docs              []*trace.Document
	documents, tokens int64
}

// job is a shard that is made. It belongs to the goroutine of writing until done
// is closed.
type job struct {
	*shard
	at       int    // in run.todo
	docs     []text // in the order of the file
	temp     string
	w        shardWriter
	last     error
	problems []Problem     // documents that are left out
	err      error         // the shard was not written
	lost     chan struct{} // closed early where err is set
	done     chan struct{}

	// Of the model's goroutine: what is known to be written.
	documents, tokens int64
}

func newJob(s *shard, at int) *job {
	return &job{shard: s, at: at, lost: make(chan struct{}), done: make(chan struct{})}
}

func (r *run) startWriting() *writing {
	// Two batches may come back before anybody looks.
	w := &writing{r: r, todo: make(chan func()), done: make(chan struct{}), back: make(chan written, 2)}
	go func() {
		defer close(w.done)
		for f := range w.todo {
			f()
		}
		if w.open != nil {
			w.open.w.Abort()
		}
	}()
	return w
}

// stop waits for what is under way and gives up a shard that is not whole.
func (w *writing) stop() {
	close(w.todo)
	<-w.done
}

// begin opens a shard's file under a hidden name.
func (w *writing) begin(j *job) {
	w.todo <- func() {
		j.temp = filepath.Join(w.r.temp, "shard")
		if err := os.RemoveAll(j.temp); err != nil {
			j.lose(err)
			return
		}
		var err error
		j.w, err = w.r.o.createShard(j.temp, w.r.header, trace.WriterOptions{Float: w.r.o.Float, ShardBytes: 1 << 62})
		if err != nil {
			j.lose(err)
			return
		}
		w.open = j
		j.problems = append(j.problems, j.left...)
	}
}

// isLost says whether it makes no sense to compute the rest.
func (j *job) isLost() bool {
	select {
	case <-j.lost:
		return true
	default:
		return false
	}
}

// lose gives the shard up.
func (j *job) lose(err error) {
	j.err = err
	close(j.lost)
}

// write writes a batch, of which some documents were left out.
func (w *writing) write(j *job, docs []*trace.Document, left []Problem) {
	w.todo <- func() {
		x := written{job: j, docs: docs}
		j.problems = append(j.problems, left...)
		for _, d := range docs {
			if j.err != nil {
				break
			}
			err := j.w.Write(d)
			switch {
			case err == nil:
				x.documents++
				x.tokens += int64(d.Len())
			case j.last != nil && errors.Is(err, j.last):
				j.lose(err) // a writer repeats itself once its file is lost
			default:
				j.last = err
				j.problems = append(j.problems, Problem{d.Dataset, d.ID, err})
			}
		}
		w.back <- x
	}
}

// finish makes the shard's file whole and synced, and gives it its name.
func (w *writing) finish(j *job) {
	w.todo <- func() {
		defer close(j.done)
		if j.err == nil {
			j.err = w.whole(j)
		}
		if w.open != nil {
			w.open.w.Abort() // does nothing to a whole file
		}
		w.open = nil
	}
}

func (w *writing) whole(j *job) error {
	if err := j.w.Close(); err != nil {
		return err
	}
	if err := w.r.writeLeft(j.number, j.problems); err != nil {
		return err
	}
	return w.r.publish(filepath.Join(j.temp, "shard-00000.parquet"), w.r.path(j.number))
}
