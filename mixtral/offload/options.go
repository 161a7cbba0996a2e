package offload

import (
	"context"
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
)

// Options say how much of a model's experts is in memory. Either DeviceMemory or
// Slots is required.
type Options struct {
	// DeviceMemory bounds the bytes of all weights from which the model computes: the
	// slots and what is not an expert's.
	DeviceMemory int64
	// Slots is the number of experts from which the model computes: of all layers
	// together, or with PerLayer of each.
	Slots    int
	PerLayer bool
	// HostMemory bounds the bytes of experts, besides those in slots, of which copies
	// are kept so that they are not read from the checkpoint again; the least recently
	// read make room. 0: none.
	HostMemory int64
	// Host computes experts that are not in a slot but in host memory on the
	// processor's cores, if the step has few tokens, instead of copying them first.
	// They are copied ahead for the next token. Results are then those of the host's
	// arithmetic.
	Host bool
	// Policy evicts; "" is prefetch.LRU. HalfLife and Static are as in prefetch.Config.
	Policy   prefetch.Policy
	HalfLife int
	Static   []int32
	// Adaptive is as in prefetch.Config.
	Adaptive bool
	// Readers is the number of experts that are read at a time; 0: 2. It bounds what
	// is in flight. Of several, one is left to those that are needed. An expert that is
	// needed precedes those that are predicted, but interrupts none.
	Readers int
	// Bandwidth, for experiments, limits reading from the checkpoint to bytes a
	// second; 0: no limit.
	Bandwidth int64

	// wrap, for tests, replaces the source's Read.
	wrap func(read readFunc) readFunc
}

type readFunc = func(ctx context.Context, layer, expert int, dst []byte) error

// Validate returns an error if the options are invalid for any model.
func (o *Options) Validate() error {
	switch {
	case (o.DeviceMemory == 0) == (o.Slots == 0):
		return fmt.Errorf("offload: device memory is %d bytes and slots are %d; one of the two is required", o.DeviceMemory, o.Slots)
	case o.DeviceMemory < 0 || o.Slots < 0 || o.HostMemory < 0:
		return fmt.Errorf("offload: device memory is %d bytes, slots are %d, host memory is %d bytes; none may be negative", o.DeviceMemory, o.Slots, o.HostMemory)
	case o.Host && o.HostMemory == 0:
		return errors.New("offload: computing on the host requires host memory")
	case o.Readers < 0 || o.Readers > maxReaders:
		return fmt.Errorf("offload: %d readers; must be 0 to %d", o.Readers, maxReaders)
	case o.Bandwidth < 0:
		return fmt.Errorf("offload: bandwidth is %d bytes a second; must not be negative", o.Bandwidth)
	}
	return nil
}

const maxReaders = 1024

// slots returns the number of slots, of each layer with PerLayer, or says what is
// needed.
func (o *Options) slots(src mixtral.ExpertSource) (int, error) {
	pools, most := 1, src.Layers*src.Experts
	if o.PerLayer {
		pools, most = src.Layers, src.Experts
	}
	n := o.Slots
	least := min(max(src.TopK, 2), src.Experts) // to compute a token, and to stream
	if o.DeviceMemory > 0 {
		n = int(max(0, o.DeviceMemory-src.Resident) / int64(src.Bytes) / int64(pools))
	}
	if n >= least {
		return min(n, most), nil
	}
	need := src.Resident + int64(least)*int64(pools)*int64(src.Bytes)
	what := fmt.Sprintf("%d experts of %d bytes", least*pools, src.Bytes)
	if o.DeviceMemory > 0 {
		return 0, fmt.Errorf("offload: device memory of %d bytes is too little: the model needs %d bytes, for %s and %d bytes of other weights",
			o.DeviceMemory, need, what, src.Resident)
	}
	return 0, fmt.Errorf("offload: %d slots are too few: the model needs %d (%s)", o.Slots, least, what)
}

func (o *Options) config(slots int) prefetch.Config {
	return prefetch.Config{Capacity: slots, PerLayer: o.PerLayer, Policy: o.Policy, HalfLife: o.HalfLife, Static: o.Static, Adaptive: o.Adaptive,
		InFlight: max(1, o.readers()-1)}
}

func shapeOf(src mixtral.ExpertSource) speculate.Shape {
	return speculate.Shape{Layers: src.Layers, Experts: src.Experts, TopK: src.TopK}
}
