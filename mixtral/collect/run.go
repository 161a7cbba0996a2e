package collect

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
)

// run is one call of Run.
type run struct {
	model   *mixtral.Model
	tok     *tokenizer.Tokenizer
	sources []Source
	dir     string
	o       Options
	header  trace.Header
	report  Report
	start   time.Time
	told    time.Time
	collect time.Time // when the model began
	choice  *choice
	temp    string // the part's own folder
	todo    []*shard
	spill   *spill   // texts of todo
	now     Progress // of todo
	spare   *spareDocuments
	failed  int // documents in a row
	// failedShards could not be written, in a row.
	failedShards int
}

// Run chooses documents of the sources, computes their routing, and adds it to
// the trace in dir, which is made if need be. Called again after it was killed or
// cancelled, with the same arguments, it goes on.
//
// What can be left out is: a document that cannot be read, that has no tokens or
// whose routing does not fit the trace, and a shard that cannot be written. Each
// is in Report.Problems. An error is about the whole run; the report then says
// how far it came.
func Run(ctx context.Context, m *mixtral.Model, t *tokenizer.Tokenizer, sources []Source, dir string, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	for i, s := range sources {
		if s.Documents == nil {
			return nil, fmt.Errorf("collect: source %d, %q, has no documents function", i, s.Name)
		}
	}
	r := &run{model: m, tok: t, sources: sources, dir: dir, o: o.withDefaults(), start: time.Now()}
	err := r.run(ctx)
	r.report.Header = r.header
	r.report.Elapsed = time.Since(r.start)
	r.report.Peak = peakMemory()
	return &r.report, err
}

func (r *run) run(ctx context.Context) error {
	r.header = r.o.header(r.model)
	if err := r.header.Validate(); err != nil {
		return err
	}
	var err error
	if r.choice, err = r.choose(ctx); err != nil {
		return err
	}
	r.report.Chosen = int64(len(r.choice.docs))
	r.fillHeader()
	leave, err := r.enter()
	if leave != nil {
		defer leave()
	}
	if err != nil {
		return err
	}
	if err := r.agree(); err != nil {
		return err
	}
	if err := r.plan(); err != nil {
		return err
	}
	if len(r.todo) == 0 {
		return nil
	}
	if r.spill, err = newSpill(filepath.Join(r.temp, "texts")); err != nil {
		return err
	}
	defer r.spill.close()
	if err := r.read(ctx); err != nil {
		return err
	}
	return r.shards(ctx)
}

// fillHeader adds what decides the content of the trace.
func (r *run) fillHeader() {
	extra := r.header.Source.Extra
	extra["docs"] = "all"
	if r.o.Docs > 0 {
		extra["docs"] = strconv.Itoa(r.o.Docs)
	}
	extra["tokens"] = strconv.Itoa(r.o.Tokens)
	extra["batch"] = strconv.Itoa(r.o.Batch)
	extra["shard"] = strconv.Itoa(r.o.Shard)
	extra["float"] = "float32"
	if r.o.Float == trace.Float16 {
		extra["float"] = "float16"
	}
	extra["choice"] = r.choice.hash
}

// problem reports what was left out.
func (r *run) problem(p Problem) {
	r.report.ProblemCount++
	if len(r.report.Problems) < maxProblems {
		r.report.Problems = append(r.report.Problems, p)
	}
	if r.o.Problem != nil {
		r.o.Problem(p)
	}
}

// tell passes progress on, at most ten times a second.
func (r *run) tell(p Progress) {
	if r.o.Progress == nil || time.Since(r.told) < 100*time.Millisecond {
		return
	}
	r.tellNow(p)
}

func (r *run) tellNow(p Progress) {
	if r.o.Progress == nil {
		return
	}
	r.told = time.Now()
	p.Elapsed = time.Since(r.start)
	p.Peak = peakMemory()
	r.o.Progress(p)
}

// done is the progress of collecting.
func (r *run) done() Progress {
	p := r.now
	p.Stage = Collecting
	if s := time.Since(r.collect).Seconds(); s > 0 && p.Tokens > 0 {
		p.Rate = float64(p.Tokens) / s
		p.Left = time.Duration(float64(p.TokensTotal-p.Tokens) / p.Rate * float64(time.Second))
	}
	return p
}
