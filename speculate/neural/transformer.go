package neural

import (
	"errors"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/speculate"
)

// TransformerConfig is the form of a [Transformer]: a causal transformer over
// tokens (Vaswani et al. 2017) that works on each token once, as soon as its id
// is known, and a small network for each horizon and target layer, which joins
// the transformer's state with what the layers so far have shown.
//
// The transformer reads each token's id, and what all layers did at the token
// before it.
type TransformerConfig struct {
	Name string `json:"name"`
	// Inputs says that router inputs are read, of all layers at the token before
	// and of the two latest known layers of the current token; else the routing
	// weights of all layers at the token before and of all known ones of the
	// current token.
	Inputs bool `json:"inputs,omitempty"`
	// Logits adds router logits to the routing weights. It needs Soft, and
	// excludes Inputs.
	Logits bool `json:"logits,omitempty"`
	// Blocks, Width (C) and Heads form the transformer; a head's width, C/Heads,
	// is a multiple of 8.
	Blocks int `json:"blocks"`
	Width  int `json:"width"`
	Heads  int `json:"heads"`
	// Window is how many tokens attention reaches over, the current one
	// included. Training cuts longer documents into parts of it.
	Window int `json:"window"`
	// HeadWidth (H) and HeadDepth form the residual perceptron of each horizon
	// and target layer.
	HeadWidth int `json:"head_width"`
	HeadDepth int `json:"head_depth"`
	// ExpertWidth (M), where not 0, gives each expert a perceptron of its own on
	// the latest known router input; those of the chosen experts are added, by
	// routing weight, as the layer itself does. It needs Inputs.
	ExpertWidth int `json:"expert_width,omitempty"`
	// Gate and Soft as in [MLPConfig].
	Gate bool `json:"gate,omitempty"`
	Soft bool `json:"soft,omitempty"`
}

// Validate reports a configuration that means no network.
func (c TransformerConfig) Validate() error {
	for _, n := range []int{c.Blocks, c.Width, c.Heads, c.Window, c.HeadWidth, c.HeadDepth} {
		if n < 1 || n > 1<<14 {
			return fmt.Errorf("neural: %s: a size of %d", c.Name, n)
		}
	}
	switch {
	case c.Name == "":
		return errors.New("neural: a configuration without a name")
	case c.Width%c.Heads != 0 || c.Width/c.Heads%8 != 0:
		return fmt.Errorf("neural: %s: width %d in %d heads: want a multiple of 8 a head", c.Name, c.Width, c.Heads)
	case c.ExpertWidth < 0 || c.ExpertWidth > 1<<14:
		return fmt.Errorf("neural: %s: an expert width of %d", c.Name, c.ExpertWidth)
	case c.Logits && (c.Inputs || !c.Soft):
		return fmt.Errorf("neural: %s: router logits exclude router inputs and need soft targets", c.Name)
	case !c.Inputs && (c.ExpertWidth > 0 || c.Gate):
		return fmt.Errorf("neural: %s: expert width and gate need router inputs", c.Name)
	}
	return nil
}

// Requires derives what views must hold.
func (c TransformerConfig) Requires() speculate.Requirements {
	return speculate.Requirements{TokenIDs: true, Weights: true, Logits: c.Logits, Inputs: c.Inputs, History: c.Window}
}

// RoutingTransformer reads routing and token ids alone, for documents of up to
// window tokens. width is the transformer's, a multiple of 32.
func RoutingTransformer(blocks, width, window int) TransformerConfig {
	return TransformerConfig{Name: "routing transformer", Blocks: blocks, Width: width, Heads: width / 32, Window: window,
		HeadWidth: width / 2, HeadDepth: 2, Soft: true}
}

// LogitTransformer is [RoutingTransformer] with router logits.
func LogitTransformer(blocks, width, window int) TransformerConfig {
	c := RoutingTransformer(blocks, width, window)
	c.Name, c.Logits = "router-logit transformer", true
	return c
}

// HiddenTransformer reads router inputs too, and starts as the target layers'
// routers. width is the transformer's and its heads', a multiple of 32.
func HiddenTransformer(blocks, width, window int) TransformerConfig {
	return TransformerConfig{Name: "hidden transformer", Inputs: true, Blocks: blocks, Width: width, Heads: width / 32, Window: window,
		HeadWidth: width, HeadDepth: 3, ExpertWidth: width / 4, Gate: true, Soft: true}
}

// extent is the sizes of a transformer's arrays: G heads, P features of the
// token before, F of the current one.
type extent struct{ g, p, f, l, e, d, v int }

func (c TransformerConfig) extent(s speculate.Shape, hs []speculate.Horizon) extent {
	z := extent{g: len(heads(s.Layers, hs)), l: s.Layers, e: s.Experts, d: s.Hidden, v: s.Vocabulary, p: s.Layers * s.Experts, f: s.Layers * s.Experts}
	switch {
	case c.Inputs:
		z.p, z.f = s.Layers*s.Hidden, 2*s.Hidden
	case c.Logits:
		z.p, z.f = 2*z.p, 2*z.f
	}
	return z
}

func (c TransformerConfig) name() string { return c.Name }
func (c TransformerConfig) gated() bool  { return c.Gate }

func (c TransformerConfig) fits(s speculate.Shape, hs []speculate.Horizon) error {
	if s.Vocabulary == 0 {
		return fmt.Errorf("neural: %s reads token ids, but the trace does not state the size of the vocabulary", c.Name)
	}
	if c.Inputs && s.Hidden == 0 {
		return fmt.Errorf("neural: %s reads router inputs, but the trace does not state their width", c.Name)
	}
	if slices.Contains(hs, speculate.Horizon{}) {
		return fmt.Errorf("neural: %s reads the token's id, which is not known at horizon %v", c.Name, speculate.Horizon{})
	}
	return nil
}
