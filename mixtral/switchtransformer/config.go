package switchtransformer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace"
)

// Config is the shape of a Switch Transformer: its config.json, with the defaults of
// transformers' SwitchTransformersConfig for absent fields.
type Config struct {
	VocabSize        int // V
	HiddenSize       int // D
	HeadDim          int // width of one head; H of them need not add up to D
	IntermediateSize int // F, the width of one expert and of a dense feed-forward
	Heads            int // H
	Experts          int // E, per MoE layer
	Capacity         int // C, tokens of a sequence that an expert computes
	EncoderBlocks    int
	DecoderBlocks    int
	// EncoderStep and DecoderStep say which blocks have experts (see MoEBlocks):
	// with 1 all, with n > 1 blocks 1, n+1, 2n+1 and so on, with 0 none.
	EncoderStep int
	DecoderStep int
	RouterBias  bool
	Activation  string // relu, gelu, gelu_new or silu
	NormEps     float64
	Buckets     int // of relative positions
	MaxDistance int // from which on relative positions share a bucket
	// TieEmbeddings means that the output head is the embedding matrix, and that what
	// it multiplies is scaled by 1/sqrt(D). Where the checkpoint holds another head,
	// that one is used, scaled too, as in transformers 5.
	TieEmbeddings bool
	Pad           int   // id of padding; -1: none
	EOS           []int // ids that end a text; may be empty
	DecoderStart  int   // id that the decoder starts with; -1: none
	// DType is the weights' type as config.json names it ("bfloat16"), or empty.
	// The tensors may differ from it.
	DType string
}

// Stack is one of the model's two.
type Stack int

const (
	Encoder Stack = iota
	Decoder
)

// String returns encoder or decoder, as in a trace and in names of tensors.
func (s Stack) String() string {
	if s == Decoder {
		return trace.Decoder
	}
	return trace.Encoder
}

const stacks = 2

// Blocks returns the number of a stack's blocks.
func (c *Config) Blocks(s Stack) int {
	if s == Decoder {
		return c.DecoderBlocks
	}
	return c.EncoderBlocks
}

// MoEBlocks returns the blocks of a stack's MoE layers, 0-based, [L].
func (c *Config) MoEBlocks(s Stack) []int {
	step := c.EncoderStep
	if s == Decoder {
		step = c.DecoderStep
	}
	var blocks []int
	for i := range c.Blocks(s) {
		if step == 1 || step > 1 && i%step == 1 {
			blocks = append(blocks, i)
		}
	}
	return blocks
}

// sparse reports whether a block has experts.
func (c *Config) sparse(s Stack, block int) bool {
	step := c.EncoderStep
	if s == Decoder {
		step = c.DecoderStep
	}
	return step == 1 || step > 1 && block%step == 1
}

// TraceModel returns the model's description in a trace's header: the encoder's
// layers, then the decoder's.
func (c *Config) TraceModel(name string) trace.Model {
	m := trace.Model{Name: name, Experts: c.Experts, TopK: 1, Hidden: c.HiddenSize, Vocabulary: c.VocabSize}
	for s := range Stack(stacks) {
		if blocks := c.MoEBlocks(s); len(blocks) > 0 {
			m.Layers += len(blocks)
			m.Stacks = append(m.Stacks, trace.Stack{Name: s.String(), Layers: len(blocks), Blocks: blocks})
		}
	}
	return m
}

// maxSize bounds every size of a Config: products of any two fit into 63 bits.
const maxSize = math.MaxInt32

// activations are the functions of a feed-forward that are implemented, by their
// names in transformers.
var activations = []string{"relu", "gelu", "gelu_new", "silu"}

// Validate returns an error about the first invalid field, named as in config.json.
func (c *Config) Validate() error {
	sizes := []struct {
		field        string
		value, least int
	}{
		{"vocab_size", c.VocabSize, 1},
		{"d_model", c.HiddenSize, 1},
		{"d_kv", c.HeadDim, 1},
		{"d_ff", c.IntermediateSize, 1},
		{"num_heads", c.Heads, 1},
		{"num_experts", c.Experts, 1},
		{"expert_capacity", c.Capacity, 0},
		{"num_layers", c.EncoderBlocks, 1},
		{"num_decoder_layers", c.DecoderBlocks, 1},
		{"encoder_sparse_step", c.EncoderStep, 0},
		{"decoder_sparse_step", c.DecoderStep, 0},
		{"relative_attention_num_buckets", c.Buckets, 4},
		{"relative_attention_max_distance", c.MaxDistance, 1},
	}
	for _, s := range sizes {
		if s.value < s.least || s.value > maxSize {
			return fieldError(s.field, "%d is not from %d to %d", s.value, s.least, maxSize)
		}
	}
	switch {
	case int64(c.Heads)*int64(c.HeadDim) > maxSize:
		return fieldError("d_kv", "%d heads of %d are too many", c.Heads, c.HeadDim)
	case c.Buckets/2 >= c.MaxDistance:
		return fieldError("relative_attention_max_distance", "%d is not above half of relative_attention_num_buckets, %d", c.MaxDistance, c.Buckets)
	case !slices.Contains(activations, c.Activation):
		return fieldError("dense_act_fn", "%q is not implemented; must be one of %q", c.Activation, activations)
	case !(c.NormEps >= 0) || c.NormEps > 1:
		return fieldError("layer_norm_epsilon", "%v is not from 0 to 1", c.NormEps)
	case c.Pad < -1 || c.Pad >= c.VocabSize:
		return fieldError("pad_token_id", "%d is outside the vocabulary of %d", c.Pad, c.VocabSize)
	case c.DecoderStart < -1 || c.DecoderStart >= c.VocabSize:
		return fieldError("decoder_start_token_id", "%d is outside the vocabulary of %d", c.DecoderStart, c.VocabSize)
	}
	for _, id := range c.EOS {
		if id < 0 || id >= c.VocabSize {
			return fieldError("eos_token_id", "%d is outside the vocabulary of %d", id, c.VocabSize)
		}
	}
	return nil
}

