package comparison_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/speculate/comparison"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// The embedded Mixtral: V 4096, D 96, F 192, L 16, E 8, 6 and 2 heads of 16.
func TestMini(t *testing.T) {
	c, err := comparison.ReadCheckpoint(os.DirFS("../../mixtral/mini/checkpoint"))
	require.NoError(t, err)
	const expert = 3 * 96 * 192
	const rest = 2*4096*96 + 96 + 16*(2*96+96*96*2+2*96*32+8*96)
	assert.EqualValues(t, rest+16*8*expert, c.Parameters)
	assert.Equal(t, []int64{rest + 16*2*expert}, c.Active)
	assert.EqualValues(t, expert, c.ExpertParameters)
	assert.EqualValues(t, 2*expert, c.ExpertBytes)
	assert.Zero(t, c.Capacity)
	assert.Equal(t, []int{16, 8, 96}, []int{c.Gates.Layers, c.Gates.Experts, c.Gates.Hidden})
}

func tensor(name string, value float32, shape ...int) safetensors.Tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return safetensors.Tensor{Name: name, DType: safetensors.F32, Shape: shape, Data: func(w io.Writer) error {
		x := make([]byte, 4*n)
		one := []byte{0, 0, 128, 63}
		for i := range n {
			if value == 1 {
				copy(x[4*i:], one)
			}
		}
		_, err := w.Write(x)
		return err
	}}
}

// switchTensors are an encoder with experts in block 1 and a decoder with experts in
// blocks 1 and 3, E 4, D 3, F 2, V 5, with biases.
func switchTensors() []safetensors.Tensor {
	ts := []safetensors.Tensor{tensor("shared.weight", 0, 5, 3), tensor("encoder.embed_tokens.weight", 0, 5, 3), tensor("lm_head.weight", 0, 5, 3),
		tensor("encoder.block.0.layer.1.mlp.wi.weight", 0, 2, 3), tensor("decoder.final_layer_norm.weight", 0, 3)}
	for _, b := range []string{"encoder.block.1.layer.1", "decoder.block.1.layer.2", "decoder.block.3.layer.2"} {
		value := float32(0)
		if b == "decoder.block.3.layer.2" {
			value = 1
		}
		ts = append(ts, tensor(b+".mlp.router.classifier.weight", value, 4, 3), tensor(b+".mlp.router.classifier.bias", 0, 4))
		for e := range 4 {
			ts = append(ts, tensor(fmt.Sprintf("%s.mlp.experts.expert_%d.wi.weight", b, e), 0, 2, 3), tensor(fmt.Sprintf("%s.mlp.experts.expert_%d.wo.weight", b, e), 0, 3, 2))
		}
	}
	return ts
}

func writeCheckpoint(t *testing.T, config string, tensors []safetensors.Tensor) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	if tensors != nil {
		require.NoError(t, safetensors.WriteFile(filepath.Join(dir, "model.safetensors"), tensors, nil))
	}
	return dir
}

func TestSwitchCheckpoint(t *testing.T) {
	for _, tied := range []bool{true, false} {
		dir := writeCheckpoint(t, fmt.Sprintf(`{"model_type": "switch_transformers", "expert_capacity": 6, "tie_word_embeddings": %v}`, tied), switchTensors())
		c, err := comparison.ReadCheckpoint(os.DirFS(dir))
		require.NoError(t, err)
		head := int64(15)
		if tied {
			head = 0
		}
		const routers = 16 // of one layer, with its bias
		assert.EqualValues(t, 15+head+6+3+3*routers+12*12, c.Parameters)
		assert.Equal(t, []int64{15 + 6 + routers + 12, 15 + head + 3 + 2*routers + 2*12}, c.Active)
		assert.EqualValues(t, 12, c.ExpertParameters)
		assert.EqualValues(t, 48, c.ExpertBytes)
		assert.Equal(t, 6, c.Capacity)
		assert.Equal(t, []int{3, 4, 3}, []int{c.Gates.Layers, c.Gates.Experts, c.Gates.Hidden})
		assert.Equal(t, []float32{0, 0, 1, 1}, []float32{c.Gates.Weights[0], c.Gates.Weights[23], c.Gates.Weights[24], c.Gates.Weights[35]})
		assert.Len(t, c.Gates.Bias, 12)
	}
}

func TestCheckpointErrors(t *testing.T) {
	without := func(name string) []safetensors.Tensor {
		var ts []safetensors.Tensor
		for _, x := range switchTensors() {
			if x.Name != name {
				ts = append(ts, x)
			}
		}
		return ts
	}
	for want, dir := range map[string]string{
		"config.json":      t.TempDir(),
		"config.json: ":    writeCheckpoint(t, "{", nil),
		"no *.safetensors": writeCheckpoint(t, "{}", nil),
		"no routers":       writeCheckpoint(t, `{"model_type": "t5"}`, []safetensors.Tensor{tensor("shared.weight", 0, 5, 3)}),
		"of 12 experts":    writeCheckpoint(t, "{}", without("encoder.block.1.layer.1.mlp.experts.expert_2.wo.weight")),
		"the router of decoder block 1 has 4 experts of hidden size 3 and 4 biases; that of encoder block 1 has 4, 3 and 0": writeCheckpoint(t, "{}", without("encoder.block.1.layer.1.mlp.router.classifier.bias")),
		"decoder block 3 has 0 experts of hidden size 0 ":                                                                   writeCheckpoint(t, "{}", without("decoder.block.3.layer.2.mlp.router.classifier.weight")),
	} {
		_, err := comparison.ReadCheckpoint(os.DirFS(dir))
		assert.ErrorContains(t, err, want)
	}
	dir := writeCheckpoint(t, "{}", nil)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(`{"weight_map": {"a": "../x.safetensors"}}`), 0o600))
	_, err := comparison.ReadCheckpoint(os.DirFS(dir))
	assert.Error(t, err)
}
