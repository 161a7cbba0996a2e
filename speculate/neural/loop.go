package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// job is what a [loop] trains. It makes batches, defines the network and
// evaluates it. B is a pointer to a batch in host memory, which the loop reuses.
//
// A batch has Batch/Accumulate tokens of [TrainOptions]. The gradient of a step is
// the mean of Accumulate batches, so a job with masked tokens divides its loss by
// the number of tokens in a batch, including masked ones.
type job[B any] interface {
	// batch allocates a batch.
	batch() B
	// fill draws the next batch and overwrites b with it. It is called from one
	// goroutine, ahead of time. It returns the position after the batch.
	fill(b B) (position, error)
	// skip draws the next batch as fill does, without reading it.
	skip() (position, error)
	// inputs returns b's arrays as tensors, which the loop finalises. The graph is
	// built once for each number of tokens.
	inputs(b B) ([]any, error)
	// resident returns arrays on the backend that all training batches refer to.
	resident() []any
	// graph builds the network from the parameters by name, the resident arrays (none
	// when checking) and the inputs. It returns the mean loss of each head, [G], and
	// what check reads besides.
	graph(p map[string]*graph.Node, resident, in []*graph.Node) (losses, out *graph.Node)
	// check evaluates the network on validation documents. It returns the loss, mean
	// over heads, by which the best state is chosen, and recall@K. forward runs the
	// graph on a batch.
	check(forward func(b B) (losses, out []float32, err error)) (loss, recall float64, err error)
}

// plan describes a job.
type plan struct {
	name   string
	heads  int // G
	steps  int
	params []*param // with their initial values, which the loop does not change
	// identity holds what a resumed training must have in common with the
	// interrupted one beside its options, for example the configuration. Values are
	// encoded as JSON.
	identity map[string]any
	started  time.Time
}

// loop trains a job's parameters with AdamW. Parameters and moments stay on the
// backend; a step transfers only its batches and the loss.
type loop[B any] struct {
	plan
	o       TrainOptions
	job     job[B]
	forward *graph.Exec
	sum     *graph.Exec // adds a batch's gradient to sums; nil where a step is one batch
	step    *graph.Exec
	state   []*tensors.Tensor // values, first and second moments
	sums    []*tensors.Tensor // of gradients, in a step of several batches
	progress
	best  [][]float32
	info  Info
	first time.Time // when the first step was done
}

// progress is the state of a training that is stored.
type progress struct {
	Done     int           `json:"done"`  // steps
	Since    int           `json:"since"` // checks since the best
	Position position      `json:"position"`
	BestLoss float64       `json:"best_loss"`
	RecallK  float64       `json:"recall_k"` // at the best
	Before   time.Duration `json:"before"`   // wall time, before an interruption
}

// newLoop is called with options that have their defaults. The loop must be
// closed after use.
func newLoop[B any](p plan, j job[B], o TrainOptions) (*loop[B], error) {
	l := &loop[B]{plan: p, o: o, job: j, progress: progress{BestLoss: math.MaxFloat64}}
	for _, p := range l.params {
		l.info.Parameters += int64(p.size())
	}
	return l, l.build()
}

func (l *loop[B]) close() {
	for _, x := range append(l.state, l.sums...) {
		_ = x.FinalizeAll()
	}
	for _, e := range []*graph.Exec{l.forward, l.sum, l.step} {
		if e != nil {
			e.Finalize()
		}
	}
}

// filled is a batch that was read ahead.
type filled struct {
	inputs []any
	at     position
	err    error
}

// ahead reads batches and uploads them in a goroutine until ctx ends.
func (l *loop[B]) ahead(ctx context.Context, wg *sync.WaitGroup) <-chan filled {
	ready := make(chan filled, 1)
	wg.Go(func() {
		b := l.job.batch()
		for ctx.Err() == nil {
			var f filled
			if f.at, f.err = l.job.fill(b); f.err == nil {
				f.inputs, f.err = l.uploaded(b)
			}
			select {
			case ready <- f:
			case <-ctx.Done():
				_ = finalize(f.inputs)
			}
		}
		for len(ready) > 0 {
			_ = finalize((<-ready).inputs)
		}
	})
	return ready
}

