"""Measures transformers with a Switch Transformer, for BENCHMARKS.md:

    python testdata/switch_peer.py DIR float32|bfloat16

encodes 8 texts of 512 tokens, and decodes 64 tokens of a text of 128, on 2 threads; the
best of some passes. If DIR has no config.json, it first writes there a random model of
switch-base-8's size, in bfloat16 (1.3 GB).
"""
import json
import os
import sys
import time

import torch
import transformers
from safetensors.torch import save_file
from transformers import SwitchTransformersForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache


def write(folder):
    D, F, H, hd, E, V, blocks = 768, 3072, 12, 64, 8, 32128, 12
    torch.manual_seed(0)
    r = lambda *shape: (torch.randn(*shape) / shape[-1] ** 0.5).to(torch.bfloat16)
    ones = lambda: torch.ones(D, dtype=torch.bfloat16)
    t = {"shared.weight": r(V, D)}
    for stack, layers in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        t[stack + ".final_layer_norm.weight"] = ones()
        for i in range(blocks):
            p = f"{stack}.block.{i}.layer."
            for j, a in enumerate(layers):
                t[f"{p}{j}.layer_norm.weight"] = ones()
                for m in "qkv":
                    t[f"{p}{j}.{a}.{m}.weight"] = r(H * hd, D)
                t[f"{p}{j}.{a}.o.weight"] = r(D, H * hd)
            if i == 0:
                t[p + "0.SelfAttention.relative_attention_bias.weight"] = r(32, H)
            p += f"{len(layers)}."
            t[p + "layer_norm.weight"] = ones()
            if i % 2 == 0:
                t[p + "mlp.wi.weight"], t[p + "mlp.wo.weight"] = r(F, D), r(D, F)
                continue
            t[p + "mlp.router.classifier.weight"] = r(E, D)
            for e in range(E):
                t[f"{p}mlp.experts.expert_{e}.wi.weight"], t[f"{p}mlp.experts.expert_{e}.wo.weight"] = r(F, D), r(D, F)
    os.makedirs(folder, exist_ok=True)
    save_file(t, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    json.dump(dict(architectures=["SwitchTransformersForConditionalGeneration"], model_type="switch_transformers", vocab_size=V,
                   d_model=D, d_ff=F, num_heads=H, d_kv=hd, num_experts=E, num_layers=blocks, num_decoder_layers=blocks,
                   num_sparse_encoder_layers=6, num_sparse_decoder_layers=6, expert_capacity=64, decoder_start_token_id=0,
                   torch_dtype="bfloat16"), open(os.path.join(folder, "config.json"), "w"))


def best(passes, f):
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def main(folder, dtype):
    if not os.path.exists(os.path.join(folder, "config.json")):
        write(folder)
    torch.set_num_threads(2)
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    vocabulary = model.config.vocab_size
    texts = torch.stack([torch.tensor([3 + (i + t * t * 7 + t * 31) % (vocabulary - 3) for t in range(512)]) for i in range(8)])
    with torch.no_grad():
        seconds = best(3, lambda: model.encoder(input_ids=texts))
        print(f"{transformers.__version__} {dtype} encode {texts.numel() / seconds:.0f} tok/s")
        encoded = model.encoder(input_ids=texts[:1, :128])

        def decode():
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            for i in range(64):
                model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[i]]), cache=cache, use_cache=True)

        print(f"{transformers.__version__} {dtype} decode {64 / best(3, decode):.0f} tok/s")


main(sys.argv[1], sys.argv[2])
