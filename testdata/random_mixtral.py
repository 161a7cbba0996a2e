"""Writes a random Mixtral of 8 experts in bfloat16: random_mixtral.py DIR [512|4096]

512 (the default): hidden size 512, expert width 1,792, 8 layers. 4096: two layers of Mixtral 8x7B's width, 6 GB."""
import json, os, sys, torch
from safetensors.torch import save_file

SIZES = {"512": (512, 1792, 8, 8, 2, 64, 8192), "4096": (4096, 14336, 2, 32, 8, 128, 32000)}
D, F, L, H, KV, hd, V = SIZES[sys.argv[2] if len(sys.argv) > 2 else "512"]
E = 8
torch.manual_seed(0)
def r(*shape): return (torch.randn(*shape) / shape[-1] ** 0.5).to(torch.bfloat16)
def ones(): return torch.ones(D, dtype=torch.bfloat16)
t = {"model.embed_tokens.weight": r(V, D), "model.norm.weight": ones(), "lm_head.weight": r(V, D)}
for l in range(L):
    p = f"model.layers.{l}."
    for n in ("input_layernorm", "post_attention_layernorm"): t[p + n + ".weight"] = ones()
    for n, o in (("q", H * hd), ("k", KV * hd), ("v", KV * hd)): t[p + f"self_attn.{n}_proj.weight"] = r(o, D)
    t[p + "self_attn.o_proj.weight"], t[p + "block_sparse_moe.gate.weight"] = r(D, H * hd), r(E, D)
    for e in range(E):
        q = p + f"block_sparse_moe.experts.{e}."
        t[q + "w1.weight"], t[q + "w3.weight"], t[q + "w2.weight"] = r(F, D), r(F, D), r(D, F)
os.makedirs(sys.argv[1], exist_ok=True)
save_file(t, sys.argv[1] + "/model.safetensors", metadata={"format": "pt"})
json.dump(dict(architectures=["MixtralForCausalLM"], model_type="mixtral", hidden_act="silu", vocab_size=V, hidden_size=D,
               intermediate_size=F, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=KV, num_local_experts=E,
               num_experts_per_tok=2, rms_norm_eps=1e-5, rope_theta=1e6, bos_token_id=1, eos_token_id=2,
               max_position_embeddings=4096, torch_dtype="bfloat16"), open(sys.argv[1] + "/config.json", "w"))
