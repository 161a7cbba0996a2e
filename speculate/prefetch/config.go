package prefetch

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Policy is a rule for which resident expert is evicted.
type Policy string

const (
	// LRU evicts the least recently used.
	LRU Policy = "LRU"
	// LFU evicts the one least often used since the document's start, ties to
	// the least recently used.
	LFU Policy = "LFU"
	// OPT evicts the one whose next use is farthest (Belady 1966, "A study of
	// replacement algorithms for a virtual-storage computer"). It knows the
	// future: a bound.
	OPT Policy = "OPT"
	// DecayedLFU is LFU of requests of which each counts half as much after each
	// HalfLife.
	DecayedLFU Policy = "decayed LFU"
	// OnDemand holds an expert only while its layer uses it.
	OnDemand Policy = "on demand"
	// Static pins experts, which are never evicted: those of Config.Static or, if that
	// is empty, the first that are requested. All but K places are theirs, or all but
	// 2 if K is 1. The others are the least recently used one's of the rest.
	Static Policy = "static"
	// Reuse evicts the one least likely to be used by the next tokens: by a mean of how
	// often tokens chose it, as DecayedLFU, and of how likely its layer's next token is
	// to choose it according to a predictor, where that is known.
	Reuse Policy = "predicted reuse"
)

// Config describes a simulation.
type Config struct {
	// Capacity is the number of resident experts: of all layers together, 1 to L*E,
	// or with PerLayer of each layer, 1 to E. HitRates ignores it.
	Capacity int
	PerLayer bool
	Policy   Policy // "": LRU
	HalfLife int    // of DecayedLFU and Reuse, in tokens of the decoder; 0: 16
	// Static are the experts that policy Static pins, as ids layer*E+expert, those that
	// matter most first, of which as many are pinned as fit; see [MostFrequent].
	Static []int32
	// Hold keeps the experts that the current layer has requested from being evicted
	// for others of its, as a real cache must, from which they are computed. Capacity
	// must be at least K then. Without it a policy's hits are those on the sequence of
	// choices.
	Hold bool
	// Load is the time that copying one expert occupies the channel: its bytes by the
	// bandwidth. Latency is what a copy takes besides, before it does; with several
	// Streams, which is the number of copies at a time (0: 1), that of one passes
	// while others use the channel.
	Load, Latency time.Duration
	Streams       int
	// Compute is the time from a token's routing at a layer, with its K experts
	// resident, to that at the next, and Expert the part of it that one expert takes:
	// a step that uses m experts takes Compute + (m-K)*Expert.
	Compute, Expert time.Duration
	// Rest is the time of a step outside its layers: embedding, head, sampling.
	Rest time.Duration
	// Decision is the time of one prediction, about one token at one layer, for which
	// computing waits.
	Decision time.Duration
	// Host is the time in which the host computes an expert that is neither resident
	// nor on its way, one after the other, beside the device; it does where that ends
	// before the copy would. 0: never.
	Host time.Duration
	// Batch is the number of documents that are decoded together, 0: 1. Of each, the
	// first Prompt tokens of the decoder are one step, 0: 1.
	Batch, Prompt int
	// Predictor predicts at Horizon, and its Prefetch likeliest experts are copied
	// ahead; nil means no prefetcher. With policy Reuse, it also predicts all layers
	// one token ahead after each token, and Prefetch may be 0. At a distance, those of layer l+h follow the
	// routing of layer l. At a horizon of one token, those of all layers follow the
	// token before, or with KnownID begin the token.
	Predictor speculate.Predictor
	Horizon   speculate.Horizon
	Prefetch  int
	// Nearer also predicts at all distances below Horizon.Layers.
	Nearer bool
	// Adaptive copies fewer, down to none, of the Prefetch experts where that makes
	// layers wait less.
	Adaptive bool
	// NextToken also predicts one token ahead, at the zero Horizon, for the layers
	// below Horizon.Layers. Their experts are otherwise copied on demand.
	NextToken bool
	// InFlight is the maximum number of prefetches being copied at a time; 0: one less
	// than Streams and at least 1, so that what is needed finds a stream.
	InFlight int
	// Events is the maximum number of events in the result, from the first.
	Events int
}

// Bounds so that products of sizes and sums of times do not overflow.
const (
	maxExperts = 1 << 22
	maxEvents  = 1 << 20
	maxTime    = 10_000 * time.Second
	maxStreams = 1 << 10
	maxBatch   = 1 << 10
	// maxHalfLife is a number of tokens.
	maxHalfLife = 1 << 20
)

// Validate returns an error if c is invalid for a trace with header h.
func (c Config) Validate(h trace.Header) error {
	s := speculate.ShapeOf(h.Model)
	if err := s.Validate(); err != nil {
		return err
	}
	if s.Layers*s.Experts > maxExperts {
		return fmt.Errorf("prefetch: %d layers of %d experts are more than %d experts", s.Layers, s.Experts, maxExperts)
	}
	if err := c.validateCache(s); err != nil {
		return err
	}
	if err := c.validateCosts(s); err != nil {
		return err
	}
	switch {
	case c.Hold && c.Capacity < s.TopK:
		return fmt.Errorf("prefetch: capacity is %d experts, of which a layer needs %d at once", c.Capacity, s.TopK)
	case c.Events < 0 || c.Events > maxEvents:
		return fmt.Errorf("prefetch: %d events; must be 0 to %d", c.Events, maxEvents)
	case c.Predictor == nil && (c.Prefetch != 0 || c.NextToken || c.Nearer || c.Adaptive):
		return fmt.Errorf("prefetch: %d experts to prefetch without a predictor", c.Prefetch)
	case c.Predictor == nil:
		return nil
	}
	return c.validatePredictor(h, s)
}

