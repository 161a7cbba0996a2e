package prefetch

import (
	"fmt"
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
)

// Config describes a simulation.
type Config struct {
	// Capacity is the number of resident experts: of all layers together, 1 to L*E,
	// or with PerLayer of each layer, 1 to E. HitRates ignores it.
	Capacity int
	PerLayer bool
	Policy   Policy // "": LRU
	// Load is the time to copy one expert, Compute that of one layer with its
	// experts resident. Both must be positive where Predictor is set.
	Load, Compute time.Duration
	// Predictor predicts at Horizon, a distance of at least one layer, and its
	// Prefetch likeliest experts are copied ahead; nil means no prefetcher.
	Predictor speculate.Predictor
	Horizon   speculate.Horizon
	Prefetch  int
	// NextToken also predicts one token ahead, at the zero Horizon, for the layers
	// below Horizon.Layers. Their experts are otherwise copied on demand.
	NextToken bool
	// Events is the maximum number of events in the result, from the first.
	Events int
}

// Bounds so that products of sizes and sums of times do not overflow.
const (
	maxExperts = 1 << 22
	maxEvents  = 1 << 20
	maxTime    = 10_000 * time.Second
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
	most := c.most(s)
	switch {
	case c.Capacity < 1 || c.Capacity > most:
		return fmt.Errorf("prefetch: capacity is %d experts; must be 1 to %d", c.Capacity, most)
	case c.Policy != "" && c.Policy != LRU && c.Policy != LFU && c.Policy != OPT:
		return fmt.Errorf("prefetch: policy is %q; must be %s, %s or %s", c.Policy, LRU, LFU, OPT)
	case c.Load < 0 || c.Load > maxTime || c.Compute < 0 || c.Compute > maxTime:
		return fmt.Errorf("prefetch: load takes %v and compute %v; must be 0 to %v", c.Load, c.Compute, maxTime)
	case c.Events < 0 || c.Events > maxEvents:
		return fmt.Errorf("prefetch: %d events; must be 0 to %d", c.Events, maxEvents)
	case c.Predictor == nil && (c.Prefetch != 0 || c.NextToken):
		return fmt.Errorf("prefetch: %d experts to prefetch without a predictor", c.Prefetch)
	case c.Predictor == nil:
		return nil
	}
	return c.validatePredictor(h, s)
}

func (c Config) validatePredictor(h trace.Header, s speculate.Shape) error {
	if err := c.Horizon.Validate(s.Layers); err != nil {
		return err
	}
	if err := c.Predictor.Requires().Check(h); err != nil {
		return fmt.Errorf("prefetch: predictor %s: %w", c.Predictor.Name(), err)
	}
	switch {
	case c.Horizon.Layers < 1:
		return fmt.Errorf("prefetch: horizon is %v; must be a distance of at least one layer", c.Horizon)
	case c.Prefetch < 1 || c.Prefetch > s.Experts:
		return fmt.Errorf("prefetch: %d experts to prefetch; must be 1 to %d", c.Prefetch, s.Experts)
	case c.Load == 0 || c.Compute == 0:
		return fmt.Errorf("prefetch: load takes %v and compute %v; with a predictor both must be positive", c.Load, c.Compute)
	case !c.Predictor.Supports(c.Horizon):
		return fmt.Errorf("prefetch: predictor %s at %v: %w", c.Predictor.Name(), c.Horizon, speculate.ErrHorizon)
	case c.NextToken && !c.Predictor.Supports(speculate.Horizon{}):
		return fmt.Errorf("prefetch: predictor %s at %v: %w", c.Predictor.Name(), speculate.Horizon{}, speculate.ErrHorizon)
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
