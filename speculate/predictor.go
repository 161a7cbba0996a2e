package speculate

import (
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// Requirements are what a predictor reads besides the chosen experts.
type Requirements struct {
	TokenIDs bool `json:"token_ids,omitempty"`
	Weights  bool `json:"weights,omitempty"`
	Logits   bool `json:"router_logits,omitempty"`
	Inputs   bool `json:"router_inputs,omitempty"`
	// History is the number of earlier tokens that are read; a negative number
	// means all of them.
	History int `json:"history,omitempty"`
}

// Check returns an error if a trace with header h lacks what is required. Router
// logits and router inputs must be recorded at every layer.
func (r Requirements) Check(h trace.Header) error {
	switch {
	case r.Logits && len(h.LogitLayers) != h.Model.Layers:
		return fmt.Errorf("router logits are required at all layers; the trace has those of %d of %d layers", len(h.LogitLayers), h.Model.Layers)
	case r.Inputs && (len(h.InputLayers) != h.Model.Layers || h.Model.Hidden == 0):
		return fmt.Errorf("router inputs are required at all layers; the trace has those of %d of %d layers", len(h.InputLayers), h.Model.Layers)
	}
	return nil
}

// Predictor predicts the experts of a token at a layer. Predict may be called by
// several goroutines at a time, with views of different documents. It must not
// keep views, or what it read from them, after it returns; see [View.Memory].
type Predictor interface {
	Name() string
	Requires() Requirements
	// Supports reports whether Predict can answer at h.
	Supports(h Horizon) bool
	// Predict writes to out, [len(views),E], for each view the probability of each
	// expert to be among those chosen. A row adds up to about K. All views are of
	// one document, layer and horizon, and an answer depends on its own view only.
	// The error is ErrHorizon, or says which signal is not recorded.
	Predict(views []View, out []float32) error
}

// Partial is a [Predictor] that answers about some layers only, such as those of the
// decoder of a model with an encoder.
type Partial interface {
	Predictor
	// SupportsLayer reports whether Predict can answer at h, which it supports, about
	// a layer of a model of shape s.
	SupportsLayer(s Shape, h Horizon, layer int) bool
}

// Supports reports whether p can answer at h about a layer of a model of shape s.
func Supports(p Predictor, s Shape, h Horizon, layer int) bool {
	if !p.Supports(h) {
		return false
	}
	q, ok := p.(Partial)
	return !ok || q.SupportsLayer(s, h, layer)
}

// Prediction is the answer about one token at one layer.
type Prediction struct {
	// Experts are all experts, likeliest first, [E]. Ties go to the lower number.
	Experts []int32
	// Confidence is the probability of each of Experts to be chosen, [E].
	Confidence []float32
}

// newPrediction returns the prediction of scores, [E].
func newPrediction(scores []float32) Prediction {
	p := Prediction{Experts: make([]int32, len(scores)), Confidence: make([]float32, len(scores))}
	prob.Rank(scores, p.Experts)
	for i, e := range p.Experts {
		p.Confidence[i] = scores[e]
	}
	return p
}

// same returns the shape of views that are of one document, layer and horizon, for
// out of [len(views),E].
func same(views []View, out []float32) (Shape, error) {
	if len(views) == 0 {
		return Shape{}, nil
	}
	v := views[0]
	for _, w := range views[1:] {
		if w.l != v.l || w.hor != v.hor || w.seq != v.seq {
			return Shape{}, errors.New("views of one call differ in document, layer or horizon")
		}
	}
	if len(out) != len(views)*v.seq.shape.Experts {
		return Shape{}, fmt.Errorf("got %d scores for %d views of %d experts", len(out), len(views), v.seq.shape.Experts)
	}
	return v.seq.shape, nil
}