// validateCosts reports invalid times and numbers of the model of costs.
func (c Config) validateCosts(s speculate.Shape) error {
	for _, x := range []struct {
		name string
		d    time.Duration
	}{{"load", c.Load}, {"latency", c.Latency}, {"compute", c.Compute}, {"rest", c.Rest}, {"decision", c.Decision}, {"host", c.Host}} {
		if x.d < 0 || x.d > maxTime {
			return fmt.Errorf("prefetch: %s takes %v; must be 0 to %v", x.name, x.d, maxTime)
		}
	}
	for _, x := range []struct {
		name    string
		n, most int
	}{{"streams", c.Streams, maxStreams}, {"prefetches in flight", c.InFlight, maxStreams}, {"documents of a batch", c.Batch, maxBatch}, {"tokens of a prompt", c.Prompt, maxRequests}} {
		if x.n < 0 || x.n > x.most {
			return fmt.Errorf("prefetch: %d %s; must be 0 to %d", x.n, x.name, x.most)
		}
	}
	if c.Expert < 0 || c.Expert > c.Compute/time.Duration(s.TopK) {
		return fmt.Errorf("prefetch: an expert takes %v; must be 0 to a %d-th of the layer's %v", c.Expert, s.TopK, c.Compute)
	}
	return nil
}

// validateCache reports an invalid capacity or policy.
func (c Config) validateCache(s speculate.Shape) error {
	most := c.most(s)
	switch {
	case c.Capacity < 1 || c.Capacity > most:
		return fmt.Errorf("prefetch: capacity is %d experts; must be 1 to %d", c.Capacity, most)
	case c.Policy != "" && !slices.Contains(policies, c.Policy):
		return fmt.Errorf("prefetch: policy is %q; must be one of %q", c.Policy, policies)
	case c.HalfLife < 0 || c.HalfLife > maxHalfLife:
		return fmt.Errorf("prefetch: half-life is %d tokens; must be 0 to %d", c.HalfLife, maxHalfLife)
	case c.Static != nil && c.Policy != Static:
		return fmt.Errorf("prefetch: %d experts to pin with policy %q; only %q pins", len(c.Static), c.policy(), Static)
	}
	seen := make([]bool, s.Layers*s.Experts)
	for _, id := range c.Static {
		if id < 0 || int(id) >= len(seen) || seen[id] {
			return fmt.Errorf("prefetch: expert %d to pin occurs twice or is not one of 0 to %d", id, len(seen)-1)
		}
		seen[id] = true
	}
	return nil
}

// halfLife is that of DecayedLFU and Reuse, in tokens.
func (c Config) halfLife() int { return cmp.Or(c.HalfLife, 16) }

// policies are all of them.
var policies = []Policy{LRU, LFU, DecayedLFU, OnDemand, OPT, Static, Reuse}

func (c Config) validatePredictor(h trace.Header, s speculate.Shape) error {
	if err := c.Horizon.Validate(s.Layers - s.Encoder); err != nil {
		return err
	}
	if err := c.Predictor.Requires().Check(h); err != nil {
		return fmt.Errorf("prefetch: predictor %s: %w", c.Predictor.Name(), err)
	}
	switch {
	case c.Policy == Reuse && !c.Predictor.Supports(speculate.Horizon{}):
		return fmt.Errorf("prefetch: predictor %s at %v: %w", c.Predictor.Name(), speculate.Horizon{}, speculate.ErrHorizon)
	case c.Policy == Reuse && c.Prefetch == 0 && !c.Nearer && !c.NextToken:
		return nil
	case c.Prefetch < 1 || c.Prefetch > s.Experts:
		return fmt.Errorf("prefetch: %d experts to prefetch; must be 1 to %d", c.Prefetch, s.Experts)
	case c.Load == 0 || c.Compute == 0:
		return fmt.Errorf("prefetch: load takes %v and compute %v; with a predictor both must be positive", c.Load, c.Compute)
	}
	for _, a := range c.asks(s) {
		if !speculate.Supports(c.Predictor, s, a.horizon, a.layer) {
			return fmt.Errorf("prefetch: predictor %s at %v: %w", c.Predictor.Name(), a.horizon, speculate.ErrHorizon)
		}
	}
	return nil
}

// most is the maximum capacity.
func (c Config) most(s speculate.Shape) int {
	if c.PerLayer {
		return s.Experts
	}
	return s.Layers * s.Experts
}

func (c Config) policy() Policy {
	if c.Policy == "" {
		return LRU
	}
	return c.Policy
}

// seconds are those of a clock in nanoseconds, whose sums are exact.
func seconds(ns int64) float64 { return float64(ns) / float64(time.Second) }
