"""Computes the figures of examples/compare again, from the same traces, with numpy, pandas and scikit-learn:

    go run ./examples/compare -trace A -model MODEL -against B -against-model MODEL -json comparison.json
    python testdata/compare.py comparison.json A MODEL B MODEL

It prints the largest difference of each measure, over layers and stacks, and fails above 1e-6. Intervals are compared with
those of documents resampled 100 times. Requires numpy, pandas, pyarrow, safetensors and scikit-learn.
"""

import collections
import glob
import json
import re
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

FACTORS, PREFIX = {"overflow_1": 1, "overflow_1.25": 1.25, "overflow_2": 2}, 32
worst = collections.defaultdict(float)


def compare(name, got, want):
    d = 0.0
    if ("missing" in got) != bool(np.isnan(want)):
        d = np.inf
    elif "missing" not in got:
        d = abs(got["value"] - want)
    worst[name] = max(worst[name], d)


class Stack:
    """One stack's tokens and layers of a trace: arrays [T,L,...] and the documents' names."""

    def __init__(self, df, model, columns, first, stack):
        L, K, E, n = model["layers"], model["top_k"], model["experts"], stack["layers"]
        own = slice(first, first + n)
        x = np.stack(df.experts).reshape(-1, L, K)
        keep = x[:, first, 0] >= 0
        self.name, self.E, self.K, self.L, self.first = stack["name"], E, K, n, first
        self.blocks = stack.get("blocks") or list(range(n))
        self.experts = x[keep][:, own].astype(int)
        df = df[keep]
        self.tokens = df.token.to_numpy()
        self.key = df.dataset + "\0" + df.document
        self.doc, names = pd.factorize(self.key)
        self.names = list(names)
        self.starts = np.flatnonzero(np.r_[True, self.doc[1:] != self.doc[:-1]])
        self.ends = np.r_[self.starts[1:], len(self.doc)]
        self.domain = df.dataset.to_numpy()
        self.logits = self.inputs = self.dropped = None
        if columns.get("router_logits"):
            self.logits = np.stack(df.router_logits).reshape(-1, L, E)[:, own].astype(np.float64)
        if columns.get("router_input"):
            self.inputs = np.stack(df.router_input).reshape(-1, L, model["hidden"])[:, own].astype(np.float32)
        if "dropped" in df:
            self.dropped = np.stack(df.dropped).reshape(-1, L)[:, own]


def stacks(folder):
    files = sorted(glob.glob(folder + "/*.parquet"))
    meta = pq.read_schema(files[0]).metadata
    model, columns = json.loads(meta[b"expertspec.model"]), json.loads(meta[b"expertspec.columns"])
    df = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    first = 0
    for s in model["stacks"]:
        yield Stack(df, model, columns, first, s)
        first += s["layers"]


def gates(folder):
    """The routers of all layers, [L,E,D]: encoder, then decoder."""
    found = {}
    for f in glob.glob(folder + "/*.safetensors"):
        with safe_open(f, "pt") as t:
            for name in t.keys():
                m = re.search(r"(encoder|decoder|)\.?(?:layers|block)\.(\d+)\..*(?:\.gate|\.classifier)\.weight$", name)
                if m:
                    found[(m[1] == "decoder", int(m[2]))] = t.get_tensor(name).float().numpy()
    return np.stack([found[k] for k in sorted(found)])


def entropy(counts):
    p = counts[counts > 0] / counts.sum()
    return -(p * np.log2(p)).sum()


def gini(counts):
    return np.abs(counts[:, None] - counts[None]).sum() / (2 * len(counts) ** 2 * counts.mean())


def expected_distinct(share, tokens, per_token):
    return (1 - (1 - np.minimum(1, per_token * share)) ** tokens).sum()


