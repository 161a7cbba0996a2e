package switchtransformer

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
)

// Hook receives a layer's routing before the layer's experts run. Calls are
// serialized. Those about one document come in order of stack and layer, and within a
// layer by position. An error or a panic stops the forward pass, which returns it with
// the layer's number.
type Hook func(ctx context.Context, r *Routing) error

// route chooses the experts of a layer's rows, calls the request's hooks, and returns
// each row's expert and its weight, 0 for rows that no expert computes: see routeFunc.
func (r *run) route(ctx context.Context, s *step, layer int, logits, input []float32) (experts []int32, weights []float32, err error) {
	cfg := &r.m.cfg
	n := len(s.position)
	blocks := r.m.blocks[s.stack]
	rt := &Routing{
		Stack: s.stack, Layer: layer, Layers: len(blocks), Block: blocks[layer],
		Document: s.document, Position: s.position, Token: s.token, Phase: s.phase,
		Logits: logits, Input: input,
		Experts: make([]int32, n), Weights: make([]float32, n), Dropped: make([]bool, n),
	}
	if err := rt.checkFinite(cfg.Experts); err != nil {
		return nil, nil, err
	}
	choose(rt.Logits, cfg.Experts, rt.Experts, rt.Weights)
	drop(rt.Dropped, rt.Document, rt.Experts, cfg.Experts, s.capacity)
	if err := r.hooks(ctx, rt, s.capacity); err != nil {
		return nil, nil, err
	}
	for t, dropped := range rt.Dropped {
		if dropped {
			rt.Weights[t] = 0
		}
	}
	return rt.Experts, rt.Weights, nil
}

// hooks calls the request's hooks.
func (r *run) hooks(ctx context.Context, rt *Routing, capacity int) error {
	if r.req.Intervene == nil && r.req.Observe == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.req.Intervene != nil {
		changed := *rt
		changed.Dropped = slices.Clone(rt.Dropped)
		if err := r.req.Intervene.call(ctx, "Intervene", &changed); err != nil {
			return err
		}
		rt.Experts, rt.Weights = changed.Experts, changed.Weights
		if err := rt.check(r.m.cfg.Experts); err != nil {
			return err
		}
		drop(rt.Dropped, rt.Document, rt.Experts, r.m.cfg.Experts, capacity)
	}
	if r.req.Observe != nil {
		seen := *rt
		seen.Experts, seen.Weights, seen.Dropped = slices.Clone(rt.Experts), slices.Clone(rt.Weights), slices.Clone(rt.Dropped)
		return r.req.Observe.call(ctx, "Observe", &seen)
	}
	return nil
}

// call calls the hook, a field of Request, and adds the layer to its error.
func (h Hook) call(ctx context.Context, field string, r *Routing) error {
	if err := calls.Protect(field, func() error { return h(ctx, r) }); err != nil {
		return fmt.Errorf("%s layer %d: hook: %w", r.Stack, r.Layer, err)
	}
	return nil
}

// check returns an error if a hook made the routing invalid.
func (r *Routing) check(numExperts int) error {
	if len(r.Experts) != len(r.Position) || len(r.Weights) != len(r.Position) {
		return fmt.Errorf("%s layer %d: after the hook there are %d experts and %d weights; both must be T = %d",
			r.Stack, r.Layer, len(r.Experts), len(r.Weights), len(r.Position))
	}
	for t, e := range r.Experts {
		w := r.Weights[t]
		switch {
		case e < 0 || int(e) >= numExperts:
			return r.errorf(t, "the hook chose expert %d of %d", e, numExperts)
		case !(w >= 0) || math.IsInf(float64(w), 0):
			return r.errorf(t, "the hook set the weight of expert %d to %v; it must be finite and not negative", e, w)
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
	return fmt.Errorf("%s layer %d, document %d, position %d: %w", r.Stack, r.Layer, r.Document[t], r.Position[t], fmt.Errorf(format, args...))
}
