package mixtral

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// transformers reads the same configurations to the same values.
func TestConfigAsTransformers(t *testing.T) {
	text, err := os.ReadFile("testdata/config_golden.json")
	require.NoError(t, err)
	var cases []struct {
		Config json.RawMessage
		Want   Config
	}
	require.NoError(t, json.Unmarshal(text, &cases))
	require.GreaterOrEqual(t, len(cases), 25)
	for _, c := range cases {
		got, err := parseConfig(c.Config)
		if !assert.NoError(t, err, "%s", c.Config) {
			continue
		}
		if len(got.EOS) == 0 {
			got.EOS = []int{}
		}
		assert.Equal(t, c.Want, got, "%s", c.Config)
	}
}

// Fields that only older or other programs write.
func TestConfigOther(t *testing.T) {
	for fields, want := range map[string]func(Config) bool{
		`"num_key_value_heads": null`:              func(c Config) bool { return c.KVHeads == c.Heads },
		`"num_experts": 5`:                         func(c Config) bool { return c.Experts == 5 },
		`"num_experts": 5, "num_local_experts": 5`: func(c Config) bool { return c.Experts == 5 },
		`"architectures": null`:                    func(c Config) bool { return true },
		`"hidden_act": "swish"`:                    func(c Config) bool { return true },
		`"attention_bias": false`:                  func(c Config) bool { return true },
		`"quantization_config": null`:              func(c Config) bool { return true },
		`"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}`: func(c Config) bool { return true },
		`"rope_theta": 5, "rope_parameters": {"partial_rotary_factor": 1.0}`:            func(c Config) bool { return c.RopeTheta == 5 },
		`"Hidden_Size": 7`: func(c Config) bool { return c.HiddenSize == 4096 },
	} {
		c, err := parseConfig([]byte(`{"model_type": "mixtral", ` + fields + `}`))
		require.NoError(t, err, fields)
		assert.True(t, want(c), "%s: %+v", fields, c)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct{ fields, want string }{
		{`"model_type": "mistral"`, `model_type: "mistral" is not implemented`},
		{`"model_type": null`, `model_type: null is not implemented`},
		{`"model_type": 3`, `model_type: 3 is not a string`},
		{`"architectures": ["MixtralForSequenceClassification"]`, `architectures: ["MixtralForSequenceClassification"] is not implemented`},
		{`"architectures": []`, `architectures: [] is not implemented`},
		{`"architectures": "MixtralForCausalLM"`, `architectures: `},
		{`"hidden_act": "gelu"`, `hidden_act: "gelu" is not implemented`},
		{`"hidden_act": null`, `hidden_act: null`},
		{`"attention_bias": true`, `attention_bias: true is not implemented`},
		{`"quantization_config": {"bits": 4}`, `quantization_config.load_in_8bit: is not true`},
		{`"quantization_config": {"quant_method": "awq"}`, `quantization_config.quant_method: "awq" is not implemented`},
		{`"quantization_config": {"load_in_8bit": true, "llm_int8_has_fp16_weight": true}`, `quantization_config.llm_int8_has_fp16_weight: true is not`},
		{`"quantization_config": 8`, `quantization_config: bad JSON`},
		{`"partial_rotary_factor": 0.5`, `partial_rotary_factor: 0.5 is not implemented`},
		{`"rope_scaling": {"type": "linear", "factor": 2.0}`, `rope_scaling.type: "linear" is not implemented`},
		{`"rope_scaling": {"rope_type": "llama3", "factor": 8.0}`, `rope_scaling.rope_type: "llama3" is not implemented`},
		{`"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}`, `rope_parameters.rope_type: "yarn" is not implemented`},
		{`"rope_parameters": {"rope_type": "default", "factor": 2}`, `rope_parameters.factor: 2 is not implemented`},
		{`"rope_parameters": {"rope_type": "default", "mscale": 2}`, `rope_parameters.mscale: is not implemented`},
		{`"rope_parameters": {"full_attention": {"rope_type": "default"}}`, `rope_parameters.full_attention: is not implemented`},
		{`"rope_parameters": {"rope_theta": 1}, "rope_scaling": {"type": "default"}`, `rope_parameters: conflicts with rope_scaling`},
		{`"rope_parameters": {"rope_theta": null}`, `rope_parameters.rope_theta: null is not a number`},
		{`"rope_parameters": {"rope_theta": -1}`, `rope_theta: -1 is not positive`},
		{`"rope_parameters": {"rope_theta": 1, "rope_theta": 2}`, `rope_parameters: duplicate field "rope_theta"`},
		{`"rope_parameters": 7`, `rope_parameters: bad JSON: not an object`},
		{`"rope_theta": "1e6"`, `rope_theta: "1e6" is not a number`},
		{`"rope_theta": 0`, `rope_theta: 0 is not positive`},
		{`"vocab_size": null`, `vocab_size: null is not an integer`},
		{`"vocab_size": 0`, `vocab_size: 0 is not from 1`},
		{`"vocab_size": 4611686018427387904`, `vocab_size: 4611686018427387904 is not from 1`},
		{`"vocab_size": 99999999999999999999`, `vocab_size: 99999999999999999999 is not an integer`},
		{`"hidden_size": -4096`, `hidden_size: -4096 is not from 1`},
		{`"hidden_size": 96.0`, `hidden_size: 96.0 is not an integer`},
		{`"hidden_size": "96"`, `hidden_size: "96" is not an integer`},
		{`"intermediate_size": true`, `intermediate_size: true is not an integer`},
		{`"num_hidden_layers": 0`, `num_hidden_layers: 0`},
		{`"num_attention_heads": 0`, `num_attention_heads: 0`},
		{`"num_key_value_heads": 5`, `num_key_value_heads: 5 does not divide num_attention_heads, 32`},
		{`"num_key_value_heads": 64`, `num_key_value_heads: 64 does not divide`},
		{`"head_dim": 7`, `head_dim: 7 is odd`},
		{`"head_dim": 0`, `head_dim: 0 is not from 1`},
		{`"hidden_size": 16`, `head_dim: 0 is not from 1`},
		{`"num_experts_per_tok": 9`, `num_experts_per_tok: 9 is above num_local_experts, 8`},
		{`"num_experts_per_tok": 0`, `num_experts_per_tok: 0`},
		{`"num_experts": 9, "num_local_experts": 8`, `num_experts: 9 is not num_local_experts, 8`},
		{`"sliding_window": 0`, `sliding_window: 0 is neither null nor positive`},
		{`"sliding_window": -1`, `sliding_window: -1`},
		{`"sliding_window": "no"`, `sliding_window: "no" is not an integer`},
		{`"rms_norm_eps": -1e-5`, `rms_norm_eps: -1e-05 is not from 0 to 1`},
		{`"rms_norm_eps": null`, `rms_norm_eps: null is not a number`},
		{`"max_position_embeddings": 0`, `max_position_embeddings: 0`},
		{`"bos_token_id": -1`, `bos_token_id: -1 is negative`},
		{`"bos_token_id": 32000`, `bos_token_id: 32000 is outside the vocabulary of 32000`},
		{`"bos_token_id": [1]`, `bos_token_id: [1] is not an integer`},
		{`"eos_token_id": [2, -5]`, `eos_token_id: -5 is outside`},
		{`"eos_token_id": [2, null]`, `eos_token_id: [2, null] is neither`},
		{`"eos_token_id": "2"`, `eos_token_id: "2" is neither`},
		{`"tie_word_embeddings": "yes"`, `tie_word_embeddings: "yes" is neither true nor false`},
		{`"dtype": 16`, `dtype: 16 is not a string`},
		{`"vocab_size": 5, "vocab_size": 6`, `duplicate field "vocab_size"`},
	} {
		text := c.fields + `}`
		if !strings.Contains(text, "model_type") {
			text = `"model_type": "mixtral", ` + text
		}
		_, err := parseConfig([]byte("{" + text))
		require.Error(t, err, text)
		assert.True(t, strings.HasPrefix(err.Error(), "config.json: "+c.want), "%s:\n got %v\nwant config.json: %s", c.fields, err, c.want)
	}
	for _, text := range []string{``, `{`, `[]`, `null`, `{"model_type": "mixtral"} x`, `{"model_type": "mixtral",}`} {
		_, err := parseConfig([]byte(text))
		require.Error(t, err, text)
		assert.True(t, strings.HasPrefix(err.Error(), "config.json: bad JSON: "), "%q: %v", text, err)
	}
	_, err := parseConfig([]byte(`{}`))
	assert.ErrorContains(t, err, "config.json: model_type: is missing")
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"mixtral","rope_parameters":{"rope_type":"default","rope_theta":1e6},"eos_token_id":[1,2]}`))
	f.Add([]byte(`{"model_type":"mixtral","head_dim":null,"sliding_window":8,"num_key_value_heads":null,"torch_dtype":"bfloat16"}`))
	f.Add([]byte(`{"model_type":"mixtral","rope_scaling":{"type":"linear"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "config.json: "), "error does not name the file: %v", err)
			return
		}
		require.NoError(t, c.Validate(), "%+v is accepted", c)
	})
}
