package speculate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrHorizon is the error of a predictor at a horizon that it was not fitted for
// or that its inputs do not allow.
var ErrHorizon = errors.New("horizon not supported by the predictor")

// Horizon is how early a prediction is made. The zero value is one token ahead,
// where the id of the predicted token is unknown.
type Horizon struct {
	// Layers is the distance h in MoE layers: the routing of token t is known up to
	// and including layer l-h. 0 means one token ahead, where nothing of token t's
	// routing is known.
	Layers int `json:"layers"`
	// KnownID means, where Layers is 0, that the id of token t itself is known: it
	// has been sampled, or belongs to the prompt.
	KnownID bool `json:"known_id,omitempty"`
}

// LayersAhead returns the horizons of distances h.
func LayersAhead(h ...int) []Horizon {
	hs := make([]Horizon, len(h))
	for i, d := range h {
		hs[i] = Horizon{Layers: d}
	}
	return hs
}

// String returns "h=2", "token" or "token+id".
func (h Horizon) String() string {
	switch {
	case h.Layers > 0:
		return "h=" + strconv.Itoa(h.Layers)
	case h.KnownID:
		return "token+id"
	default:
		return "token"
	}
}

// ParseHorizon parses what [Horizon.String] returns. A plain number is a distance
// in layers.
func ParseHorizon(s string) (Horizon, error) {
	switch s {
	case "token":
		return Horizon{}, nil
	case "token+id":
		return Horizon{KnownID: true}, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(s, "h="))
	if err != nil || n < 1 {
		return Horizon{}, fmt.Errorf(`speculate: horizon %q: expected "token", "token+id" or a number of layers of at least 1`, s)
	}
	return Horizon{Layers: n}, nil
}

// Validate returns an error for a distance that is negative or not below the
// number of layers, those of [Shape.Depth], and for KnownID with a distance in layers, which implies it.
func (h Horizon) Validate(layers int) error {
	switch {
	case h.Layers < 0 || h.Layers >= layers && h.Layers > 0:
		return fmt.Errorf("speculate: horizon of %d layers in a model of %d; must be 0 to %d", h.Layers, layers, layers-1)
	case h.Layers > 0 && h.KnownID:
		return fmt.Errorf("speculate: horizon of %d layers: KnownID is for horizons of one token", h.Layers)
	}
	return nil
}

// FirstLayer returns the lowest target layer that is evaluated at this horizon in a
// model of one stack; see [Shape.Targets].
func (h Horizon) FirstLayer() int { return h.Layers }
