package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/internal/prob"
)

// head is a target layer at a horizon.
type head struct {
	h speculate.Horizon
	l int
}

// unknown is the horizon at which the id of the token is unknown.
var unknown = speculate.Horizon{}

// heads lists all heads in the order of the arrays' leading axis G.
func heads(s speculate.Shape, horizons []speculate.Horizon) []head {
	var hs []head
	for _, h := range horizons {
		for _, l := range s.Targets(h) {
			hs = append(hs, head{h, l})
		}
	}
	return hs
}

// task is the common part of the jobs that train networks.
type task struct {
	shape speculate.Shape
	heads []head
	soft  bool // train towards the router's softmax
	steps int
}

// newTask reads train to count its tokens where o does not state how many to
// train on.
func newTask(ctx context.Context, soft bool, train speculate.Data, o TrainOptions) (task, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	logits, _ := recorded(train.Header)
	total := o.Tokens
	if total == 0 {
		for doc, err := range train.All(ctx) {
			if err != nil {
				return task{}, err
			}
			total += 4 * int64(len(doc.Tokens))
		}
		total = max(total, minSteps*int64(o.Batch))
	}
	return task{shape: shape, heads: heads(shape, o.Horizons), soft: soft && logits, steps: max(1, int(total/int64(o.Batch)))}, nil
}

// identity is what a resumed training must have in common; see plan.
func (t *task) identity(cfg any) map[string]any {
	hs := []string{}
	for _, hd := range t.heads {
		hs = append(hs, fmt.Sprintf("%v at %d", hd.h, hd.l))
	}
	return map[string]any{"configuration": cfg, "shape": t.shape, "horizons": hs, "soft targets": t.soft}
}

// recall sums recall@K over the heads and tokens of a passage, of each head's own,
// and counts the terms. A passage's logits begin at row first of the n of each head
// in y [G,n,E].
func (t *task) recall(of func(head) passage, y []float32, n, first int) (sum float64, terms int) {
	e, k, l := t.shape.Experts, t.shape.TopK, t.shape.Layers
	for g, hd := range t.heads {
		p := of(hd)
		for i := range p.to - p.from {
			actual := p.doc.Experts[((p.from+i)*l+hd.l)*k:][:k]
			if r, ok := recallAt(y[(g*n+first+i)*e:][:e], actual); ok {
				sum += r
				terms++
			}
		}
	}
	return sum, terms
}

// recallAt returns recall@K of scores [E] for the experts chosen [K], false if
// none was.
func recallAt(scores []float32, actual []int32) (float64, bool) {
	order := make([]int32, len(scores))
	prob.Rank(scores, order)
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

// moments accumulates the mean and deviation of each of n numbers.
type moments struct{ sum, squares []float64 }

func newMoments(n int) *moments { return &moments{make([]float64, n), make([]float64, n)} }

// add adds values of the numbers from at on.
func (m *moments) add(at int, xs []float32) {
	for i, x := range xs {
		m.sum[at+i] += float64(x)
		m.squares[at+i] += float64(x) * float64(x)
	}
}

// of returns the means and inverse deviations of count values each.
func (m *moments) of(count int) (mean, inv []float32) {
	mean, inv = make([]float32, len(m.sum)), make([]float32, len(m.sum))
	for i := range mean {
		x := m.sum[i] / float64(count)
		mean[i] = float32(x)
		// A floor, so that what hardly ever varies is not magnified.
		inv[i] = float32(1 / max(math.Sqrt(max(m.squares[i]/float64(count)-x*x, 0)), .05))
	}
	return mean, inv
}

// startAsGate sets the linear path to the target layer's router on the latest
// router input, which is standardised: f is the number of features of a head,
// the router input first, and at(g) is where its mean and inv begin.
func (t *task) startAsGate(params []*param, gates *speculate.Gates, f int, mean, inv []float32, at func(g int) int) {
	get := func(name string) []float32 {
		return params[slices.IndexFunc(params, func(p *param) bool { return p.name == name })].value
	}
	lin, bias, experts := get("linear"), get("out.bias"), t.shape.Experts
	for g, hd := range t.heads {
		if hd.h.Layers == 0 {
			continue // no router input of the token is known
		}
		for e := range experts {
			for d, x := range gates.Weights[(hd.l*experts+e)*gates.Hidden:][:gates.Hidden] {
				lin[(g*f+d)*experts+e] = x / inv[at(g)+d]
				bias[g*experts+e] += x * mean[at(g)+d]
			}
			if gates.Bias != nil {
				bias[g*experts+e] += gates.Bias[hd.l*experts+e]
			}
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