// uploaded returns a batch's inputs. They are on the backend already where its
// memory is not the host's.
func (l *loop[B]) uploaded(b B) ([]any, error) {
	inputs, err := l.job.inputs(b)
	if err != nil || l.o.Backend.HasSharedBuffers() {
		return inputs, err
	}
	for _, in := range inputs {
		if x, ok := in.(*tensors.Tensor); ok {
			if err := x.ToDevice(l.o.Backend, 0); err != nil {
				return inputs, err
			}
		}
	}
	return inputs, nil
}

func finalize(inputs []any) (err error) {
	for _, in := range inputs {
		if x, ok := in.(*tensors.Tensor); ok {
			if f := x.FinalizeAll(); err == nil {
				err = f
			}
		}
	}
	return err
}

// run takes all steps. Batches are read while the backend works.
func (l *loop[B]) run(ctx context.Context) error {
	if err := l.restore(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ready := l.ahead(ctx, &wg)
	sum, last, lastDone := 0.0, time.Now(), l.Done
	checks := l.checksDue()
	for l.Done < l.steps {
		for i := range l.o.Accumulate {
			var f filled
			select {
			case <-ctx.Done():
				return ctx.Err()
			case f = <-ready:
			}
			if f.err == nil {
				f.err = ctx.Err() // select takes either case if both are ready
			}
			if f.err != nil {
				return errors.Join(f.err, finalize(f.inputs))
			}
			loss, err := l.one(i, f.inputs)
			if err != nil {
				return fmt.Errorf("neural: %s, step %d: %w", l.name, l.Done, err)
			}
			l.Position = f.at
			sum += loss / float64(l.o.Accumulate)
		}
		if math.IsNaN(sum) || math.IsInf(sum, 0) {
			return fmt.Errorf("neural: %s diverged: the training loss is not finite at step %d; use a lower rate", l.name, l.Done)
		}
		if l.Done++; l.first.IsZero() {
			l.first = time.Now()
		}
		if l.checksDue() == checks {
			continue
		}
		checks = l.checksDue()
		n := l.Done - lastDone
		p := Progress{Name: l.name, Step: l.Done, Steps: l.steps, Loss: sum / float64(n), TokensPerSec: float64(n*l.o.Batch) / time.Since(last).Seconds()}
		stop, err := l.check(p)
		if err != nil {
			return err
		}
		if stop {
			break
		}
		sum, last, lastDone = 0, time.Now(), l.Done
	}
	i := &l.info
	i.Tokens, i.Epochs = int64(l.Done)*int64(l.o.Batch), l.Position.Passes
	i.Loss, i.RecallK = l.BestLoss, l.RecallK
	i.Seconds, i.Seed, i.Backend = l.elapsed().Seconds(), l.o.Seed, l.o.Backend.Name()
	return l.forget()
}

func (l *loop[B]) elapsed() time.Duration { return l.Before + time.Since(l.started) }

// check evaluates the network, keeps it if it is the best so far, and reports
// whether training ends.
func (l *loop[B]) check(p Progress) (stop bool, err error) {
	valid, recall, err := l.job.check(l.infer)
	if err != nil {
		return false, err
	}
	if math.IsNaN(valid) || math.IsInf(valid, 0) {
		return false, fmt.Errorf("neural: %s diverged: the validation loss is not finite at step %d; use a lower rate", l.name, l.Done)
	}
	if l.Since++; valid < l.BestLoss {
		l.Since, l.BestLoss, l.RecallK = 0, valid, recall
		if err := l.keep(); err != nil {
			return false, err
		}
	}
	stop = l.Since >= l.o.Patience || l.at() >= float64(l.steps)
	if !stop {
		if err := l.write(); err != nil {
			return false, err
		}
	}
	if l.o.Progress != nil {
		p.ValidLoss, p.ValidRecallK, p.ImprovedSince = valid, recall, l.Since
		l.o.Progress(p)
	}
	return stop, nil
}

// infer runs the network on one batch; see job.check.
func (l *loop[B]) infer(b B) (losses, out []float32, err error) {
	args := make([]any, 0, len(l.params)+8)
	for _, s := range l.state[:len(l.params)] {
		args = append(args, s)
	}
	inputs, err := l.job.inputs(b)
	if err != nil {
		return nil, nil, errors.Join(err, finalize(inputs))
	}
	res, err := call(l.forward, args, inputs)
	if err != nil {
		return nil, nil, err
	}
	if losses, err = tensors.CopyFlatData[float32](res[0]); err == nil {
		out, err = tensors.CopyFlatData[float32](res[1])
	}
	for _, x := range res {
		if e := x.FinalizeAll(); err == nil {
			err = e
		}
	}
	return losses, out, err
}

// call runs e on args and inputs, and finalises inputs.
func call(e *graph.Exec, args, inputs []any) ([]*tensors.Tensor, error) {
	out, err := e.Call(append(args, inputs...)...)
	if f := finalize(inputs); err == nil {
		err = f
	}
	return out, err
}

// donated appends tensors to args which the backend may overwrite.
func (l *loop[B]) donated(args []any, xs []*tensors.Tensor) ([]any, error) {
	for _, s := range xs {
		d, err := graph.DonateTensorBuffer(s, l.o.Backend, 0)
		if err != nil {
			return nil, err
		}
		args = append(args, d)
	}
	return args, nil
}

// one processes the i-th batch of a step and returns its loss, mean over heads.
// The last batch completes the step.
func (l *loop[B]) one(i int, inputs []any) (float64, error) {
	n := len(l.params)
	if l.o.Accumulate == 1 {
		return l.update(inputs)
	}
	args := make([]any, 0, 2*n+8)
	for _, s := range l.state[:n] {
		args = append(args, s)
	}
	args, err := l.donated(args, l.sums)
	if err != nil {
		return 0, err
	}
	keep := float32(1)
	if i == 0 {
		keep = 0
	}
	args = append(append(args, keep), l.job.resident()...)
	out, err := call(l.sum, args, inputs)
	if err != nil {
		return 0, err
	}
	copy(l.sums, out)
	loss, err := scalar(out[n])
	if err == nil && i == l.o.Accumulate-1 {
		_, err = l.update(nil)
	}
	return loss, err
}

func scalar(x *tensors.Tensor) (float64, error) {
	v := tensors.ToScalar[float32](x)
	return float64(v), x.FinalizeAll()
}

// update takes a step with the gradient of a batch, and returns its loss, or with
// the sums of several batches.
func (l *loop[B]) update(inputs []any) (float64, error) {
	rate, k, n := l.rate(l.at()), float64(l.Done+1), len(l.params)
	args, err := l.donated(make([]any, 0, 4*n+16), l.state)
	if err != nil {
		return 0, err
	}
	args = append(args, float32(rate/(1-math.Pow(beta1, k))), float32(rate*weightDecay), float32(1/(1-math.Pow(beta2, k))))
	if l.sums == nil {
		args = append(args, l.job.resident()...)
	}
	for _, s := range l.sums {
		args = append(args, s)
	}
	out, err := call(l.step, args, inputs)
	if err != nil {
		return 0, err
	}
	copy(l.state, out)
	if len(out) == len(l.state) {
		return 0, nil
	}
	return scalar(out[len(l.state)])
}

// at returns the progress in steps: those done or, if that is more, the share of
// the time since the first step. The graphs are built before that.
func (l *loop[B]) at() float64 {
	at := float64(l.Done)
	if l.o.Limit > 0 && !l.first.IsZero() {
		share := float64(time.Since(l.first)) / float64(max(l.o.Limit-l.first.Sub(l.started), 1))
		at = max(at, min(share, 1)*float64(l.steps))
	}
	return at
}

// checksDue returns the number of checks that are due by now.
func (l *loop[B]) checksDue() int { return int(l.at() * float64(l.o.Checks) / float64(l.steps)) }

// rate returns the learning rate of a step: a linear rise, then half a cosine
// (Loshchilov and Hutter 2017).
func (l *loop[B]) rate(step float64) float64 {
	warm := math.Floor(max(1, warmup*float64(l.steps)))
	if step < warm {
		return l.o.Rate * (step + 1) / warm
	}
	x := (step - warm) / max(1, float64(l.steps)-warm)
	return l.o.Rate * (.01 + .99*(1+math.Cos(math.Pi*x))/2)
}
