package neural

import (
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
)

// Features say what a network reads of a view: a number of rows of each kind.
type Features struct {
	// Experts, Logits and Inputs count layers of the current token, from the
	// latest known one, l-h, down: routing weights of the chosen experts [E],
	// router logits [E], router inputs [D]. Ignored at horizons of one token.
	Experts int `json:"experts,omitempty"`
	Logits  int `json:"logits,omitempty"`
	Inputs  int `json:"inputs,omitempty"`
	// PastExperts, PastLogits and PastInputs count earlier tokens, from t-1
	// down, at the target layer.
	PastExperts int `json:"past_experts,omitempty"`
	PastLogits  int `json:"past_logits,omitempty"`
	PastInputs  int `json:"past_inputs,omitempty"`
	// IDs counts token ids, from the current token's down; each is embedded.
	IDs int `json:"ids,omitempty"`
}

// MLPConfig is the form of a network.
type MLPConfig struct {
	Name     string   `json:"name"`
	Features Features `json:"features"`
	// Width of the hidden layers, and their number; 0 layers leave the linear path alone.
	Width  int  `json:"width"`
	Depth  int  `json:"depth"`
	Embed  int  `json:"embed,omitempty"`  // width of a token id's embedding
	Linear bool `json:"linear,omitempty"` // a linear path from features to logits
	// Gate starts the linear path as the target layer's own router on the
	// latest router input. It needs Inputs, Linear, and gates to train with.
	Gate bool `json:"gate,omitempty"`
	// Statistics adds, gated against the learned part, the log odds of
	// predictors that count; see StatisticsAware.
	Statistics bool `json:"statistics,omitempty"`
	// Soft trains towards the router's softmax (Kullback-Leibler divergence)
	// where router logits are recorded; otherwise towards the chosen set
	// (binary cross-entropy of each expert).
	Soft bool `json:"soft,omitempty"`
}

// Validate reports a configuration that means no network.
func (c MLPConfig) Validate() error {
	f := c.Features
	for _, n := range []int{f.Experts, f.Logits, f.Inputs, f.PastExperts, f.PastLogits, f.PastInputs, f.IDs, c.Width, c.Depth, c.Embed} {
		if n < 0 || n > 1<<16 {
			return fmt.Errorf("neural: %s: a size of %d", c.Name, n)
		}
	}
	switch {
	case c.Name == "":
		return errors.New("neural: a configuration without a name")
	case c.Depth > 0 && c.Width == 0:
		return fmt.Errorf("neural: %s: %d layers of width 0", c.Name, c.Depth)
	case c.Depth == 0 && !c.Linear:
		return fmt.Errorf("neural: %s: neither layers nor a linear path", c.Name)
	case c.Depth == 0 && (f.IDs > 0 || c.Statistics):
		return fmt.Errorf("neural: %s: token ids and statistics need a hidden layer", c.Name)
	case (c.Embed > 0) != (f.IDs > 0):
		return fmt.Errorf("neural: %s: %d token ids embedded in %d", c.Name, f.IDs, c.Embed)
	case c.Gate && (f.Inputs == 0 || !c.Linear):
		return fmt.Errorf("neural: %s: a linear path that starts as the gate needs router inputs and Linear", c.Name)
	case f == Features{IDs: f.IDs} && f.IDs == 0:
		return fmt.Errorf("neural: %s: no features", c.Name)
	}
	return nil
}

func (c MLPConfig) name() string { return c.Name }
func (c MLPConfig) gated() bool  { return c.Gate }

func (c MLPConfig) fits(s speculate.Shape, _ []speculate.Horizon) error {
	if c.Features.IDs > 0 && s.Vocabulary == 0 {
		return fmt.Errorf("neural: %s reads token ids, but the trace does not state the size of the vocabulary", c.Name)
	}
	return nil
}

// Requires derives what views must hold.
func (c MLPConfig) Requires() speculate.Requirements {
	f := c.Features
	r := speculate.Requirements{
		TokenIDs: f.IDs > 0,
		Weights:  f.Experts+f.PastExperts > 0,
		Logits:   f.Logits+f.PastLogits > 0,
		Inputs:   f.Inputs+f.PastInputs > 0,
		History:  max(f.PastExperts, f.PastLogits, f.PastInputs, f.IDs-1),
	}
	if c.Statistics {
		r.History = max(r.History, 3)
	}
	return r
}

// withoutIDs returns c without token ids, for a trace that has none.
func (c MLPConfig) withoutIDs() MLPConfig {
	c.Features.IDs, c.Embed = 0, 0
	return c
}

// InterLayer reads the routing of earlier layers and of earlier tokens, and
// token ids: nothing but what a routing trace holds.
func InterLayer(width int) MLPConfig {
	return MLPConfig{Name: "inter-layer", Width: width, Depth: 2, Embed: 32, Linear: true,
		Features: Features{Experts: 16, PastExperts: 4, IDs: 2}}
}

// StatisticsAware reads what InterLayer reads, and gates its learned logits
// against the log odds that the frequencies, the previous token, the
// transition and the path of three give, by their entropies and the hidden
// state: log odds = sum_s 2 sigmoid(g_s) logit(p_s) + learned.
func StatisticsAware(width int) MLPConfig {
	c := InterLayer(width)
	c.Name, c.Statistics = "statistics-aware", true
	return c
}

// RouterLogits reads router logits of the latest layers and of earlier tokens
// at the target layer, and token ids; no hidden states.
func RouterLogits(width int) MLPConfig {
	return MLPConfig{Name: "router logits", Width: width, Depth: 3, Embed: 64, Linear: true, Soft: true,
		Features: Features{Logits: 16, PastLogits: 4, IDs: 2}}
}

// HiddenState reads router inputs and logits of the two latest layers, those
// of the token before at the target layer, and two token ids, with a linear
// path that starts as the target's own router.
func HiddenState(width int) MLPConfig {
	return MLPConfig{Name: "hidden state", Width: width, Depth: 3, Embed: 64, Linear: true, Gate: true, Soft: true,
		Features: Features{Inputs: 2, Logits: 1, PastInputs: 1, PastLogits: 1, IDs: 2}}
}

// CorrectedGate is the target's router on the latest router input, with a
// trained linear correction and no hidden layer.
func CorrectedGate() MLPConfig {
	return MLPConfig{Name: "corrected gate", Linear: true, Gate: true, Soft: true, Features: Features{Inputs: 2}}
}
