package neural

import (
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
)

// Features are what an [MLP] reads of a view: a number of rows of each kind. What
// is not known is 0.
type Features struct {
	// Experts, Logits and Inputs are numbers of layers of the current token, from
	// the latest known one, l-h, down: routing weights of the chosen experts, [E],
	// router logits, [E], and router inputs, [D]. At horizons of one token nothing of
	// them is known.
	Experts int `json:"experts,omitempty"`
	Logits  int `json:"logits,omitempty"`
	Inputs  int `json:"inputs,omitempty"`
	// PastExperts, PastLogits and PastInputs are numbers of earlier tokens, from t-1
	// down, at the target layer.
	PastExperts int `json:"past_experts,omitempty"`
	PastLogits  int `json:"past_logits,omitempty"`
	PastInputs  int `json:"past_inputs,omitempty"`
	// IDs is the number of token ids, from the current token down. Each is embedded.
	IDs int `json:"ids,omitempty"`
}

// MLPConfig is the configuration of an [MLP].
type MLPConfig struct {
	Name     string   `json:"name"`
	Features Features `json:"features"`
	Width    int      `json:"width"`            // of the hidden layers
	Depth    int      `json:"depth"`            // number of hidden layers; 0 if there is only a linear path
	Embed    int      `json:"embed,omitempty"`  // width of a token id's embedding
	Linear   bool     `json:"linear,omitempty"` // a linear path from features to logits
	// Gate starts the linear path as the target layer's router on the latest
	// router input. It requires Inputs, Linear, and TrainOptions.Gates.
	Gate bool `json:"gate,omitempty"`
	// Statistics adds the log odds of predictors that count; see StatisticsAware.
	Statistics bool `json:"statistics,omitempty"`
	// Soft trains towards the router's softmax (Kullback-Leibler divergence) where
	// all router logits are recorded. Otherwise the target is the set of chosen
	// experts (binary cross-entropy of each expert).
	Soft bool `json:"soft,omitempty"`
}

// Validate reports a configuration that is invalid.
func (c MLPConfig) Validate() error {
	f := c.Features
	for _, n := range []int{f.Experts, f.Logits, f.Inputs, f.PastExperts, f.PastLogits, f.PastInputs, f.IDs, c.Width, c.Depth, c.Embed} {
		if n < 0 || n > 1<<16 {
			return fmt.Errorf("neural: %s: got a size of %d, expected 0 to 65536", c.Name, n)
		}
	}
	switch {
	case c.Name == "":
		return errors.New("neural: a configuration has no name")
	case c.Depth > 0 && c.Width == 0:
		return fmt.Errorf("neural: %s: %d hidden layers of width 0", c.Name, c.Depth)
	case c.Depth == 0 && !c.Linear:
		return fmt.Errorf("neural: %s: neither hidden layers nor a linear path", c.Name)
	case c.Depth == 0 && (f.IDs > 0 || c.Statistics):
		return fmt.Errorf("neural: %s: token ids and statistics require a hidden layer", c.Name)
	case (c.Embed > 0) != (f.IDs > 0):
		return fmt.Errorf("neural: %s: %d token ids with embeddings of width %d", c.Name, f.IDs, c.Embed)
	case c.Gate && (f.Inputs == 0 || !c.Linear):
		return fmt.Errorf("neural: %s: Gate requires router inputs and Linear", c.Name)
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

// Requires returns what the network reads.
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

// InterLayer returns a configuration that reads the routing of 16 layers and of 4
// tokens, and 2 token ids: only what every trace records.
func InterLayer(width int) MLPConfig {
	return MLPConfig{Name: "inter-layer", Width: width, Depth: 2, Embed: 32, Linear: true,
		Features: Features{Experts: 16, PastExperts: 4, IDs: 2}}
}

// StatisticsAware returns a configuration that reads what [InterLayer] reads, and
// adds to its logits those of the predictors that count: frequency, previous
// token, transition and path of three. Their gates g are a linear map of the last
// hidden layer and of the entropies of the predictions p:
//
//	log odds = learned + sum over s of 2 sigmoid(g_s) logit(p_s)
func StatisticsAware(width int) MLPConfig {
	c := InterLayer(width)
	c.Name, c.Statistics = "statistics-aware", true
	return c
}

// RouterLogits returns a configuration that reads the router logits of 16 layers,
// those of 4 tokens at the target layer, and 2 token ids.
func RouterLogits(width int) MLPConfig {
	return MLPConfig{Name: "router logits", Width: width, Depth: 3, Embed: 64, Linear: true, Soft: true,
		Features: Features{Logits: 16, PastLogits: 4, IDs: 2}}
}

// HiddenState returns a configuration that reads the router inputs of the two
// latest layers, the router logits of the latest one, both of the token before at
// the target layer, and 2 token ids. Its linear path starts as the target layer's
// router.
func HiddenState(width int) MLPConfig {
	return MLPConfig{Name: "hidden state", Width: width, Depth: 3, Embed: 64, Linear: true, Gate: true, Soft: true,
		Features: Features{Inputs: 2, Logits: 1, PastInputs: 1, PastLogits: 1, IDs: 2}}
}

// CorrectedGate returns a configuration without hidden layers. Its linear path
// reads the router inputs of the two latest layers and starts as the target
// layer's router.
func CorrectedGate() MLPConfig {
	return MLPConfig{Name: "corrected gate", Linear: true, Gate: true, Soft: true, Features: Features{Inputs: 2}}
}
