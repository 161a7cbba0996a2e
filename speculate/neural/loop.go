package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// job is what a [loop] trains. It makes batches, defines the network and
// evaluates it. B is a pointer to a batch in host memory, which the loop reuses.
//
// A batch has Batch/Accumulate/Devices tokens of [TrainOptions]. The gradient of a step
// is the mean of Accumulate batches of each device, so a job with masked tokens
// divides its loss by the number of tokens in a batch, including masked ones.
type job[B any] interface {
	// batch allocates a batch.
	batch() B
	// fill draws the next batch and overwrites b with it. It is called from one
	// goroutine, ahead of time. It returns the position after the batch.
	fill(b B) (position, error)
	// skip draws the next batch as fill does, without reading it.
	skip() (position, error)
	// inputs returns b's arrays as tensors, which the loop finalises. The graph is
	// built once for each number of tokens. They are for a device, and may be on it.
	inputs(b B, device compute.DeviceNum) ([]any, error)
	// resident returns arrays on a device that all its training batches refer to.
	resident(device compute.DeviceNum) []any
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
	state   []*tensors.Tensor // of each device values, first and second moments
	sums    []*tensors.Tensor // of each device, of gradients, in a step of several batches
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

// filled is a batch of each device that was read ahead.
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
			for d := 0; d < l.o.Devices && f.err == nil; d++ {
				if f.at, f.err = l.job.fill(b); f.err == nil {
					f.err = l.upload(&f, b, compute.DeviceNum(d))
				}
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

// upload appends the inputs of a device's batch. They are on the device already where
// its memory is not the host's.
func (l *loop[B]) upload(f *filled, b B, device compute.DeviceNum) error {
	inputs, err := l.job.inputs(b, device)
	f.inputs = append(f.inputs, inputs...)
	if err != nil || l.o.Backend.HasSharedBuffers() {
		return err
	}
	for _, in := range inputs {
		if x, ok := in.(*tensors.Tensor); ok {
			if err := x.ToDevice(l.o.Backend, device); err != nil {
				return err
			}
		}
	}
	return nil
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
	inputs, err := l.job.inputs(b, 0)
	if err != nil {
		return nil, nil, errors.Join(err, finalize(inputs))
	}
	res, err := call(l.forward, append(args, inputs...), inputs)
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

// call runs e on args, and finalises those that are inputs.
func call(e *graph.Exec, args, inputs []any) ([]*tensors.Tensor, error) {
	out, err := e.Call(args...)
	if f := finalize(inputs); err == nil {
		err = f
	}
	return out, err
}

// donated appends tensors of a device to args which the backend may overwrite.
func (l *loop[B]) donated(args []any, xs []*tensors.Tensor, device compute.DeviceNum) ([]any, error) {
	for _, s := range xs {
		d, err := graph.DonateTensorBuffer(s, l.o.Backend, device)
		if err != nil {
			return nil, err
		}
		args = append(args, d)
	}
	return args, nil
}

// launch runs e on args of each device and its share of inputs, which it finalises.
// It copies the outputs of each device to its share of xs, except the last where there
// is one more, the loss, which is the same of all devices and is returned.
func (l *loop[B]) launch(e *graph.Exec, args func(d int) ([]any, error), inputs []any, xs []*tensors.Tensor) (loss float64, err error) {
	var all []any
	devices := l.o.Devices
	for d := range devices {
		as, err := args(d)
		if err != nil {
			return 0, errors.Join(err, finalize(inputs))
		}
		all = append(append(all, as...), part(inputs, d, devices)...)
	}
	out, err := call(e, all, inputs)
	for d := 0; d < devices && err == nil; d++ {
		of, to := part(out, d, devices), part(xs, d, devices)
		if copy(to, of); len(of) > len(to) {
			loss, err = scalar(of[len(to)])
		}
	}
	return loss, err
}

// part returns the i-th of n equal parts of xs.
func part[T any](xs []T, i, n int) []T { return xs[len(xs)/n*i:][:len(xs)/n] }

// one processes the i-th batch of a step and returns its loss, mean over heads.
// The last batch completes the step.
func (l *loop[B]) one(i int, inputs []any) (float64, error) {
	if l.o.Accumulate == 1 {
		return l.update(inputs)
	}
	loss, err := l.launch(l.sum, func(d int) ([]any, error) {
		var args []any
		for _, s := range part(l.state, d, l.o.Devices)[:len(l.params)] {
			args = append(args, s)
		}
		args, err := l.donated(args, part(l.sums, d, l.o.Devices), compute.DeviceNum(d))
		return append(append(args, float32(min(i, 1))), l.job.resident(compute.DeviceNum(d))...), err
	}, inputs, l.sums)
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
	rate, k := l.rate(l.at()), float64(l.Done+1)
	return l.launch(l.step, func(d int) ([]any, error) {
		args, err := l.donated(nil, part(l.state, d, l.o.Devices), compute.DeviceNum(d))
		args = append(args, float32(rate/(1-math.Pow(beta1, k))), float32(rate*weightDecay), float32(1/(1-math.Pow(beta2, k))))
		if l.sums == nil {
			args = append(args, l.job.resident(compute.DeviceNum(d))...)
		}
		for _, s := range part(l.sums, d, l.o.Devices) {
			args = append(args, s)
		}
		return args, err
	}, inputs, l.state)
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
