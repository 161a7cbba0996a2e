package offload

import (
	"slices"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// Stats are what a store did since the model was loaded.
type Stats struct {
	Policy prefetch.Policy `json:"policy"`
	// Slots is the number of experts in slots, of all layers, and Resident their share
	// of all L*E experts.
	Slots    int     `json:"slots"`
	Resident float64 `json:"resident"`
	// Total and Layers [L] count by step and expert: several tokens of a step that
	// choose one expert are one request.
	Total  prefetch.Counts   `json:"total"`
	Layers []prefetch.Counts `json:"layers"`
	// DiskBytes were read from the checkpoint, in ReadSeconds, those of concurrent
	// readers added up; HostBytes were copied from host memory.
	DiskBytes   int64   `json:"disk_bytes"`
	HostBytes   int64   `json:"host_bytes"`
	ReadSeconds float64 `json:"read_seconds"`
	// WriteSeconds is the time that slots were written from host memory, including
	// waiting for another's copy over the bus.
	WriteSeconds float64 `json:"write_seconds"`
	// Failed is the number of reads that ended with an error or were cancelled.
	Failed int64 `json:"failed"`
	// PredictSeconds is the time that prefetchers took, for as many Predictions, each
	// about one token at one layer.
	PredictSeconds float64 `json:"predict_seconds"`
	Predictions    int64   `json:"predictions"`
	Peak           Peak    `json:"peak"`
	// FirstTokenSeconds is the mean time of a prompt, from when its first layer needs
	// experts until its last layer is computed, and TokenSeconds that between the ends
	// of a step of phase decode and of the one before: both of Steps, 0 without one.
	FirstTokenSeconds float64 `json:"first_token_seconds"`
	TokenSeconds      float64 `json:"token_seconds"`
	Costs             Costs   `json:"costs"`
	// Steps are the first 65536 steps, in order of their first layer.
	Steps []Step `json:"steps"`
}

// Peak is the memory of the tiers, in bytes. It is allocated once, and the host's when
// it is first used.
type Peak struct {
	Weights int64 `json:"weights"` // that are not experts'
	Slots   int64 `json:"slots"`
	Host    int64 `json:"host"`
}

// Device is the memory of all weights from which the model computes.
func (p Peak) Device() int64 { return p.Weights + p.Slots }

// Step is a forward pass over some tokens.
type Step struct {
	Tokens   int    `json:"tokens"`
	Position int    `json:"position"` // of its first token
	Phase    string `json:"phase"`    // of its first token
	// StartSeconds is when its first layer needed experts, since the model was loaded;
	// Seconds is the time from then until its last layer was computed, 0 if it was not.
	StartSeconds float64 `json:"start_seconds"`
	Seconds      float64 `json:"seconds"`
	StallSeconds float64 `json:"stall_seconds"`
}

func (s Step) end() float64 { return s.StartSeconds + s.Seconds }

const maxSteps = 1 << 16

// counters are what Stats is made of.
type counters struct {
	stall              []time.Duration // [L]
	fromDisk, fromHost int64
	reading, writing   time.Duration
	predicting         time.Duration
	predictions        int64
	failed             int64
	opened             time.Time
	steps              []Step
	current            int // index in steps; -1: none
	costs              costs
}

func (c *counters) open(layers int) {
	c.stall, c.current, c.opened = make([]time.Duration, layers), -1, time.Now()
}

// enter begins a layer, and with the first a step.
func (c *counters) enter(rt *mixtral.Routing) {
	now := time.Now()
	c.costs.enter(rt, now)
	if rt.Layer > 0 {
		return
	}
	c.current = -1
	if len(c.steps) < maxSteps {
		c.current = len(c.steps)
		c.steps = append(c.steps, Step{Tokens: len(rt.Position), Position: int(rt.Position[0]), Phase: string(rt.Phase[0]), StartSeconds: now.Sub(c.opened).Seconds()})
	}
}

// leave ends a step with its last layer.
func (c *counters) leave(rt *mixtral.Routing) {
	if rt.Layer == rt.Layers-1 && c.current >= 0 {
		x := &c.steps[c.current]
		x.Seconds = time.Since(c.opened).Seconds() - x.StartSeconds
	}
}

// stalled counts that a layer waited.
func (s *Store) stalled(layer int, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.stall[layer] += d
	s.engine.Waited(d.Nanoseconds())
	s.stats.costs.waited += d
	if c := &s.stats; c.current >= 0 {
		c.steps[c.current].StallSeconds += d.Seconds()
	}
}

// times returns the mean times of a prompt, whose steps are successive, and of a
// decoded token.
func times(steps []Step) (first, token float64) {
	var prompts, tokens int
	prefill, decode := string(trace.Prefill), string(trace.Decode)
	for i := 0; i < len(steps); i++ {
		from := i
		switch {
		case steps[i].Phase == prefill:
			for i+1 < len(steps) && steps[i+1].Phase == prefill && steps[i+1].Position == steps[i].Position+steps[i].Tokens {
				i++
			}
			if steps[i].Seconds > 0 {
				first += steps[i].end() - steps[from].StartSeconds
				prompts++
			}
		case steps[i].Phase == decode && i > 0 && steps[i].Seconds > 0 && steps[i-1].Seconds > 0:
			token += steps[i].end() - steps[i-1].end()
			tokens++
		}
	}
	return first / float64(max(1, prompts)), token / float64(max(1, tokens))
}

// Stats returns what the store did so far.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil {
		return Stats{Policy: s.o.policy()}
	}
	c := &s.stats
	st := Stats{
		Policy: s.o.policy(), Slots: len(s.places), Resident: float64(len(s.places)) / float64(len(s.at)),
		DiskBytes: c.fromDisk, HostBytes: c.fromHost, ReadSeconds: c.reading.Seconds(), WriteSeconds: c.writing.Seconds(), Failed: c.failed,
		PredictSeconds: c.predicting.Seconds(), Predictions: c.predictions,
		Peak:  Peak{Weights: s.src.Resident, Slots: int64(len(s.places)) * int64(s.src.Bytes), Host: s.host.size()},
		Steps: slices.Clone(c.steps),
	}
	st.FirstTokenSeconds, st.TokenSeconds = times(st.Steps)
	st.Costs = c.costs.means()
	st.Costs.Streams = s.o.readers()
	st.Layers, st.Total = s.engine.Counts()
	for l, d := range c.stall {
		st.Layers[l].StallSeconds = d.Seconds()
		st.Total.StallSeconds += d.Seconds()
	}
	return st
}

func (o *Options) policy() prefetch.Policy {
	if o.Policy == "" {
		return prefetch.LRU
	}
	return o.Policy
}
