package neural

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/compute"
)

// TrainOptions are the options of [TrainMLP] and [TrainTransformer]. Numbers
// that are 0 mean the defaults named beside them.
type TrainOptions struct {
	// Backend trains, for example one of mixtral.OpenBackend. GoMLX's Go backend must
	// be configured as "ops_sequential": its default mode can deadlock.
	Backend  compute.Backend
	Horizons []speculate.Horizon
	Seed     uint64
	// Tokens is the number of tokens to train on, repeats included. The default is
	// 4 passes over the training documents, which are then read again to count
	// their tokens, and at least 64 steps.
	Tokens int64
	// Limit, if not 0, ends a training that long after its start. The learning
	// rate falls with the time where that is ahead of the steps, so that the result
	// depends on the machine's speed. Limit excludes Resume.
	Limit time.Duration
	// Batch is the number of tokens in a step, by default 256, for [TrainMLP] 128.
	// Each token trains all heads.
	Batch int
	// Accumulate is the number of parts that a step is computed in, one after the
	// other, by default 1. Batch must be a multiple of it. The result is the same, in
	// less memory.
	Accumulate int
	// Devices is the number of the backend's devices that train, by default 1. Each
	// computes the gradient of its share of a batch, and all take the same step with
	// the mean. Batch must be a multiple of Devices times Accumulate. The result is the
	// same up to the rounding of sums.
	Devices int
	Rate    float64 // peak learning rate, by default .002, for [TrainMLP] .004
	// Checks is the number of times that the network is tried on validation
	// documents, evenly spaced, by default 5. The best state is returned.
	Checks int
	// Patience is the number of checks in a row without improvement after which
	// training ends, by default 3.
	Patience    int
	ValidTokens int // tokens of a check, by default 1024
	// PoolBytes is the size of the documents held in memory, from which steps draw
	// at random, by default 512 MiB. Memory does not grow with the trace,
	// except with Statistics by the names of the training documents.
	PoolBytes int64
	// DeviceBytes bounds the training documents that [TrainTransformer] holds in the
	// memory of each of the Devices, in 16 bits, so that a step transfers almost
	// nothing. Where all fit, they are read once. The default is 8 GiB, and 0 where the
	// backend's memory is the host's.
	DeviceBytes int64
	// Float32 computes products in float32 on all backends. By default
	// [TrainTransformer] computes those of a step in bfloat16, accumulated in float32,
	// where the backend's memory is not the host's.
	Float32 bool
	// Gates are the model's routers, for configurations with Gate.
	Gates *speculate.Gates
	// Statistics are the fitted predictors whose log odds a configuration with
	// Statistics mixes. They must support all Horizons.
	Statistics []speculate.Predictor
	// Start, if not nil, is the transformer that [TrainTransformer] starts from. It
	// must have the same configuration, shape and horizons, except that it may lack
	// router logits.
	Start *Transformer
	// Resume, if not empty, is a folder for the state of the training. It is written
	// after each check to NAME.training.safetensors, of about 16 bytes a parameter,
	// and removed when training ends. A training with the same configuration,
	// options and documents resumes from that file, with the same result, bit for
	// bit; for another one the file is an error.
	Resume string
	// Progress, if not nil, is called after each check.
	Progress func(Progress)

	brief      bool // transfer in 16 bits and compute in bfloat16
	devicePart int  // tokens that are copied to the backend at once
}

// Progress is the state of a training after a check.
type Progress struct {
	Name          string
	Step, Steps   int
	Loss          float64 // on training tokens, mean since the last check
	ValidLoss     float64
	ValidRecallK  float64
	TokensPerSec  float64
	ImprovedSince int // number of checks since the best
}

// Constants of AdamW (Loshchilov and Hutter 2019) and of its schedule.
const (
	beta1, beta2 = .9, .99
	adamEps      = 1e-8
	weightDecay  = .01
	clipNorm     = 1.0 // largest norm of a head's share of the gradient
	warmup       = .05 // share of the steps in which the rate rises

	defaultBatch = 256

	// Chosen for small traces; see BENCHMARKS.md, Real traces.
	defaultBatchMLP, defaultRateMLP = 128, .004
	minSteps                        = 64 // where the number of tokens is not given
)

