"""Records routing with Hugging Face transformers, as a trace in our schema (trace/SCHEMA.md): on a GPU, faster than
examples/collect on 2 cores, and a check of it.

    python testdata/record.py --model mixtral/mini/checkpoint --data testdata/corpus/train.jsonl.zst --docs 600 --out train

Router logits and router inputs of all layers are stored as float16; the routing is computed in float32. Documents are chosen
at random, --docs of each data set, and shuffled; at most --tokens of each are used, or with --cut all, in documents of --tokens.
Several processes are faster: each records a --share, into the same folder. Requires torch, transformers and pyarrow.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

GROUP = 16  # documents of a row group
MINIMUM = 64  # tokens of a part of a text after the first


def documents(path, count, skip, rng):
    """(data set, id, text) of the chosen documents."""
    sets = collections.defaultdict(list)
    with pa.input_stream(path, compression="detect") as f:
        for line in filter(None, f.read().decode().split("\n")):
            d = json.loads(line)
            if not (skip and d["domain"].startswith(skip)):
                sets[d["domain"]].append((d["domain"], d["id"], d["text"]))
    chosen = [d for name in sorted(sets) for d in rng.sample(sets[name], min(count or len(sets[name]), len(sets[name])))]
    rng.shuffle(chosen)
    return chosen


def column(values):
    """A list column of values [T,N]."""
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))


def write(path, metadata, docs, arrays):
    """Writes a shard, whole or not at all. docs: (data set, id, ids); arrays: name -> [B,T,*]."""
    out = None
    for at in range(0, len(docs), GROUP):
        part = docs[at : at + GROUP]
        lengths = [len(ids) for _, _, ids in part]
        table = {
            "dataset": pa.array([d for d, _, ids in part for _ in ids]),
            "document": pa.array([i for _, i, ids in part for _ in ids]),
            "position": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])),
            "phase": pa.array(["prefill"] * sum(lengths)),
            "token": pa.array(np.concatenate([np.array(ids, np.int32) for _, _, ids in part])),
        }
        for name, a in arrays.items():
            table[name] = column(np.concatenate([a[at + i, :n].reshape(n, -1) for i, n in enumerate(lengths)]))
        table = pa.table(table).replace_schema_metadata(metadata)
        if out is None:
            out = pq.ParquetWriter(path + ".part", table.schema, compression="none", use_dictionary=["dataset", "document", "phase", "experts"])
        out.write_table(table)
    out.close()
    os.rename(path + ".part", path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True, help="JSON lines of id, domain and text")
    p.add_argument("--out", required=True)
    p.add_argument("--docs", type=int, default=0, help="of each data set; 0: all")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--skip", default="x-", help="prefix of data sets to omit")
    p.add_argument("--batch", type=int, default=128, help="documents at once")
    p.add_argument("--cut", action="store_true", help="cut longer texts into documents of --tokens")
    p.add_argument("--no-input", action="store_true", help="leave out router inputs, the most of a trace")
    p.add_argument("--share", default="0/1", help="I/N: every N-th document, from the I-th on")
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    rng = random.Random(o.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(o.model, "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32).to(device).eval()
    if hasattr(model, "set_experts_implementation"):  # transformers 5: a loop over experts, for any type and device
        model.set_experts_implementation("eager")
    c = model.config
    blocks = [getattr(layer, "mlp", None) or layer.block_sparse_moe for layer in model.model.layers]
    inputs = [None] * len(blocks)  # of each router, [B,T,D]
    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: inputs.__setitem__(i, args[0]))
    metadata = {
        "expertspec.schema": "1",
        "expertspec.model": json.dumps({"name": os.path.basename(o.model.rstrip("/")), "layers": c.num_hidden_layers,
            "stacks": [{"name": "decoder", "layers": c.num_hidden_layers}], "experts": c.num_local_experts,
            "top_k": c.num_experts_per_tok, "hidden": c.hidden_size, "vocabulary": c.vocab_size}),
        "expertspec.source": json.dumps({"program": "transformers " + transformers.__version__, "dtype": "float32", "seed": o.seed}),
        "expertspec.columns": json.dumps({n: list(range(c.num_hidden_layers)) for n in ["router_logits", "router_input"][: 1 if o.no_input else 2]}),
    }
    share, shares = map(int, o.share.split("/"))
    chosen = documents(o.data, o.docs, o.skip, rng)[share::shares]
    ids = tokenizer([t for _, _, t in chosen])["input_ids"]
    docs = [(d, i, x[: o.tokens]) for (d, i, _), x in zip(chosen, ids)]
    if o.cut:
        rest = [(d, f"{i}+{at}", x[at : at + o.tokens]) for (d, i, _), x in zip(chosen, ids) for at in range(o.tokens, len(x), o.tokens)]
        docs += [x for x in rest if len(x[2]) >= MINIMUM]
        rng.shuffle(docs)
    os.makedirs(o.out, exist_ok=True)
    writers, pending = concurrent.futures.ThreadPoolExecutor(os.cpu_count()), []
    for at in range(0, len(docs), o.batch):
        part = docs[at : at + o.batch]
        width = max(len(x) for _, _, x in part)
        tokens = torch.zeros(len(part), width, dtype=torch.long)
        for i, (_, _, x) in enumerate(part):
            tokens[i, : len(x)] = torch.tensor(x)
        with torch.no_grad():  # padding is behind a document's tokens, which do not see it
            model.model(tokens.to(device))
            x = torch.stack(inputs, 2)  # [B,T,L,D]
            z = torch.stack([h @ block.gate.weight.T for h, block in zip(inputs, blocks)], 2)  # [B,T,L,E]
            best = z.topk(c.num_experts_per_tok, -1)
            arrays = {"experts": best.indices.short(), "weights": best.values.softmax(-1), "router_logits": z.half()}
            if not o.no_input:
                arrays["router_input"] = x.half()
        arrays = {name: a.cpu().numpy() for name, a in arrays.items()}
        pending.append(writers.submit(write, f"{o.out}/shard-{share:02d}-{at // o.batch:05d}.parquet", metadata, part, arrays))
    for w in pending:
        w.result()
    print(f"{o.out}: {len(docs)} documents, {sum(len(x) for _, _, x in docs)} tokens")


main()
