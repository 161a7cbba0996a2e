"""Writes a checkpoint of a published shape whose weights are zeros that take no space on disk (a sparse file), for forward -plan:

    python3 testdata/sparse_mixtral.py DIR [8x22B|8x7B]"""
import json, os, struct, sys

L, D, F, H, V = {"8x22B": (56, 6144, 16384, 48, 32768), "8x7B": (32, 4096, 14336, 32, 32000)}[sys.argv[2] if len(sys.argv) > 2 else "8x22B"]
E, KV = 8, 8 * 128
shapes = {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D], "lm_head.weight": [V, D]}
for l in range(L):
    p = f"model.layers.{l}."
    shapes |= {p + n + ".weight": s for n, s in {"input_layernorm": [D], "post_attention_layernorm": [D], "self_attn.q_proj": [D, D], "self_attn.k_proj": [KV, D],
               "self_attn.v_proj": [KV, D], "self_attn.o_proj": [D, D], "block_sparse_moe.gate": [E, D]}.items()}
    for e in range(E):
        shapes |= {p + f"block_sparse_moe.experts.{e}.{n}.weight": s for n, s in {"w1": [F, D], "w2": [D, F], "w3": [F, D]}.items()}
header, end = {}, 0
for name, shape in shapes.items():
    begin, end = end, end + 2 * shape[0] * (shape + [1])[1]
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
text = json.dumps(header).encode()
os.makedirs(sys.argv[1], exist_ok=True)
with open(sys.argv[1] + "/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    f.truncate(8 + len(text) + end)
json.dump(dict(architectures=["MixtralForCausalLM"], model_type="mixtral", hidden_act="silu", vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L,
               num_attention_heads=H, num_key_value_heads=8, num_local_experts=E, num_experts_per_tok=2, rms_norm_eps=1e-5, rope_theta=1e6,
               max_position_embeddings=65536, torch_dtype="bfloat16", tie_word_embeddings=False, sliding_window=None), open(sys.argv[1] + "/config.json", "w"))
