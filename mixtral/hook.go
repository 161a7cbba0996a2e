package mixtral

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
)

// Hook receives a layer's routing before the layer's experts run; with the
// whole-graph executor, which only observes, after the step, and on a GPU, if no
// hook intervenes, while later layers run. Calls are serialized. Those about one
// document come in order of layer, and within a layer by position. An error or a
// panic stops the forward pass, which returns it with the layer's number.
type Hook func(ctx context.Context, r *Routing) error

// hooks chooses the experts of a layer and calls the request's hooks.
func (r *run) hooks(ctx context.Context, rt *Routing) error {
	cfg := &r.m.cfg
	if err := rt.checkFinite(cfg.Experts); err != nil {
		return err
	}
	k := cfg.TopK
	rt.Experts = make([]int32, len(rt.Position)*k)
	rt.Weights = make([]float32, len(rt.Position)*k)
	topK(rt.Logits, cfg.Experts, k, rt.Experts, rt.Weights)
	if r.req.Intervene == nil && r.req.Observe == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.req.Intervene != nil {
		changed := *rt
		if err := r.req.Intervene.call(ctx, "Intervene", &changed); err != nil {
			return err
		}
		rt.Experts, rt.Weights = changed.Experts, changed.Weights
		if err := rt.check(cfg.Experts, k); err != nil {
			return err
		}
	}
	if r.req.Observe != nil {
		seen := *rt
		seen.Experts, seen.Weights = slices.Clone(rt.Experts), slices.Clone(rt.Weights)
		return r.req.Observe.call(ctx, "Observe", &seen)
	}
	return nil
}

// call calls the hook, a field of Request, and adds the layer to its error.
func (h Hook) call(ctx context.Context, field string, r *Routing) error {
	if err := calls.Protect(field, func() error { return h(ctx, r) }); err != nil {
		return fmt.Errorf("layer %d: hook: %w", r.Layer, err)
	}
	return nil
}

// check returns an error if a hook made the routing invalid.
func (r *Routing) check(numExperts, k int) error {
	if len(r.Experts) != len(r.Position)*k || len(r.Weights) != len(r.Position)*k {
		return fmt.Errorf("layer %d: after the hook there are %d experts and %d weights; both must be T*K = %d",
			r.Layer, len(r.Experts), len(r.Weights), len(r.Position)*k)
	}
	for t := range r.Position {
		chosen := r.Experts[t*k:][:k]
		for i, e := range chosen {
			w := r.Weights[t*k+i]
			switch {
			case e < 0 || int(e) >= numExperts:
				return r.errorf(t, "the hook chose expert %d of %d", e, numExperts)
			case slices.Contains(chosen[:i], e):
				return r.errorf(t, "the hook chose expert %d twice", e)
			case !(w >= 0) || math.IsInf(float64(w), 0):
				return r.errorf(t, "the hook set the weight of expert %d to %v; it must be finite and not negative", e, w)
			}
		}
	}
	return nil
}

// checkFinite returns an error if router logits are not finite, after activations
// that overflowed.
func (r *Routing) checkFinite(numExperts int) error {
	for i, x := range r.Logits {
		if x-x != 0 { // NaN or Inf
			return r.errorf(i/numExperts, "router logit of expert %d is %v", i%numExperts, x)
		}
	}
	return nil
}

// errorf returns an error about row t.
func (r *Routing) errorf(t int, format string, args ...any) error {
	return fmt.Errorf("layer %d, document %d, position %d: %w", r.Layer, r.Document[t], r.Position[t], fmt.Errorf(format, args...))
}
