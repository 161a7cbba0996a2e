package mixtral

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
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
const configFile = "config.json"

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

// fieldErrorf returns an error about one field of config.json, a nested one as
// "rope_parameters.rope_type".
func fieldErrorf(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", configFile, field, fmt.Errorf(format, args...))
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
		VocabSize:        f.int("vocab_size", 32000),
		HiddenSize:       f.int("hidden_size", 4096),
		IntermediateSize: f.int("intermediate_size", 14336),
		Layers:           f.int("num_hidden_layers", 32),
		Heads:            f.int("num_attention_heads", 32),
		Experts:          f.int("num_local_experts", f.int("num_experts", 8)),
		TopK:             f.int("num_experts_per_tok", 2),
		RMSNormEps:       f.float("rms_norm_eps", 1e-5),
		MaxPositions:     f.int("max_position_embeddings", 4096*32),
		TieEmbeddings:    f.bool("tie_word_embeddings", false),
		DType:            f.string("dtype", f.string("torch_dtype", "")),
		BOS:              1,
		EOS:              []int{2},
	}
	if n := f.int("num_experts", c.Experts); n != c.Experts {
		f.fail("num_experts", "%d is not num_local_experts, %d", n, c.Experts)
	}
	if f.null("num_key_value_heads") {
		c.KVHeads = c.Heads
	} else {
		c.KVHeads = f.int("num_key_value_heads", 8)
	}
	if f.absent("head_dim") || f.null("head_dim") {
		// As transformers: the quotient, rounded down.
		c.HeadDim = c.HiddenSize / max(c.Heads, 1)
	} else {
		c.HeadDim = f.int("head_dim", 0)
	}
	if !f.absent("sliding_window") && !f.null("sliding_window") {
		if c.SlidingWindow = f.int("sliding_window", 0); c.SlidingWindow <= 0 {
			f.fail("sliding_window", "%d is neither null nor positive", c.SlidingWindow)
		}
	}
	if f.null("bos_token_id") {
		c.BOS = -1
	} else if c.BOS = f.int("bos_token_id", 1); c.BOS < 0 {
		f.fail("bos_token_id", "%d is negative", c.BOS)
	}
	c.EOS = f.ints("eos_token_id", c.EOS)
	c.RopeTheta = f.ropeTheta()
	if f.err != nil {
		return Config{}, f.err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// fields is a JSON object whose fields are read one by one. The first error is
// kept in err; after it fields have their defaults.
type fields struct {
	prefix string // of the names in errors
	values map[string]json.RawMessage
	err    error
}

// parseFields reads an object. Duplicate names are an error and names are
// case-sensitive, unlike in encoding/json.
func parseFields(text []byte) (*fields, error) {
	var object json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, fmt.Errorf("bad JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(object))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New("bad JSON: not an object")
	}
	f := &fields{values: map[string]json.RawMessage{}}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		name, _ := tok.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("bad JSON: %w", err)
		}
		if _, twice := f.values[name]; twice {
			return nil, fmt.Errorf("duplicate field %q", name)
		}
		f.values[name] = value
	}
	return f, nil
}

func (f *fields) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err = fieldErrorf(f.prefix+name, format, args...)
	}
}

func (f *fields) absent(name string) bool {
	_, ok := f.values[name]
	return !ok
}

func (f *fields) null(name string) bool { return string(f.values[name]) == "null" }

func (f *fields) int(name string, def int) int {
	value, ok := f.values[name]
	if !ok {
		return def
	}
	n, err := strconv.ParseInt(string(value), 10, strconv.IntSize)
	if err != nil {
		f.fail(name, "%s is not an integer", clip(value))
		return def
	}
	return int(n)
}

// ints reads an integer, a list of them, or null for none.
func (f *fields) ints(name string, def []int) []int {
	value, ok := f.values[name]
	if !ok {
		return def
	}
	if f.null(name) {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		list = []json.RawMessage{value}
	}
	numbers := make([]int, len(list))
	for i, v := range list {
		n, err := strconv.ParseInt(string(v), 10, strconv.IntSize)
		if err != nil {
			f.fail(name, "%s is neither an integer nor a list of integers", clip(value))
			return def
		}
		numbers[i] = int(n)
	}
	return numbers
}

func (f *fields) float(name string, def float64) float64 {
	value, ok := f.values[name]
	if !ok {
		return def
	}
	var x *float64
	if err := json.Unmarshal(value, &x); err != nil || x == nil {
		f.fail(name, "%s is not a number", clip(value))
		return def
	}
	return *x
}

func (f *fields) bool(name string, def bool) bool {
	value, ok := f.values[name]
	if !ok {
		return def
	}
	var b *bool
	if err := json.Unmarshal(value, &b); err != nil || b == nil {
		f.fail(name, "%s is neither true nor false", clip(value))
		return def
	}
	return *b
}

// string reads a string; null is as absent.
func (f *fields) string(name string, def string) string {
	value, ok := f.values[name]
	if !ok || f.null(name) {
		return def
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		f.fail(name, "%s is not a string", clip(value))
		return def
	}
	return s
}

// clip shortens a part of a file for an error.
func clip(b []byte) string {
	const limit = 60
	if len(b) <= limit {
		return string(b)
	}
	return string(b[:limit]) + "..."
}
