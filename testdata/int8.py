"""Compares 8-bit checkpoints with transformers 4 and bitsandbytes, on CPU.

    pip install torch transformers==4.57.3 bitsandbytes==0.50.2 accelerate
    go run ./examples/quantize -model testdata/variants/a -out /tmp/ours
    python testdata/int8.py run /tmp/ours ours.safetensors                 # transformers opens ours
    python testdata/int8.py save testdata/variants/a /tmp/theirs           # we open transformers'
    go run ./examples/forward -model /tmp/theirs -in in.jsonl -out out.safetensors

run and save write x.logits [T,V] and x.router_logits [L,T,E] of the dequantized weights in float32, for the ids below;
save writes them to reference8.safetensors in the folder. in.jsonl is {"id": "x", "ids": [the ids below]}.
"""
import sys, json, torch, numpy as np
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
import transformers, bitsandbytes
from safetensors.numpy import load_file, save_file
print(transformers.__version__, bitsandbytes.__version__, torch.__version__)
mode, src, dst = sys.argv[1:4]
kw = dict(dtype=torch.float32, device_map={"": "cpu"}, attn_implementation="eager")
if mode == "save":
    kw["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=(sys.argv[4].split(",") if len(sys.argv) > 4 else None))
m = AutoModelForCausalLM.from_pretrained(src, **kw).eval()
print(type(m.model.layers[0].self_attn.q_proj).__name__)
if mode == "save":
    m.save_pretrained(dst)
def floats(m):  # bitsandbytes rounds activations to 8 bits too; compare the weights alone
    for name, mod in list(m.named_modules()):
        if type(mod).__name__ == "Linear8bitLt":
            w, scb = mod.weight.data, mod.weight.SCB if mod.weight.SCB is not None else mod.state.SCB
            new = torch.nn.Linear(mod.in_features, mod.out_features, bias=False)
            new.weight.data = w.float() * scb.float().view(-1, 1) / 127
            m.set_submodule(name, new)
out = {}
ids = [1, 17, 4, 33, 9, 2, 60, 5, 8, 21, 40, 3]
with torch.no_grad():
    q = m(torch.tensor([ids])).logits[0].float()
    floats(m)
    r = m(torch.tensor([ids]), output_router_logits=True)
out["x.logits"] = r.logits[0].float().numpy()
out["x.router_logits"] = np.stack([l.float().numpy() for l in r.router_logits])
print("activations in 8 bits change logits by up to", float((q - r.logits[0]).abs().max()))
save_file(out, (dst + "/reference8.safetensors") if mode == "save" else dst)
