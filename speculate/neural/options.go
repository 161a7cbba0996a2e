package neural

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/compute"
)

// TrainOptions say how a network is trained. The zero value of each number means
// the default named beside it.
type TrainOptions struct {
	Backend  compute.Backend
	Horizons []speculate.Horizon
	Seed     uint64
	// Tokens to train on, over all passes; 0: 4 passes over the training
	// documents, which are then read once more to count them.
	Tokens int64
	// Limit, where not 0, ends a training that long after its start. The learning
	// rate then falls with the time, where that is ahead of the steps, so that
	// what is learned depends on the machine's speed. Not with Resume.
	Limit time.Duration
	Batch int // tokens in a step; 0: 256. Each trains all heads.
	// Accumulate makes a step of this many batches of Batch/Accumulate tokens,
	// whose gradients are added up: the same result in less memory. 0: 1. Batch
	// must be a multiple of it.
	Accumulate int
	Rate       float64 // peak learning rate; 0: .002
	Decay      float64 // AdamW's weight decay; 0: .01, negative: none
	Clip       float64 // largest norm of a head's share of the gradient; 0: 1
	Warmup     float64 // share of the steps in which the rate rises; 0: .05
	// Checks is how often the network is tried on validation documents, evenly
	// spaced; the best is kept. 0: 5. Patience is how many checks in a row may
	// bring nothing before training stops; 0: 3.
	Checks, Patience int
	// ValidTokens is how many validation tokens a check uses; 0: 1024.
	ValidTokens int
	// PoolBytes bounds the documents held at once, from which steps draw at
	// random; 0: 512 MiB. Memory does not grow with the trace.
	PoolBytes int64
	// Gates are the checkpoint's routers, for configurations with Gate.
	Gates *speculate.Gates
	// Statistics are the fitted predictors whose log odds a configuration with
	// Statistics mixes in. They must support all Horizons.
	Statistics []speculate.Predictor
	// Start, when not nil, is the transformer that [TrainTransformer] goes on
	// from, in place of random values. It must be of the same configuration,
	// shape and horizons, but for router logits that it does not read yet.
	Start *Transformer
	// Resume, when not empty, is a folder, made if need be, where the state of
	// the training is kept after each check, in a file NAME.training.safetensors
	// of about 16 bytes a parameter, removed when training ends well. A training
	// with the same configuration, options and documents continues from it, to
	// the bit as if it had not been interrupted; one with others is an error.
	Resume string
	// Progress, when not nil, is told after each check.
	Progress func(Progress)
}

// Progress is the state of a training run.
type Progress struct {
	Name          string
	Step, Steps   int
	Loss          float64 // training, mean since the last report
	ValidLoss     float64
	ValidRecallK  float64
	TokensPerSec  float64
	ImprovedSince int // checks since the best
}

const defaultBatch = 256

func (o TrainOptions) withDefaults() TrainOptions {
	def := func(x *int, v int) {
		if *x == 0 {
			*x = v
		}
	}
	deff := func(x *float64, v float64) {
		if *x == 0 {
			*x = v
		}
	}
	def(&o.Batch, defaultBatch)
	def(&o.Accumulate, 1)
	def(&o.Checks, 5)
	def(&o.Patience, 3)
	def(&o.ValidTokens, 1024)
	deff(&o.Rate, .002)
	deff(&o.Decay, .01)
	deff(&o.Clip, 1)
	deff(&o.Warmup, .05)
	o.Decay = max(o.Decay, 0)
	if o.PoolBytes == 0 {
		o.PoolBytes = 512 << 20
	}
	return o
}

// Validate reports options that no training can use, for a configuration and
// a trace of shape s.
func (o TrainOptions) Validate(c MLPConfig, s speculate.Shape) error {
	switch {
	case c.Gate && o.Gates == nil:
		return fmt.Errorf("neural: %s starts as the router, and no gates are given", c.Name)
	case c.Statistics && len(o.Statistics) == 0:
		return fmt.Errorf("neural: %s mixes statistics, and none are given", c.Name)
	case c.Features.IDs > 0 && s.Vocabulary == 0:
		return fmt.Errorf("neural: %s reads token ids, and the trace does not say how many there are", c.Name)
	}
	if err := o.validate(s); err != nil {
		return err
	}
	for _, h := range o.Horizons {
		for _, p := range o.Statistics {
			if c.Statistics && !p.Supports(h) {
				return fmt.Errorf("neural: %s is not fitted for %v", p.Name(), h)
			}
		}
	}
	if c.Gate {
		return o.Gates.Validate(s)
	}
	return nil
}

// validate reports what no training of any network can use.
func (o TrainOptions) validate(s speculate.Shape) error {
	switch {
	case o.Backend == nil:
		return errors.New("neural: no backend to train on")
	case len(o.Horizons) == 0:
		return errors.New("neural: no horizons to train for")
	case o.Tokens < 0 || o.Batch < 0 || o.Accumulate < 0 || o.Checks < 0 || o.Patience < 0 || o.ValidTokens < 0 || o.PoolBytes < 0:
		return errors.New("neural: a negative size")
	case o.Limit < 0 || o.Limit > 0 && o.Resume != "":
		return fmt.Errorf("neural: a limit of %v: want none below 0, and none of a training that can be resumed", o.Limit)
	case !(o.Rate >= 0 && o.Clip >= 0 && o.Warmup >= 0 && o.Warmup < 1):
		return fmt.Errorf("neural: rate %g, clip %g, warm-up %g", o.Rate, o.Clip, o.Warmup)
	case cmp.Or(o.Batch, defaultBatch)%max(o.Accumulate, 1) != 0:
		return fmt.Errorf("neural: a batch of %d tokens in %d parts", cmp.Or(o.Batch, defaultBatch), o.Accumulate)
	}
	seen := map[speculate.Horizon]bool{}
	for _, h := range o.Horizons {
		if err := h.Validate(s.Layers); err != nil {
			return err
		}
		if seen[h] {
			return fmt.Errorf("neural: horizon %v given twice", h)
		}
		seen[h] = true
	}
	return nil
}
