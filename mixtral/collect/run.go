package collect

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/expertspec/expertspec/trace"
)

// run is one call of Run.
type run struct {
	model   Model
	tok     Tokenizer
	sources []Source
	dir     string
	o       Options
	header  trace.Header
	report  Report
	reading sync.Mutex // of what the readers of several sources share
	start   time.Time
	shown   time.Time // when Progress was last called
	collect time.Time // when the model began
	choice  *choice
	temp    string // the part's own folder
	todo    []*shard
	spill   *spill   // texts of todo
	now     Progress // of todo
	// failed documents and failedShards are in a row.
	failed, failedShards int
}

// Run chooses documents of the sources, computes their routing, and adds it to
// the trace in dir, which is created if it does not exist. Called again with the
// same arguments after it was killed or cancelled, it resumes.
//
// Documents that cannot be read, have no tokens, or whose routing does not fit
// the trace are omitted, and so are shards that cannot be written: see
// Report.Problems. An error ends the whole run; the report has what was done
// before it.
func Run(ctx context.Context, m Model, t Tokenizer, sources []Source, dir string, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	for i, s := range sources {
		if s.Documents == nil {
			return nil, fmt.Errorf("collect: source %d, %q, has no Documents function", i, s.Name)
		}
	}
	r := &run{model: m, tok: t, sources: sources, dir: dir, o: o.withDefaults(), start: time.Now()}
	err := r.run(ctx)
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
	if r.o.DocumentsPerShard == 0 {
		r.o.DocumentsPerShard = documentsPerShard(len(r.choice.docs))
	}
	if err := r.fillHeader(); err != nil {
		return err
	}
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
	if err := r.plan(ctx); err != nil {
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
func (r *run) fillHeader() error {
	n, size := len(r.choice.docs), r.o.DocumentsPerShard
	r.header.Source.Shards = (n + size - 1) / size
	if r.header.Source.Shards > trace.MaxShards {
		return fmt.Errorf("collect: %d documents, %d in a shard, are more than %d shards", n, size, trace.MaxShards)
	}
	extra := r.header.Source.Extra
	extra["docs"] = "all"
	if r.o.DocumentsPerDataset > 0 {
		extra["docs"] = strconv.Itoa(r.o.DocumentsPerDataset)
	}
	extra["tokens"] = strconv.Itoa(r.o.MaxTokens)
	extra["batch"] = strconv.Itoa(r.o.BatchTokens)
	extra["shard"] = strconv.Itoa(r.o.DocumentsPerShard)
	extra["float"] = "float32"
	if r.o.Float == trace.Float16 {
		extra["float"] = "float16"
	}
	extra["choice"] = r.choice.hash
	return nil
}

// problem reports what is omitted.
func (r *run) problem(p Problem) {
	r.report.ProblemCount++
	if len(r.report.Problems) < maxProblems {
		r.report.Problems = append(r.report.Problems, p)
	}
	if r.o.Problem != nil {
		r.o.Problem(p)
	}
}

// show reports progress, at most ten times a second.
func (r *run) show(p Progress) {
	if time.Since(r.shown) >= 100*time.Millisecond {
		r.showNow(p)
	}
}

func (r *run) showNow(p Progress) {
	if r.o.Progress == nil {
		return
	}
	r.shown = time.Now()
	p.Elapsed = time.Since(r.start)
	p.Peak = peakMemory()
	r.o.Progress(p)
}

// collected returns the progress of collecting.
func (r *run) collected() Progress {
	p := r.now
	p.Stage = "collecting"
	p.TokensTotal = max(p.TokensTotal, p.Tokens) // a model may add tokens
	if s := time.Since(r.collect).Seconds(); s > 0 && p.Tokens > 0 {
		p.Rate = float64(p.Tokens) / s
		p.Remaining = time.Duration(float64(p.TokensTotal-p.Tokens) / p.Rate * float64(time.Second))
	}
	return p
}
