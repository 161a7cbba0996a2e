package collect

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
)

// pass is a batch on its way through the model.
type pass struct {
	job         *job
	first, last bool   // of the job
	texts       []text // none where a job has nothing to compute
	rec         *recorder
	done        chan struct{}
	err         error // once done
}

// passes lists the batches of all shards to make.
type passes struct {
	r     *run
	at    int // in todo, of the next job
	job   *job
	texts [][]text // batches left of job
}

// next returns the next pass; nil: there are no more.
func (p *passes) next() (*pass, error) {
	first := p.job == nil
	if first {
		if p.at == len(p.r.todo) {
			return nil, nil
		}
		p.job = newJob(p.r.todo[p.at], p.at)
		p.at++
		docs := make([]text, len(p.job.places))
		for i, place := range p.job.places {
			var err error
			if docs[i], err = p.r.spill.get(place, p.r.choice.names); err != nil {
				return nil, err
			}
		}
		p.texts = p.r.batches(docs)
		p.job.docs = docs
	}
	x := &pass{job: p.job, first: first, done: make(chan struct{})}
	if p.job.isLost() {
		p.texts = nil // the rest need not be computed
	}
	if len(p.texts) > 0 {
		x.texts, p.texts = p.texts[0], p.texts[1:]
	}
	if len(p.texts) == 0 {
		x.last, p.job = true, nil
	}
	return x, nil
}

// compute has the model compute a pass.
func (r *run) compute(ctx context.Context, p *pass) {
	p.rec = newRecorder(&r.header, r.spare)
	if len(p.texts) == 0 {
		close(p.done)
		return
	}
	tokens := p.rec.begin(p.texts)
	go func() {
		defer close(p.done)
		p.err = r.forward(ctx, tokens, p.rec)
	}()
}

func (r *run) forward(ctx context.Context, tokens [][]int32, rec *recorder) error {
	_, err := r.model.Forward(ctx, mixtral.Request{
		Tokens: tokens, Logits: mixtral.NoLogits, Observe: rec.observe, RouterInput: len(r.header.InputLayers) > 0,
	})
	if err != nil {
		return err
	}
	return rec.end()
}

// recorded returns what a pass computed. Had it failed, each document is tried
// alone, so that one that makes the model overflow, say, does not take others
// with it.
func (r *run) recorded(ctx context.Context, p *pass) ([]*trace.Document, []Problem, error) {
	if p.err == nil {
		if len(p.texts) > 0 {
			r.failed = 0
		}
		return p.rec.docs, nil, nil
	}
	r.spare.docs = append(r.spare.docs, p.rec.docs...)
	var problems []Problem
	var whole []*trace.Document
	for i, t := range p.texts {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		err := r.forward(ctx, p.rec.begin(p.texts[i:i+1]), p.rec)
		if err == nil {
			whole = append(whole, p.rec.docs...)
			r.failed = 0
			continue
		}
		r.spare.docs = append(r.spare.docs, p.rec.docs...)
		if r.failed++; r.failed == maxFailedDocuments {
			return nil, nil, fmt.Errorf("%s: document %s, the %dth in a row that fails: %w", t.dataset, t.id, r.failed, err)
		}
		problems = append(problems, Problem{t.dataset, t.id, err})
	}
	return whole, problems, ctx.Err()
}
