package mixtral

import (
	"fmt"
	"math"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
)

// Config is the shape of a Mixtral model: its config.json, with the defaults of
// transformers' MixtralConfig for absent fields.
type Config struct {
	VocabSize        int // V
	HiddenSize       int // D
	IntermediateSize int // F, the width of one expert
	Layers           int // L
	Heads            int // H
	KVHeads          int // key and value heads; divides H
	HeadDim          int // width of one head; even
	Experts          int // E, per layer
	TopK             int // K, experts per token
	// SlidingWindow is the number of tokens, itself included, that a token attends
	// to; 0: itself and all before it.
	SlidingWindow int
	RMSNormEps    float64
	RopeTheta     float64 // the rotary embedding's base
	MaxPositions  int     // the longest sequence that the model was trained for, in tokens
	BOS           int     // id of the begin-of-text token; -1: none
	EOS           []int   // ids that end a text; may be empty
	// TieEmbeddings means that the output head is the embedding matrix.
	TieEmbeddings bool
	// DType is the weights' type as config.json names it ("bfloat16"), or empty.
	// The tensors may differ from it.
	DType string
}

// configFile is the file that errors about a Config name.
const configFile = checkpoint.ConfigFile

// maxSize bounds every size of a Config: products of any two fit into 63 bits.
const maxSize = math.MaxInt32

// Validate returns an error about the first invalid field, named as in config.json.
func (c Config) Validate() error {
	sizes := []struct {
		field string
		value int
	}{
		{"vocab_size", c.VocabSize},
		{"hidden_size", c.HiddenSize},
		{"intermediate_size", c.IntermediateSize},
		{"num_hidden_layers", c.Layers},
		{"num_attention_heads", c.Heads},
		{"num_key_value_heads", c.KVHeads},
		{"head_dim", c.HeadDim},
		{"num_local_experts", c.Experts},
		{"num_experts_per_tok", c.TopK},
		{"max_position_embeddings", c.MaxPositions},
	}
	for _, s := range sizes {
		if s.value <= 0 || s.value > maxSize {
			return fieldErrorf(s.field, "%d is not from 1 to %d", s.value, maxSize)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fieldErrorf("num_key_value_heads", "%d does not divide num_attention_heads, %d", c.KVHeads, c.Heads)
	case c.HeadDim%2 != 0:
		return fieldErrorf("head_dim", "%d is odd: rotary embeddings turn pairs", c.HeadDim)
	case int64(c.Heads)*int64(c.HeadDim) > maxSize:
		return fieldErrorf("head_dim", "%d heads of %d are too many", c.Heads, c.HeadDim)
	case c.TopK > c.Experts:
		return fieldErrorf("num_experts_per_tok", "%d is above num_local_experts, %d", c.TopK, c.Experts)
	case c.SlidingWindow < 0 || c.SlidingWindow > maxSize:
		return fieldErrorf("sliding_window", "%d is not from 1 to %d", c.SlidingWindow, maxSize)
	case !(c.RMSNormEps >= 0) || c.RMSNormEps > 1:
		return fieldErrorf("rms_norm_eps", "%v is not from 0 to 1", c.RMSNormEps)
	case !(c.RopeTheta > 0) || math.IsInf(c.RopeTheta, 0):
		return fieldErrorf("rope_theta", "%v is not positive", c.RopeTheta)
	case c.BOS < -1 || c.BOS >= c.VocabSize:
		return fieldErrorf("bos_token_id", "%d is outside the vocabulary of %d", c.BOS, c.VocabSize)
	}
	for _, id := range c.EOS {
		if id < 0 || id >= c.VocabSize {
			return fieldErrorf("eos_token_id", "%d is outside the vocabulary of %d", id, c.VocabSize)
		}
	}
	return nil
}

func fieldErrorf(field, format string, args ...any) error {
	return checkpoint.FieldError(configFile, field, format, args...)
}

// fields are config.json, or an object in it.
type fields struct{ *checkpoint.Fields }

func parseFields(text []byte) (fields, error) {
	f, err := checkpoint.ParseFields(configFile, text)
	return fields{f}, err
}

// parseConfig reads the text of a config.json. Fields that change what the model
// computes and that this package does not implement are errors; fields that do not
// (use_cache, attention_dropout, _name_or_path and any that MixtralConfig does not
// know) are ignored, as transformers does. The result is valid.
func parseConfig(text []byte) (Config, error) {
	f, err := parseFields(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", configFile, err)
	}
	f.refuseUnimplemented()
	// The defaults are those of transformers 5.23, configuration_mixtral.py.
	c := Config{
		VocabSize:        f.Int("vocab_size", 32000),
		HiddenSize:       f.Int("hidden_size", 4096),
		IntermediateSize: f.Int("intermediate_size", 14336),
		Layers:           f.Int("num_hidden_layers", 32),
		Heads:            f.Int("num_attention_heads", 32),
		Experts:          f.Int("num_local_experts", f.Int("num_experts", 8)),
		TopK:             f.Int("num_experts_per_tok", 2),
		RMSNormEps:       f.Float("rms_norm_eps", 1e-5),
		MaxPositions:     f.Int("max_position_embeddings", 4096*32),
		TieEmbeddings:    f.Bool("tie_word_embeddings", false),
		DType:            f.String("dtype", f.String("torch_dtype", "")),
		BOS:              1,
		EOS:              []int{2},
	}
	if n := f.Int("num_experts", c.Experts); n != c.Experts {
		f.Fail("num_experts", "%d is not num_local_experts, %d", n, c.Experts)
	}
	if f.Null("num_key_value_heads") {
		c.KVHeads = c.Heads
	} else {
		c.KVHeads = f.Int("num_key_value_heads", 8)
	}
	if f.Absent("head_dim") || f.Null("head_dim") {
		// As transformers: the quotient, rounded down.
		c.HeadDim = c.HiddenSize / max(c.Heads, 1)
	} else {
		c.HeadDim = f.Int("head_dim", 0)
	}
	if !f.Absent("sliding_window") && !f.Null("sliding_window") {
		if c.SlidingWindow = f.Int("sliding_window", 0); c.SlidingWindow <= 0 {
			f.Fail("sliding_window", "%d is neither null nor positive", c.SlidingWindow)
		}
	}
	if f.Null("bos_token_id") {
		c.BOS = -1
	} else if c.BOS = f.Int("bos_token_id", 1); c.BOS < 0 {
		f.Fail("bos_token_id", "%d is negative", c.BOS)
	}
	c.EOS = f.Ints("eos_token_id", c.EOS)
	c.RopeTheta = f.ropeTheta()
	if f.Err != nil {
		return Config{}, f.Err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}
