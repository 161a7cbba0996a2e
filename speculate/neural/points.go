package neural

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/speculate"
)

// points draws the batches of a network whose examples are single tokens, at
// random, and holds the validation tokens on which it is judged.
type points struct {
	shape   speculate.Shape
	heads   []head
	sampler *sampler
	drawn   []point // the batch at hand
	valid   []point
	steps   int
}

// newPoints starts drawing from train, after reading it once if o does not say
// how many tokens to train on, and draws the validation tokens.
func newPoints(ctx context.Context, train, valid speculate.Data, o TrainOptions) (*points, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	p := &points{shape: shape, heads: heads(shape.Layers, o.Horizons), sampler: newSampler(train, o.PoolBytes, o.Seed), drawn: make([]point, o.Batch/o.Accumulate)}
	steps, err := steps(ctx, train, o)
	if err != nil {
		return nil, err
	}
	p.steps = steps
	vs := newSampler(valid, o.PoolBytes/2, o.Seed+1)
	defer vs.close()
	p.valid = make([]point, o.ValidTokens)
	if err := vs.draw(p.valid); err != nil {
		return nil, fmt.Errorf("neural: validation documents: %w", err)
	}
	// Steps of B tokens and checks share one form.
	for _, b := range []int{o.Batch, o.Batch / o.Accumulate} {
		p.valid = p.valid[:max(1, len(p.valid)/b)*min(b, len(p.valid))]
	}
	return p, nil
}

// steps is how many steps o asks for on train, which is read to count its
// tokens where o does not say.
func steps(ctx context.Context, train speculate.Data, o TrainOptions) (int, error) {
	total := o.Tokens
	if total == 0 {
		for doc, err := range train.Documents() {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return 0, err
			}
			total += 4 * int64(len(doc.Tokens))
		}
	}
	return max(1, int(total/int64(o.Batch))), nil
}

func (p *points) close() { p.sampler.close() }

// identity is what a resumed training must have in common, see plan: shown is
// of what the network reads of validation tokens.
func (p *points) identity(cfg any, shown digest) map[string]any {
	hs := []string{}
	for _, hd := range p.heads {
		hs = append(hs, fmt.Sprintf("%v at %d", hd.h, hd.l))
	}
	return map[string]any{"configuration": cfg, "shape": p.shape, "horizons": hs, "validation documents or statistics": shown}
}

// skip draws the next batch into p.drawn.
func (p *points) skip() (position, error) {
	err := p.sampler.draw(p.drawn)
	return p.sampler.position, err
}

// check is the loss, mean over heads, and recall@K on the validation tokens,
// which forward is given part by part; it returns each head's loss, and logits [G,B,E].
func (p *points) check(forward func(ps []point) (losses, y []float32, err error)) (loss, recall float64, err error) {
	b, rounds := min(len(p.drawn), len(p.valid)), 0
	for part := range slices.Chunk(p.valid, b) {
		losses, y, err := forward(part)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range losses {
			loss += float64(x)
		}
		recall += p.recall(part, y)
		rounds++
	}
	return loss / float64(rounds*len(p.heads)), recall / float64(rounds), nil
}

// recall is the mean recall@K of logits y [G,B,E].
func (p *points) recall(ps []point, y []float32) float64 {
	e, k, l := p.shape.Experts, p.shape.TopK, p.shape.Layers
	sum, n := 0.0, 0
	for g, hd := range p.heads {
		for b, pt := range ps {
			if r, ok := recallAt(y[(g*len(ps)+b)*e:][:e], pt.doc.Experts[(pt.t*l+hd.l)*k:][:k]); ok {
				sum += r
				n++
			}
		}
	}
	return sum / float64(max(n, 1))
}

// recallAt is recall@K of scores [E] for the experts chosen [K]; false where
// none was.
func recallAt(scores []float32, actual []int32) (float64, bool) {
	order := speculate.NewPrediction(scores).Experts
	chosen, hits := 0, 0
	for i, x := range actual {
		if x >= 0 {
			chosen++
		}
		if slices.Contains(actual, order[i]) {
			hits++
		}
	}
	return float64(min(hits, chosen)) / float64(max(chosen, 1)), chosen > 0
}

// chosen writes 1 to out [E] for the experts chosen at layer l, else 0.
func (p *points) chosen(pt point, l int, out []float32) {
	k := p.shape.TopK
	clear(out)
	for _, x := range pt.doc.Experts[(pt.t*p.shape.Layers+l)*k:][:k] {
		if x >= 0 {
			out[x] = 1
		}
	}
}

// parallel calls f for 0..n-1 from as many goroutines as there are CPUs.
func parallel(n int, f func(i int) error) error {
	workers := min(n, runtime.GOMAXPROCS(0))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
