package switchtransformer

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/switchtest"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tiny is a checkpoint whose axes all differ.
func tiny() switchtest.Checkpoint {
	return switchtest.Checkpoint{EncoderBlocks: 2, DecoderBlocks: 3, Experts: 5, Hidden: 12, HeadDim: 7, ExpertWidth: 10, Heads: 3, Vocabulary: 23, Capacity: 4, RouterBias: true}
}

func TestShapes(t *testing.T) {
	ck, err := OpenCheckpoint(tiny().FS())
	require.NoError(t, err)
	defer ck.Close()
	cfg := ck.Config()
	assert.Equal(t, []int{1}, cfg.MoEBlocks(Encoder))
	assert.Equal(t, []int{1}, cfg.MoEBlocks(Decoder))
	for name, want := range map[string][]int{
		"shared.weight": {23, 12}, "decoder.embed_tokens.weight": {23, 12}, "lm_head.weight": {23, 12},
		"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": {8, 3},
		"decoder.block.2.layer.1.EncDecAttention.k.weight":                     {21, 12},
		"decoder.block.2.layer.1.EncDecAttention.o.weight":                     {12, 21},
		"encoder.block.0.layer.1.mlp.wi.weight":                                {10, 12},
		"decoder.block.1.layer.2.mlp.router.classifier.weight":                 {5, 12},
		"decoder.block.1.layer.2.mlp.router.classifier.bias":                   {5},
		"decoder.block.1.layer.2.mlp.experts.expert_4.wo.weight":               {12, 10},
		"decoder.final_layer_norm.weight":                                      {12},
	} {
		got, err := ck.Shape(name)
		assert.NoError(t, err, name)
		assert.Equal(t, want, got, name)
	}
	for _, name := range []string{"", "encoder.block.2.layer.0.layer_norm.weight", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
		"encoder.block.0.layer.1.EncDecAttention.q.weight", "encoder.block.0.layer.2.layer_norm.weight", "encoder.block.1.layer.1.mlp.wi.weight",
		"encoder.block.1.layer.1.mlp.experts.expert_5.wi.weight", "encoder.block.01.layer.0.layer_norm.weight"} {
		_, err := ck.Shape(name)
		assert.ErrorContains(t, err, "no tensor of this model has this name", name)
	}
}

type tensors = map[string]*switchtest.Tensor

