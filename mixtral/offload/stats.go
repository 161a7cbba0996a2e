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
	// Failed is the number of reads that ended with an error or were cancelled.
	Failed int64 `json:"failed"`
	// PredictSeconds is the time that predictors took.
	PredictSeconds float64 `json:"predict_seconds"`
	Peak           Peak    `json:"peak"`
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

// Step is a forward pass over some tokens of a document.
type Step struct {
	Tokens       int     `json:"tokens"`
	Phase        string  `json:"phase"` // of its first token
	StallSeconds float64 `json:"stall_seconds"`
}

const maxSteps = 1 << 16

// counters are what Stats is made of.
type counters struct {
	stall              []time.Duration // [L]
	fromDisk, fromHost int64
	reading            time.Duration
	predicting         time.Duration
	failed             int64
	steps              []Step
	current            int // index in steps; -1: none
}

func (c *counters) open(layers int) { c.stall, c.current = make([]time.Duration, layers), -1 }

// step begins a step where rt is of its first layer.
func (c *counters) step(rt *mixtral.Routing) {
	if rt.Layer > 0 {
		return
	}
	c.current = -1
	if len(c.steps) < maxSteps {
		c.current = len(c.steps)
		phase := trace.Prefill
		if len(rt.Phase) > 0 {
			phase = rt.Phase[0]
		}
		c.steps = append(c.steps, Step{Tokens: len(rt.Position), Phase: string(phase)})
	}
}

// stalled counts that a layer waited.
func (s *Store) stalled(layer int, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.stall[layer] += d
	if c := &s.stats; c.current >= 0 {
		c.steps[c.current].StallSeconds += d.Seconds()
	}
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
		DiskBytes: c.fromDisk, HostBytes: c.fromHost, ReadSeconds: c.reading.Seconds(), Failed: c.failed, PredictSeconds: c.predicting.Seconds(),
		Peak:  Peak{Weights: s.src.Resident, Slots: int64(len(s.places)) * int64(s.src.Bytes), Host: s.host.size()},
		Steps: slices.Clone(c.steps),
	}
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