def expected_excess(share, tokens, per_token, room):
    """What independent tokens choose beyond the places of their experts."""
    x = np.arange(tokens + 1)
    log = np.r_[0, np.cumsum(np.log(np.arange(1, tokens + 1)))]
    p = np.clip(per_token * share, 1e-300, 1 - 1e-15)[:, None]
    q = np.exp(log[tokens] - log[x] - log[tokens - x] + x * np.log(p) + (tokens - x) * np.log1p(-p))
    return (q * np.maximum(0, x - room)).sum()


def measures(s, l, pick, chances=False):
    """The measures of layer l on the documents pick, given with repetition."""
    E, m = s.E, {}
    parts = [np.arange(s.starts[d], s.ends[d]) for d in pick]
    at = np.concatenate(parts)
    x, first = s.experts[at, l], s.experts[at, l, 0]
    counts = np.bincount(x.ravel(), minlength=E).astype(float)
    f, ff = counts / counts.sum(), np.bincount(first, minlength=E) / len(first)
    m["entropy"], m["max_over_mean"], m["gini"] = entropy(counts) / np.log2(E), E * f.max(), gini(counts)
    m["auxiliary_loss"] = m["top_probability"] = m["dropped"] = np.nan
    if s.logits is not None:
        z = np.exp(s.logits[at, l] - s.logits[at, l].max(-1, keepdims=True))
        p = z / z.sum(-1, keepdims=True)
        m["auxiliary_loss"], m["top_probability"] = E * (f * p.mean(0)).sum(), p.max(-1).mean()
    if s.dropped is not None:
        m["dropped"] = s.dropped[at, l].mean()
    same = pairs = distinct = expected = prefix = prefix_expected = long = 0
    over = collections.Counter()
    for i in parts:
        e = s.experts[i, l]
        same, pairs = same + (e[1:, 0] == e[:-1, 0]).sum(), pairs + len(i) - 1
        own = np.bincount(e.ravel(), minlength=E)
        for name, factor in FACTORS.items():
            room = max(1, np.floor(factor * own.sum() / E))
            over[name] += np.maximum(0, own - room).sum()
            if chances:
                over[name + "_chance"] += expected_excess(f, len(i), s.K, room)
        distinct, expected = distinct + (own > 0).sum(), expected + expected_distinct(f, len(i), s.K)
        if len(i) >= PREFIX:
            long += 1
            prefix, prefix_expected = prefix + len(np.unique(e[:PREFIX])), prefix_expected + expected_distinct(f, PREFIX, s.K)
    for name in over:
        m[name] = over[name] / counts.sum()
    m["repetition"], m["repetition_chance"] = same / pairs, (ff**2).sum()
    m["repetition_lift"] = m["repetition"] / m["repetition_chance"]
    m["working_set"], m["working_set_share"], m["working_set_relative"] = distinct / len(parts), distinct / len(parts) / E, distinct / expected
    m["prefix_set_share"], m["prefix_set_relative"] = (prefix / long / E, prefix / prefix_expected) if long else (np.nan, np.nan)
    m["expert_bits"] = entropy(ff)
    return m


def information(s, l):
    """Plug-in information in bits and, where it is exact, what chance gives."""
    y, out = s.experts[:, l, 0], {}
    previous = s.experts[:, l - 1, 0] if l else None
    for name, x in (("domain", s.domain), ("token", s.tokens), ("previous_layer", previous)):
        if x is None:
            out[name] = (np.nan, np.nan)
            continue
        chance = None
        if name != "domain":
            table = contingency_matrix(x, y, sparse=True)
            chance = expected_mutual_information(table, len(y)) / np.log(2)
        out[name] = (mutual_info_score(x, y) / np.log(2), chance)
    return out


