"""Writes what transformers computes for the model of mixtral's TestShape8x22B:

    go test ./mixtral -run TestShape8x22B -shape-dump DIR && python3 testdata/shape_8x22b.py DIR testdata/shapes/8x22b/reference.safetensors"""
import sys, torch
from safetensors.torch import save_file
from transformers import MixtralForCausalLM

model = MixtralForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").eval()
random, out = torch.Generator().manual_seed(22), {}
for i, n in enumerate((1, 7, 37)):
    ids = torch.randint(0, model.config.vocab_size, (1, n), generator=random)
    with torch.no_grad():
        y = model(ids, output_router_logits=True)
        greedy = ids
        for _ in range(20):
            greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], 1)
    out[f"case{i}.input_ids"], out[f"case{i}.greedy_ids"] = ids[0].int(), greedy[0, n:].int().contiguous()
    out[f"case{i}.logits"], out[f"case{i}.router_logits"] = y.logits[0], torch.stack(y.router_logits)
    top = torch.stack(y.router_logits).sort(-1, descending=True).values
    print(n, "tokens: smallest margin of the second expert", (top[..., 1] - top[..., 2]).min().item(), "logits' deviation", y.logits.std().item(), greedy[0, n:].tolist())
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[2])
