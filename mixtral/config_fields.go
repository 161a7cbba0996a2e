package mixtral

import (
	"encoding/json"
	"slices"
)

// refuseUnimplemented reports fields that describe a model that this package does
// not implement.
func (f *fields) refuseUnimplemented() {
	if f.absent("model_type") {
		f.fail("model_type", `is missing; must be "mixtral"`)
	} else if t := f.string("model_type", ""); t != "mixtral" {
		f.fail("model_type", `%s is not implemented; must be "mixtral"`, clip(f.values["model_type"]))
	}
	if !f.absent("architectures") && !f.null("architectures") {
		var names []string
		err := json.Unmarshal(f.values["architectures"], &names)
		if err != nil || !slices.Equal(names, []string{"MixtralForCausalLM"}) {
			f.fail("architectures", `%s is not implemented; must be ["MixtralForCausalLM"]`, clip(f.values["architectures"]))
		}
	}
	// "swish" is transformers' other name of the same function.
	if act := f.string("hidden_act", "silu"); act != "silu" && act != "swish" {
		f.fail("hidden_act", `%q is not implemented; must be "silu"`, act)
	} else if f.null("hidden_act") {
		f.fail("hidden_act", `null is not implemented; must be "silu"`)
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
		if value, ok := f.values[n.field]; ok && !slices.Contains(n.values, string(value)) {
			f.fail(n.field, "%s is not implemented", clip(value))
		}
	}
}

// ropeTheta finds the rotary base where transformers 5.23 looks for it
// (modeling_rope_utils.py, convert_rope_params_to_dict): in rope_scaling, the
// older name, or rope_parameters; then at top level; then the default.
func (f *fields) ropeTheta() float64 {
	theta := 1e6
	if !f.null("rope_theta") {
		theta = f.float("rope_theta", theta)
	}
	given := ""
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		if f.absent(name) || f.null(name) || string(f.values[name]) == "{}" {
			continue
		}
		if given != "" {
			f.fail(name, "conflicts with %s", given)
			return theta
		}
		given = name
		theta = f.ropeObject(name, theta)
	}
	return theta
}

// ropeObject reads rope_parameters or rope_scaling. Only plain rotary embeddings
// are implemented.
func (f *fields) ropeObject(name string, theta float64) float64 {
	rope, err := parseFields(f.values[name])
	if err != nil {
		f.fail(name, "%v", err)
		return theta
	}
	rope.prefix = name + "."
	// The type is first because it determines the meaning of the others.
	for _, key := range []string{"rope_type", "type"} {
		if !rope.absent(key) && !rope.null(key) && rope.string(key, "") != "default" {
			rope.fail(key, `%s is not implemented; must be "default"`, clip(rope.values[key]))
		}
	}
	for _, key := range sortedKeys(rope.values) {
		value := string(rope.values[key])
		switch key {
		case "rope_type", "type":
		case "rope_theta":
			theta = rope.float(key, theta)
		case "partial_rotary_factor", "factor":
			if value != "1" && value != "1.0" && value != "null" {
				rope.fail(key, "%s is not implemented; must be 1", clip(rope.values[key]))
			}
		default:
			if value != "null" {
				rope.fail(key, "is not implemented")
			}
		}
	}
	if f.err == nil {
		f.err = rope.err
	}
	return theta
}
