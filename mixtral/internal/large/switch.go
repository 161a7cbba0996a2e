package large

import (
	"encoding/json"
	"fmt"
	"io/fs"
)

// Switch is the shape of a Switch Transformer with as many blocks in its encoder as in
// its decoder, of which every other has experts.
type Switch struct{ Blocks, Hidden, ExpertWidth, Heads, HeadDim, Experts, Vocabulary int }

// Base is the shape of google/switch-base-128 with other numbers of blocks than 12.
func Base(blocks, experts int) Switch {
	return Switch{Blocks: blocks, Hidden: 768, ExpertWidth: 3072, Heads: 12, HeadDim: 64, Experts: experts, Vocabulary: 32128}
}

// Model is Shape.Model of a Switch Transformer.
func (s Switch) Model() (fsys fs.FS, size int64) {
	d, f, inner := s.Hidden, s.ExpertWidth, s.Heads*s.HeadDim
	config, _ := json.Marshal(map[string]any{"architectures": []string{"SwitchTransformersForConditionalGeneration"},
		"model_type": "switch_transformers", "is_encoder_decoder": true, "d_model": d, "d_ff": f, "d_kv": s.HeadDim, "num_heads": s.Heads,
		"num_layers": s.Blocks, "num_decoder_layers": s.Blocks, "encoder_sparse_step": 2, "decoder_sparse_step": 2,
		"num_experts": s.Experts, "expert_capacity": 64, "vocab_size": s.Vocabulary, "decoder_start_token_id": 0,
		"torch_dtype": "bfloat16", "tie_word_embeddings": true})
	shapes := map[string][]int{"shared.weight": {s.Vocabulary, d}}
	for i, stack := range []string{"encoder.", "decoder."} {
		shapes[stack+"final_layer_norm.weight"] = []int{d}
		shapes[stack+"block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = []int{32, s.Heads}
		for block := range s.Blocks {
			p := fmt.Sprintf("%sblock.%d.layer.", stack, block)
			for layer, attention := range []string{"SelfAttention", "EncDecAttention"}[:i+1] {
				q := fmt.Sprintf("%s%d.", p, layer)
				shapes[q+"layer_norm.weight"] = []int{d}
				for _, matrix := range []string{"q", "k", "v"} {
					shapes[q+attention+"."+matrix+".weight"] = []int{inner, d}
				}
				shapes[q+attention+".o.weight"] = []int{d, inner}
			}
			q := fmt.Sprintf("%s%d.", p, i+1)
			shapes[q+"layer_norm.weight"] = []int{d}
			if block%2 == 0 {
				shapes[q+"mlp.wi.weight"], shapes[q+"mlp.wo.weight"] = []int{f, d}, []int{d, f}
				continue
			}
			shapes[q+"mlp.router.classifier.weight"] = []int{s.Experts, d}
			for e := range s.Experts {
				r := fmt.Sprintf("%smlp.experts.expert_%d.", q, e)
				shapes[r+"wi.weight"], shapes[r+"wo.weight"] = []int{f, d}, []int{d, f}
			}
		}
	}
	return files(config, shapes, "shared.weight", .02)
}
