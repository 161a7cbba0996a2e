package neural

import (
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/speculate"
)

// TransformerConfig is the configuration of a [Transformer]: a causal transformer
// over tokens (Vaswani et al. 2017), and a perceptron for each horizon and target
// layer. The transformer reads each token's id and the routing of all layers at the
// token before. The perceptrons read its state and the known routing of the current
// token; at horizon token, where the id is unknown, the state and the routing of the
// token before, zeros before the first. A trace with an encoder's tokens is an error; see [speculate.Data.Decoder].
type TransformerConfig struct {
	Name string `json:"name"`
	// Inputs reads router inputs: of all layers at the token before, and of the two
	// latest known layers of the current token. Without it routing weights are read:
	// of all layers at the token before, and of all known layers of the current token.
	Inputs bool `json:"inputs,omitempty"`
	// Logits reads router logits beside routing weights. It requires Soft and
	// excludes Inputs.
	Logits bool `json:"logits,omitempty"`
	// Blocks, Width (C) and Heads are sizes of the transformer. The width of a head,
	// C/Heads, must be a multiple of 8.
	Blocks int `json:"blocks"`
	Width  int `json:"width"`
	Heads  int `json:"heads"`
	// Window is the number of tokens that attention reads, including the current
	// one. Longer documents are cut into parts of this size for training.
	Window int `json:"window"`
	// HeadWidth (H) and HeadDepth are sizes of the residual perceptron of each
	// horizon and target layer.
	HeadWidth int `json:"head_width"`
	HeadDepth int `json:"head_depth"`
	// ExpertWidth (M), if not 0, is the width of a perceptron for each expert, which
	// reads the latest known router input. Those of the experts chosen there are
	// added by routing weight, as in the model. It requires Inputs.
	ExpertWidth int `json:"expert_width,omitempty"`
	// Gate and Soft are as in [MLPConfig].
	Gate bool `json:"gate,omitempty"`
	Soft bool `json:"soft,omitempty"`
}

// Validate reports a configuration that is invalid.
func (c TransformerConfig) Validate() error {
	for _, n := range []int{c.Blocks, c.Width, c.Heads, c.Window, c.HeadWidth, c.HeadDepth} {
		if n < 1 || n > 1<<14 {
			return fmt.Errorf("neural: %s: got a size of %d, expected 1 to 16384", c.Name, n)
		}
	}
	switch {
	case c.Name == "":
		return errors.New("neural: a configuration has no name")
	case c.Width%c.Heads != 0 || c.Width/c.Heads%8 != 0:
		return fmt.Errorf("neural: %s: width %d with %d heads; the width of a head must be a multiple of 8", c.Name, c.Width, c.Heads)
	case c.ExpertWidth < 0 || c.ExpertWidth > 1<<14:
		return fmt.Errorf("neural: %s: got an expert width of %d, expected 0 to 16384", c.Name, c.ExpertWidth)
	case c.Logits && (c.Inputs || !c.Soft):
		return fmt.Errorf("neural: %s: Logits requires Soft and excludes Inputs", c.Name)
	case !c.Inputs && (c.ExpertWidth > 0 || c.Gate):
		return fmt.Errorf("neural: %s: ExpertWidth and Gate require Inputs", c.Name)
	}
	return nil
}

// Requires returns what the network reads.
func (c TransformerConfig) Requires() speculate.Requirements {
	return speculate.Requirements{TokenIDs: true, Weights: true, Logits: c.Logits, Inputs: c.Inputs, History: c.Window}
}

func routingTransformer(blocks, width, window int) TransformerConfig {
	return TransformerConfig{Name: "routing transformer", Blocks: blocks, Width: width, Heads: width / 32, Window: window,
		HeadWidth: width / 2, HeadDepth: 2, Soft: true}
}

func logitTransformer(blocks, width, window int) TransformerConfig {
	c := routingTransformer(blocks, width, window)
	c.Name, c.Logits = "router-logit transformer", true
	return c
}

func hiddenTransformer(blocks, width, window int) TransformerConfig {
	return TransformerConfig{Name: "hidden transformer", Inputs: true, Blocks: blocks, Width: width, Heads: width / 32, Window: window,
		HeadWidth: width, HeadDepth: 3, ExpertWidth: width / 4, Gate: true, Soft: true}
}

// extent holds the sizes of a transformer's arrays: G heads, P features of the
// token before, F of the current one.
type extent struct{ g, p, f, l, e, d, v int }

func (c TransformerConfig) extent(s speculate.Shape, hs []speculate.Horizon) extent {
	z := extent{g: len(heads(s, hs)), l: s.Layers, e: s.Experts, d: s.Hidden, v: s.Vocabulary, p: s.Layers * s.Experts, f: s.Layers * s.Experts}
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

func (c TransformerConfig) fits(s speculate.Shape, _ []speculate.Horizon) error {
	if s.Encoder > 0 {
		return fmt.Errorf("neural: %s reads tokens one after another, which an encoder does not compute so; take the decoder's part of the trace, speculate.Data.Decoder", c.Name)
	}
	if s.Vocabulary == 0 {
		return fmt.Errorf("neural: %s reads token ids, but the trace does not state the size of the vocabulary", c.Name)
	}
	if c.Inputs && s.Hidden == 0 {
		return fmt.Errorf("neural: %s reads router inputs, but the trace does not state their width", c.Name)
	}
	return nil
}
