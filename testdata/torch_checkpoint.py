"""Stores a checkpoint's model.safetensors as PyTorch's shards, a layer each, as older versions of transformers did.

    python testdata/torch_checkpoint.py testdata/variants/b testdata/variants/b-torch

Experts' down projections are stored as transposed views, and a tied head shares the embedding's storage.  (torch 2.9.1)"""

import json
import os
import re
import shutil
import sys
from collections import OrderedDict

import safetensors.torch
import torch

source, target = sys.argv[1:]
os.makedirs(target, exist_ok=True)
weights = safetensors.torch.load_file(os.path.join(source, "model.safetensors"))
with open(os.path.join(source, "config.json")) as f:
    config = json.load(f)
if config["tie_word_embeddings"]:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
count = config["num_hidden_layers"]
shards = [OrderedDict() for _ in range(count)]
index = {}
for name, weight in weights.items():
    layer = int((re.match(r"model\.layers\.(\d+)\.", name) or [0, 0])[1])
    if name.endswith("down_proj"):
        weight = weight.transpose(-1, -2).contiguous().transpose(-1, -2)
    shards[layer][name] = torch.nn.Parameter(weight) if "norm" in name else weight
    index[name] = f"pytorch_model-{layer + 1:05d}-of-{count:05d}.bin"
for layer, shard in enumerate(shards):
    torch.save(shard, os.path.join(target, f"pytorch_model-{layer + 1:05d}-of-{count:05d}.bin"))
size = sum(w.numel() * w.element_size() for w in weights.values())
with open(os.path.join(target, "pytorch_model.bin.index.json"), "w") as f:
    json.dump({"metadata": {"total_size": size}, "weight_map": index}, f, indent=1)
shutil.copy(os.path.join(source, "config.json"), target)