func (o TrainOptions) withDefaults() TrainOptions {
	o.Batch = cmp.Or(o.Batch, defaultBatch)
	o.Accumulate = cmp.Or(o.Accumulate, 1)
	o.Devices = cmp.Or(o.Devices, 1)
	o.Rate = cmp.Or(o.Rate, .002)
	o.Checks = cmp.Or(o.Checks, 5)
	o.Patience = cmp.Or(o.Patience, 3)
	o.ValidTokens = cmp.Or(o.ValidTokens, 1024)
	o.PoolBytes = cmp.Or(o.PoolBytes, 512<<20)
	o.devicePart = cmp.Or(o.devicePart, 1<<16)
	o.brief = !o.Backend.HasSharedBuffers()
	if o.brief {
		o.DeviceBytes = cmp.Or(o.DeviceBytes, 8<<30)
	}
	return o
}

// share returns the tokens of a batch that a device computes at once.
func (o TrainOptions) share() int { return o.Batch / o.Accumulate / o.Devices }

// validate reports what cfg cannot be trained with.
func (o TrainOptions) validate(cfg config, train, valid speculate.Data) error {
	s := speculate.ShapeOf(train.Header.Model)
	if err := errors.Join(cfg.Validate(), s.Validate()); err != nil {
		return err
	}
	if v := speculate.ShapeOf(valid.Header.Model); s != v {
		return fmt.Errorf("neural: training documents of %+v, validation documents of %+v", s, v)
	}
	if err := o.numbers(); err != nil {
		return err
	}
	if o.Backend == nil {
		return errors.New("neural: Backend is nil")
	}
	if n := o.Backend.NumDevices(); o.Devices > n {
		return fmt.Errorf("neural: %d devices; backend %s has %d", o.Devices, o.Backend.Name(), n)
	}
	if len(o.Horizons) == 0 {
		return errors.New("neural: Horizons is empty")
	}
	seen := map[speculate.Horizon]bool{}
	for _, h := range o.Horizons {
		if err := h.Validate(s.Depth()); err != nil {
			return err
		}
		if seen[h] {
			return fmt.Errorf("neural: horizon %v is given twice", h)
		}
		seen[h] = true
	}
	if err := cfg.fits(s, o.Horizons); err != nil {
		return err
	}
	if cfg.gated() {
		if o.Gates == nil {
			return fmt.Errorf("neural: %s starts as the routers; Gates is nil", cfg.name())
		}
		if err := o.Gates.Validate(s); err != nil {
			return err
		}
	}
	for _, d := range []speculate.Data{train, valid} {
		if err := cfg.Requires().Check(d.Header); err != nil {
			return fmt.Errorf("%s: %w", cfg.name(), err)
		}
	}
	return nil
}

// numbers reports a number that is out of range.
func (o TrainOptions) numbers() error {
	switch batch := cmp.Or(o.Batch, defaultBatch); {
	case min(o.Tokens, o.PoolBytes, o.DeviceBytes) < 0 || min(o.Batch, o.Accumulate, o.Devices, o.Checks, o.Patience, o.ValidTokens) < 0:
		return fmt.Errorf("neural: a negative number in options: %d tokens, %d bytes of documents, %d on the backend, batch %d, accumulate %d, %d devices, %d checks, patience %d, %d validation tokens",
			o.Tokens, o.PoolBytes, o.DeviceBytes, o.Batch, o.Accumulate, o.Devices, o.Checks, o.Patience, o.ValidTokens)
	case o.Limit < 0:
		return fmt.Errorf("neural: limit %v; must not be negative", o.Limit)
	case o.Limit > 0 && o.Resume != "":
		return errors.New("neural: a training with a limit cannot be resumed")
	case !(o.Rate >= 0):
		return fmt.Errorf("neural: rate %g; must not be negative", o.Rate)
	case batch%(max(o.Accumulate, 1)*max(o.Devices, 1)) != 0:
		return fmt.Errorf("neural: batch %d; must be a multiple of accumulate %d times %d devices", batch, max(o.Accumulate, 1), max(o.Devices, 1))
	}
	return nil
}
