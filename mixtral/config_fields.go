package mixtral

import (
	"encoding/json"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
)

// refuseUnimplemented reports fields that describe a model that this package does
// not implement.
func (f fields) refuseUnimplemented() {
	if f.Absent("model_type") {
		f.Fail("model_type", `is missing; must be "mixtral"`)
	} else if t := f.String("model_type", ""); t != "mixtral" {
		f.Fail("model_type", `%s is not implemented; must be "mixtral"`, checkpoint.Clip(f.Values["model_type"]))
	}
	if !f.Absent("architectures") && !f.Null("architectures") {
		var names []string
		err := json.Unmarshal(f.Values["architectures"], &names)
		if err != nil || !slices.Equal(names, []string{"MixtralForCausalLM"}) {
			f.Fail("architectures", `%s is not implemented; must be ["MixtralForCausalLM"]`, checkpoint.Clip(f.Values["architectures"]))
		}
	}
	// "swish" is transformers' other name of the same function.
	if act := f.String("hidden_act", "silu"); act != "silu" && act != "swish" {
		f.Fail("hidden_act", `%q is not implemented; must be "silu"`, act)
	} else if f.Null("hidden_act") {
		f.Fail("hidden_act", `null is not implemented; must be "silu"`)
	}
	f.checkQuantization()
	// Any other value than these changes the model.
	neutral := []struct {
		field  string
		values []string
	}{
		{"attention_bias", []string{"false", "null"}},
		{"mlp_bias", []string{"false", "null"}},
		{"per_layer_config", []string{"null", "{}"}},
		{"partial_rotary_factor", []string{"null", "1", "1.0"}},
		{"norm_topk_prob", []string{"null", "true"}},
		{"num_shared_experts", []string{"null", "0"}},
		{"final_logit_softcapping", []string{"null"}},
		{"attn_logit_softcapping", []string{"null"}},
		{"is_encoder_decoder", []string{"null", "false"}},
		{"add_cross_attention", []string{"null", "false"}},
	}
	for _, n := range neutral {
		if value, ok := f.Values[n.field]; ok && !slices.Contains(n.values, string(value)) {
			f.Fail(n.field, "%s is not implemented", checkpoint.Clip(value))
		}
	}
}

// ropeTheta finds the rotary base where transformers 5.23 looks for it
// (modeling_rope_utils.py, convert_rope_params_to_dict): in rope_scaling, the
// older name, or rope_parameters; then at top level; then the default.
func (f fields) ropeTheta() float64 {
	theta := 1e6
	if !f.Null("rope_theta") {
		theta = f.Float("rope_theta", theta)
	}
	given := ""
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		if f.Absent(name) || f.Null(name) || string(f.Values[name]) == "{}" {
			continue
		}
		if given != "" {
			f.Fail(name, "conflicts with %s", given)
			return theta
		}
		given = name
		theta = f.ropeObject(name, theta)
	}
	return theta
}

// ropeObject reads rope_parameters or rope_scaling. Only plain rotary embeddings
// are implemented.
func (f fields) ropeObject(name string, theta float64) float64 {
	rope, err := parseFields(f.Values[name])
	if err != nil {
		f.Fail(name, "%v", err)
		return theta
	}
	rope.Prefix = name + "."
	// The type is first because it determines the meaning of the others.
	for _, key := range []string{"rope_type", "type"} {
		if !rope.Absent(key) && !rope.Null(key) && rope.String(key, "") != "default" {
			rope.Fail(key, `%s is not implemented; must be "default"`, checkpoint.Clip(rope.Values[key]))
		}
	}
	for _, key := range checkpoint.SortedKeys(rope.Values) {
		value := string(rope.Values[key])
		switch key {
		case "rope_type", "type":
		case "rope_theta":
			theta = rope.Float(key, theta)
		case "partial_rotary_factor", "factor":
			if value != "1" && value != "1.0" && value != "null" {
				rope.Fail(key, "%s is not implemented; must be 1", checkpoint.Clip(rope.Values[key]))
			}
		default:
			if value != "null" {
				rope.Fail(key, "is not implemented")
			}
		}
	}
	if f.Err == nil {
		f.Err = rope.Err
	}
	return theta
}
