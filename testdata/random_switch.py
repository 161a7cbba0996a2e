"""Writes testdata/variants-switch/c: a random Switch Transformer of odd shapes and what
transformers computes with it, in float32.

    python testdata/random_switch.py testdata/variants-switch/c

Made with torch 2.12 to 2.15 and transformers 5.24.0; earlier ones drop wrongly or not at
all, see mixtral/switchtransformer/config.go. The decoder is longer than the encoder,
with which transformers' generate fails, so that greedy decoding is a loop here.
"""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

LENGTHS = [(1, 1), (5, 9), (37, 14), (150, 90), (300, 61)]  # of encoder and decoder
GREEDY = 24


def config():
    return SwitchTransformersConfig(
        vocab_size=53, d_model=20, d_kv=7, d_ff=18, num_heads=3, num_experts=16, expert_capacity=2,
        num_layers=4, num_decoder_layers=7, num_sparse_encoder_layers=1, num_sparse_decoder_layers=2,
        encoder_sparse_step=3, decoder_sparse_step=3, router_bias=True, dense_act_fn="silu",
        relative_attention_num_buckets=21, relative_attention_max_distance=51, layer_norm_epsilon=3e-6,
        decoder_start_token_id=2, pad_token_id=0, eos_token_id=1, dropout_rate=0.0, tie_word_embeddings=True)


def random_model():
    torch.manual_seed(13)
    model = SwitchTransformersForConditionalGeneration(config())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "router" in name:
                p.copy_(torch.randn_like(p) * (0.7 if p.dim() == 2 else 0.3))
            elif "relative_attention_bias" in name:
                p.copy_(torch.randn_like(p))
            elif "shared" in name or "embed" in name:
                p.copy_(torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.2 / p.shape[-1] ** 0.5))
    return model.bfloat16()


def routing(logits, capacity):
    """Chosen experts and dropped tokens [L,T] of router logits [L,T,E]."""
    experts = logits.softmax(-1).argmax(-1)
    one_hot = torch.nn.functional.one_hot(experts, logits.shape[-1])
    rank = (one_hot.cumsum(1) * one_hot).sum(-1)
    return experts.int(), (rank > capacity).int()


def greedy(model, ids, cached):
    encoded = model.encoder(input_ids=ids)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cached else None
    tokens, step = [model.config.decoder_start_token_id], [model.config.decoder_start_token_id]
    for _ in range(GREEDY):
        out = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([step if cached else tokens]), cache=cache, use_cache=cached)
        tokens.append(int(out.logits[0, -1].argmax()))
        step = tokens[-1:]
    return torch.tensor(tokens[1:], dtype=torch.int32)


def main(folder):
    assert transformers.__version__ == "5.24.0", transformers.__version__
    os.makedirs(folder, exist_ok=True)
    model = random_model()
    model.save_pretrained(folder)
    for name in os.listdir(folder):
        if name.startswith("generation_config"):
            os.remove(os.path.join(folder, name))
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(14)
    tensors = {}
    with torch.no_grad():
        for i, (n, m) in enumerate(LENGTHS):
            ids = torch.randint(3, model.config.vocab_size, (1, n))
            decoder = torch.cat([torch.tensor([[2]]), torch.randint(3, model.config.vocab_size, (1, m - 1))], 1)
            out = model(input_ids=ids, decoder_input_ids=decoder, output_router_logits=True)
            case = {"input_ids": ids[0].int(), "decoder_input_ids": decoder[0].int(), "logits": out.logits[0],
                    "greedy_ids": greedy(model, ids, True), "greedy_nocache_ids": greedy(model, ids, False)}
            for stack in ("encoder", "decoder"):
                logits = torch.stack([x.reshape(-1, model.config.num_experts) for x in out[stack + "_router_logits"]])
                top = logits.topk(2, -1).values
                print(i, stack, tuple(logits.shape), "smallest margin", float((top[..., 0] - top[..., 1]).min()))
                case[stack + "_router_logits"] = logits
                case[stack + "_experts"], case[stack + "_dropped"] = routing(logits, model.config.expert_capacity)
                print("  dropped", float(case[stack + "_dropped"].float().mean()))
            for key, value in case.items():
                tensors[f"case{i}.{key}"] = value.contiguous()
    save_file(tensors, os.path.join(folder, "reference.safetensors"), {"transformers": transformers.__version__, "torch": torch.__version__})
    print(json.dumps({"bytes": sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))}))


main(sys.argv[1])