// OpenCheckpoint names what is wrong with files.
func TestDamaged(t *testing.T) {
	const wi = "decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"
	const file = `model.safetensors: tensor "`
	for _, c := range []struct {
		name   string
		config map[string]any
		edit   func(t tensors)
		want   string
	}{
		{"missing expert", nil, func(t tensors) { delete(t, wi) }, file + wi + `": is missing`},
		{"missing shared", nil, func(t tensors) { delete(t, "shared.weight") }, file + `shared.weight": is missing`},
		{"missing bias", nil, func(t tensors) { delete(t, "encoder.block.1.layer.1.mlp.router.classifier.bias") }, `classifier.bias": is missing`},
		{"surplus bias", map[string]any{"router_bias": false}, nil, `classifier.bias": is surplus`},
		{"surplus block", map[string]any{"num_layers": 1, "encoder_sparse_step": 2}, nil, `is surplus: the model of config.json has no such tensor`},
		{"more blocks", map[string]any{"num_decoder_layers": 1 << 30}, nil, `decoder.block.3.layer.0.layer_norm.weight": is missing`},
		{"more experts", map[string]any{"num_experts": 6}, nil, `has shape [5 12], expected [6 12] as in config.json`},
		{"dense", map[string]any{"decoder_sparse_step": 0}, nil, `decoder.block.1.layer.2.mlp.wi.weight": is missing`},
		{"shape", nil, func(t tensors) { t[wi].Shape = []int{12, 10} }, file + wi + `": has shape [12 10], expected [10 12] as in config.json`},
		{"type", nil, func(t tensors) { t[wi].DType = safetensors.I32 }, file + wi + `": is I32, expected F32, F16 or BF16`},
		{"own head missing", map[string]any{"tie_word_embeddings": false}, nil, file + `lm_head.weight": is missing`},
	} {
		ck := tiny()
		ck.Config, ck.Edit = c.config, c.edit
		_, err := OpenCheckpoint(ck.FS())
		assert.ErrorContains(t, err, c.want, c.name)
	}
	ck := tiny()
	ck.Edit = func(t tensors) {
		t["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = t["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
	}
	m, err := OpenCheckpoint(ck.FS())
	require.NoError(t, err, "T5's leftover")
	require.NoError(t, m.Close())
	files := tiny().FS()
	delete(files, "model.safetensors")
	_, err = OpenCheckpoint(files)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenCheckpoint(fstest.MapFS{})
	assert.ErrorContains(t, err, "this is not the folder of a model")
	files = tiny().FS()
	files["model.safetensors"].Data = files["model.safetensors"].Data[:1000]
	_, err = OpenCheckpoint(files)
	assert.ErrorContains(t, err, "model.safetensors: ")
}

// Load finds weights that are not numbers, and names them.
func TestNaN(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	for _, name := range []string{"shared.weight", "decoder.block.1.layer.2.mlp.experts.expert_3.wo.weight", "encoder.block.1.layer.1.mlp.router.classifier.bias"} {
		ck := tiny()
		ck.Edit = func(t tensors) {
			binary.LittleEndian.PutUint32(t[name].Data[8:], math.Float32bits(float32(math.NaN())))
		}
		_, err := Load(t.Context(), ck.FS(), Options{Backend: b})
		assert.ErrorContains(t, err, `model.safetensors: tensor "`+name+`": `)
		assert.ErrorContains(t, err, `element 2 is NaN or infinite`)
	}
}

// Embeddings of the stacks and a head that differ from the shared matrix are used, and
// equal ones are loaded once.
func TestEmbeddings(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	logits := func(edit func(t tensors)) []float32 {
		ck := tiny()
		ck.Edit = edit
		m, err := Load(t.Context(), ck.FS(), Options{Backend: b})
		require.NoError(t, err)
		defer m.Close()
		out, err := m.Forward(t.Context(), Request{Tokens: [][]int32{{3, 4}}, DecoderTokens: [][]int32{{0, 5}}, Logits: AllLogits})
		require.NoError(t, err)
		return out.Logits[0]
	}
	copied := func(t tensors, name string, by float32) {
		c := *t["shared.weight"]
		c.Data = append([]byte(nil), c.Data...)
		for i := 0; i < len(c.Data); i += 4 {
			v := math.Float32frombits(binary.LittleEndian.Uint32(c.Data[i:])) * by
			binary.LittleEndian.PutUint32(c.Data[i:], math.Float32bits(v))
		}
		t[name] = &c
	}
	want := logits(nil)
	for _, name := range []string{"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"} {
		assert.Equal(t, want, logits(func(t tensors) { copied(t, name, 1) }), name)
		got := logits(func(t tensors) { copied(t, name, 2) })
		assert.NotEqual(t, want, got, name)
		if name == "lm_head.weight" { // scaled as a tied one
			for i := range got {
				assert.InDelta(t, 2*want[i], got[i], 1e-5)
			}
		}
	}
}

func TestConfig(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "variants-switch", "a", "config.json"))
	require.NoError(t, err)
	var base map[string]any
	require.NoError(t, json.Unmarshal(text, &base))
	parse := func(change map[string]any) (Config, error) {
		all := maps.Clone(base)
		for k, v := range change {
			if all[k] = v; v == "absent" {
				delete(all, k)
			}
		}
		text, err := json.Marshal(all)
		require.NoError(t, err)
		return parseConfig(text)
	}
	for _, c := range []struct {
		change map[string]any
		want   string
	}{
		{map[string]any{"model_type": "t5"}, `config.json: model_type: "t5" is not implemented; must be "switch_transformers"`},
		{map[string]any{"architectures": []string{"SwitchTransformersEncoderModel"}}, `config.json: architectures: `},
		{map[string]any{"dense_act_fn": "gated-gelu"}, `config.json: dense_act_fn: "gated-gelu" is not implemented`},
		{map[string]any{"is_gated_act": true}, `config.json: is_gated_act: true is not implemented`},
		{map[string]any{"router_dtype": "bfloat16"}, `config.json: router_dtype: "bfloat16" is not implemented`},
		{map[string]any{"d_model": 0}, `config.json: d_model: 0 is not from 1`},
		{map[string]any{"d_model": 1.5}, `config.json: d_model: 1.5 is not an integer`},
		{map[string]any{"hidden_size": 33}, `config.json: hidden_size: 33 is not d_model, 32`},
		{map[string]any{"num_experts": 1 << 40}, `config.json: num_experts: `},
		{map[string]any{"expert_capacity": -1}, `config.json: expert_capacity: -1`},
		{map[string]any{"relative_attention_max_distance": 16}, `config.json: relative_attention_max_distance: 16`},
		{map[string]any{"layer_norm_epsilon": "x"}, `config.json: layer_norm_epsilon: "x" is not a number`},
		{map[string]any{"decoder_start_token_id": 101}, `config.json: decoder_start_token_id: 101 is outside the vocabulary of 101`},
		{map[string]any{"eos_token_id": []int{1, -4}}, `config.json: eos_token_id: -4 is outside`},
		{map[string]any{"num_sparse_encoder_layers": -1}, `config.json: num_sparse_encoder_layers: -1 is negative`},
	} {
		_, err := parse(c.change)
		assert.ErrorContains(t, err, c.want)
	}
	for _, c := range []struct {
		change           map[string]any
		encoder, decoder []int
	}{
		{nil, []int{1, 3}, []int{1, 3}},
		{map[string]any{"num_decoder_layers": nil, "num_layers": 5}, []int{1, 3}, []int{1, 3}},
		{map[string]any{"encoder_sparse_step": "absent", "num_sparse_encoder_layers": 4}, []int{0, 1, 2, 3}, []int{1, 3}},
		{map[string]any{"encoder_sparse_step": 3, "num_sparse_encoder_layers": 4}, []int{1}, []int{1, 3}}, // the step wins
		{map[string]any{"decoder_sparse_step": "absent", "num_sparse_decoder_layers": 0}, []int{1, 3}, []int{1}},
		{map[string]any{"decoder_sparse_step": 0}, []int{1, 3}, nil},
		{map[string]any{"decoder_sparse_step": "absent", "num_sparse_decoder_layers": 9}, []int{1, 3}, nil},
	} {
		cfg, err := parse(c.change)
		require.NoError(t, err)
		assert.Equal(t, c.encoder, cfg.MoEBlocks(Encoder), "%v", c.change)
		assert.Equal(t, c.decoder, cfg.MoEBlocks(Decoder), "%v", c.change)
	}
	cfg, err := parseConfig([]byte(`{"model_type": "switch_transformers"}`))
	require.NoError(t, err)
	assert.Equal(t, Config{VocabSize: 32128, HiddenSize: 768, HeadDim: 64, IntermediateSize: 2048, Heads: 12, Experts: 8, Capacity: 64,
		EncoderBlocks: 12, DecoderBlocks: 12, EncoderStep: 4, DecoderStep: 4, Activation: "relu", NormEps: 1e-6, Buckets: 32, MaxDistance: 128,
		TieEmbeddings: true, EOS: []int{1}, DecoderStart: -1}, cfg)
	_, err = parseConfig([]byte(strings.Repeat("[", 100)))
	assert.ErrorContains(t, err, "config.json: bad JSON")
}

// Buckets as torch computes them; made by transformers' _relative_position_bucket (5.24).
func TestBuckets(t *testing.T) {
	c := Config{Buckets: 21, MaxDistance: 51}
	positions := []int{-400, -51, -50, -30, -17, -10, -9, -5, -4, -1, 0, 1, 4, 5, 9, 17, 30, 51, 400}
	for s, want := range map[Stack][]int{
		Encoder: {9, 9, 9, 8, 7, 6, 6, 5, 4, 1, 0, 11, 14, 15, 16, 17, 18, 19, 19},
		Decoder: {20, 20, 20, 17, 13, 10, 9, 5, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		var got []int
		for _, p := range positions {
			got = append(got, c.bucket(s, p))
		}
		assert.Equal(t, want, got, s)
	}
}