func fieldError(field, format string, args ...any) error {
	return checkpoint.FieldError(checkpoint.ConfigFile, field, format, args...)
}

// fields are a config.json.
type fields struct{ *checkpoint.Fields }

// parseConfig reads the text of a config.json. Fields that change what the model
// computes and that this package does not implement are errors; others are ignored,
// as transformers does. The result is valid.
//
// Which routers transformers computes: up to 4.50 a dropped token is multiplied by its
// weight instead of being dropped; 5.0 to 5.17 at least never drop and do not return
// router logits; 4.51 to 4.57 and 5.24 are what this package computes.
func parseConfig(text []byte) (Config, error) {
	object, err := checkpoint.ParseFields(checkpoint.ConfigFile, text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", checkpoint.ConfigFile, err)
	}
	f := fields{object}
	f.refuseUnimplemented()
	// The defaults are those of transformers 5.24, configuration_switch_transformers.py.
	c := Config{
		VocabSize:        f.Int("vocab_size", 32128),
		HiddenSize:       f.either("d_model", "hidden_size", 768),
		HeadDim:          f.Int("d_kv", 64),
		IntermediateSize: f.Int("d_ff", 2048),
		Heads:            f.either("num_heads", "num_attention_heads", 12),
		Experts:          f.Int("num_experts", 8),
		Capacity:         f.Int("expert_capacity", 64),
		EncoderBlocks:    f.either("num_layers", "num_hidden_layers", 12),
		RouterBias:       f.Bool("router_bias", false),
		Activation:       f.String("dense_act_fn", "relu"),
		NormEps:          f.Float("layer_norm_epsilon", 1e-6),
		Buckets:          f.Int("relative_attention_num_buckets", 32),
		MaxDistance:      f.Int("relative_attention_max_distance", 128),
		TieEmbeddings:    f.Bool("tie_word_embeddings", true),
		Pad:              f.id("pad_token_id", 0),
		EOS:              f.Ints("eos_token_id", []int{1}),
		DecoderStart:     f.id("decoder_start_token_id", -1),
		DType:            f.String("dtype", f.String("torch_dtype", "")),
	}
	if c.Activation == "swish" { // transformers' other name of the same function
		c.Activation = "silu"
	}
	if f.Null("num_decoder_layers") {
		c.DecoderBlocks = c.EncoderBlocks
	} else {
		c.DecoderBlocks = f.Int("num_decoder_layers", 12)
	}
	c.EncoderStep = f.step("encoder_sparse_step", "num_sparse_encoder_layers", c.EncoderBlocks)
	c.DecoderStep = f.step("decoder_sparse_step", "num_sparse_decoder_layers", c.DecoderBlocks)
	if f.Err != nil {
		return Config{}, f.Err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// either reads a field that has two names.
func (f fields) either(name, other string, def int) int {
	n := f.Int(name, f.Int(other, def))
	if f.Int(other, n) != n {
		f.Fail(other, "%d is not %s, %d", f.Int(other, n), name, n)
	}
	return n
}

// id reads a token id; null is -1.
func (f fields) id(name string, def int) int {
	if f.Null(name) {
		return -1
	}
	id := f.Int(name, def)
	if id < 0 && !f.Absent(name) {
		f.Fail(name, "%d is negative", id)
	}
	return id
}

// step reads a stack's sparse step: that of the file or, without it, the number of
// blocks divided by the number of sparse ones. As in transformers, 0 sparse blocks give
// a step of the number of blocks, so that one block has experts, and so do files that
// transformers wrote.
func (f fields) step(name, sparse string, blocks int) int {
	n := f.Int(sparse, 3)
	if n < 0 {
		f.Fail(sparse, "%d is negative", n)
	}
	step := blocks
	if n > 0 {
		step = blocks / n
	}
	return f.Int(name, step)
}

// refuseUnimplemented reports fields that describe a model that this package does
// not implement.
func (f fields) refuseUnimplemented() {
	const model, architecture = "switch_transformers", "SwitchTransformersForConditionalGeneration"
	if f.Absent("model_type") {
		f.Fail("model_type", `is missing; must be %q`, model)
	} else if t := f.String("model_type", ""); t != model {
		f.Fail("model_type", `%s is not implemented; must be %q`, checkpoint.Clip(f.Values["model_type"]), model)
	}
	if !f.Absent("architectures") && !f.Null("architectures") {
		var names []string
		err := json.Unmarshal(f.Values["architectures"], &names)
		if err != nil || !slices.Equal(names, []string{architecture}) {
			f.Fail("architectures", `%s is not implemented; must be [%q]`, checkpoint.Clip(f.Values["architectures"]), architecture)
		}
	}
	if f.Null("dense_act_fn") {
		f.Fail("dense_act_fn", "null is not implemented; must be one of %q", activations)
	}
	// Any other value than these changes the model.
	neutral := []struct {
		field  string
		values []string
	}{
		{"is_encoder_decoder", []string{"null", "true"}},
		{"is_gated_act", []string{"null", "false"}},
		{"router_dtype", []string{`"float32"`}},
		{"num_experts_per_tok", []string{"null", "1"}},
		{"quantization_config", []string{"null"}},
	}
	for _, n := range neutral {
		if value, ok := f.Values[n.field]; ok && !slices.Contains(n.values, string(value)) {
			f.Fail(n.field, "%s is not implemented", checkpoint.Clip(value))
		}
	}
}
