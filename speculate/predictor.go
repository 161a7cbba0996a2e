package speculate

import (
	"fmt"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// Requirements names what a predictor reads beyond the chosen experts.
type Requirements struct {
	TokenIDs bool `json:"token_ids,omitempty"`
	Weights  bool `json:"weights,omitempty"`
	Logits   bool `json:"router_logits,omitempty"`
	Inputs   bool `json:"router_inputs,omitempty"`
	// History is how many earlier tokens are read; -1: all of them.
	History int `json:"history,omitempty"`
}

// Check reports what a trace with this header lacks. Router logits and inputs
// must be recorded at every layer.
func (r Requirements) Check(h trace.Header) error {
	switch {
	case r.Logits && len(h.LogitLayers) != h.Model.Layers:
		return fmt.Errorf("speculate: the trace has router logits of %d of %d layers", len(h.LogitLayers), h.Model.Layers)
	case r.Inputs && (len(h.InputLayers) != h.Model.Layers || h.Model.Hidden == 0):
		return fmt.Errorf("speculate: the trace has router inputs of %d of %d layers", len(h.InputLayers), h.Model.Layers)
	}
	return nil
}

// Predictor names the experts of a (token, layer) ahead of time. Predict may be
// called by several goroutines at once, on views of different documents.
type Predictor interface {
	Name() string
	Requires() Requirements
	// Supports reports whether Predict can answer at h.
	Supports(h Horizon) bool
	// Predict writes, for each view, the probability of each expert to be among
	// those chosen, to out [len(views),E]; a row sums to about K. All views
	// have one sequence, layer and horizon. Its error is ErrHorizon, or names
	// what the views lack.
	Predict(views []View, out []float32) error
}

// Prediction is an answer about one (token, layer).
type Prediction struct {
	// Experts are all experts, likeliest first, [E]; ties go to the lower number.
	Experts []int32
	// Confidence is the probability of each of Experts to be chosen, [E].
	Confidence []float32
}

// newPrediction orders scores [E] as a Prediction.
func newPrediction(scores []float32) Prediction {
	p := Prediction{Experts: make([]int32, len(scores)), Confidence: make([]float32, len(scores))}
	prob.Rank(scores, p.Experts)
	for i, e := range p.Experts {
		p.Confidence[i] = scores[e]
	}
	return p
}

// same fails when views are not of one layer and horizon, or out is not [len(views),E].
func same(views []View, out []float32) (Shape, error) {
	if len(views) == 0 {
		return Shape{}, nil
	}
	v := views[0]
	for _, w := range views[1:] {
		if w.l != v.l || w.hor != v.hor || w.seq != v.seq {
			return Shape{}, fmt.Errorf("speculate: views of one call differ in document, layer or horizon")
		}
	}
	if len(out) != len(views)*v.seq.shape.Experts {
		return Shape{}, fmt.Errorf("speculate: %d scores for %d views of %d experts", len(out), len(views), v.seq.shape.Experts)
	}
	return v.seq.shape, nil
}