def check_layers(s, column):
    everything = range(len(s.names))
    each = [measures(s, l, everything, True) for l in range(s.L)]
    for name in each[0]:
        values = np.array([m[name] for m in each])
        for l, v in enumerate(values):
            compare(name, column["measures"][name]["layers"][l], v)
        if not np.isnan(values).all():
            compare(name, column["measures"][name]["mean"], np.nanmean(values))
    for l in range(s.L):
        for name, (bits, chance) in information(s, l).items():
            got = {k: column["measures"][f"{name}_{k}"]["layers"][l] for k in ("bits", "chance_bits", "share")}
            if np.isnan(bits):
                compare(name + " bits", got["bits"], bits)
                continue
            plain = {"value": got["bits"]["value"] + got["chance_bits"]["value"]}
            compare(name + " bits", plain, bits)
            if chance is not None:
                compare(name + " chance", got["chance_bits"], chance)
            compare(name + " share", got["share"], got["bits"]["value"] / each[l]["expert_bits"])


def check_reuse(s, column, w, test):
    """Gate reuse on the test documents: layer l's router on the input of layer l-h."""
    rows = s.key.isin(test).to_numpy()
    ranks = {}
    for l in range(s.L):
        for h in range(1, l + 1):
            z = s.inputs[rows, l - h] @ w[s.first + l].T
            order = np.argsort(-z, axis=1, kind="stable")
            place = np.argsort(order, axis=1)
            ranks[l, h] = np.take_along_axis(place, s.experts[rows, l], 1).ravel()
    for r in column.get("recalls") or []:
        if r["predictor"] != "gate reuse":
            continue
        chosen = [v for (l, h), v in ranks.items() if h == r.get("layers") or s.blocks[l] - s.blocks[l - h] == r.get("blocks")]
        compare("gate reuse", r["recall"], (np.concatenate(chosen) < r["named"]).mean())


def check_lru(s, column):
    wanted = {c["experts"]: c["hit_rate"] for c in column.get("caches") or [] if c["policy"] == "LRU"}
    for size in list(wanted)[:: max(1, len(wanted) // 3)]:
        hits = 0
        for a, b in zip(s.starts, s.ends):
            cache = collections.OrderedDict()
            for t in range(a, b):
                for l in range(s.L):
                    for e in s.experts[t, l]:
                        key = (l, e)
                        if key in cache:
                            hits += 1
                            cache.move_to_end(key)
                        else:
                            cache[key] = None
                            if len(cache) > size:
                                cache.popitem(last=False)
        compare("LRU", wanted[size], hits / s.experts.size)


def intervals(s, column, rng):
    """Half the jackknife's interval by 1.96 standard deviations of resampled means over layers."""
    names, n = ("entropy", "gini", "repetition", "repetition_lift", "working_set_share"), len(s.names)
    drawn = collections.defaultdict(list)
    layers = (0, s.L - 1)
    for _ in range(100):
        pick = rng.integers(0, n, n)
        for l in layers:
            m = measures(s, l, pick)
            for name in names:
                drawn[name, l].append(m[name])
    for name in names:
        ratios = []
        for l in layers:
            v = column["measures"][name]["layers"][l]
            if v["high"] < 1 or name == "repetition_lift":
                ratios.append((v["high"] - v["low"]) / 2 / (1.96 * np.std(drawn[name, l])))
        print(f"  {s.name} {name}: interval by that of resampling {', '.join(f'{x:.2f}' for x in ratios)}")


def main():
    result = json.load(open(sys.argv[1]))
    test = {k["Dataset"] + "\0" + k["Document"] for k in result["test"]}
    columns, rng = iter(result["columns"]), np.random.default_rng(1)
    for folder, model in (sys.argv[2:4], sys.argv[4:6]):
        w = gates(model)
        for s in stacks(folder):
            column = next(columns)
            print(column["name"], len(s.names), "documents", len(s.tokens), "tokens")
            assert (column["documents"], column["tokens"]) == (len(s.names), len(s.tokens))
            check_layers(s, column)
            if s.inputs is not None:
                check_reuse(s, column, w, test)
            check_lru(s, column)
            intervals(s, column, rng)
    for name, d in worst.items():
        print(f"{name:24} {d:.1e}")
    largest = max(worst.values())
    print("largest difference", f"{largest:.1e}")
    sys.exit(int(largest > 1e-6))


main()
