"""Reads an expertspec trace with pandas, polars and DuckDB.

    python testdata/read_trace.py TRACE            prints what a trace holds
    python testdata/read_trace.py --planted DIR    checks the planted traces that
        go test ./trace -run TestWritePlanted -planted DIR
    wrote, down to every token, layer and expert

A trace is a directory of Parquet shards, one row a token. Nothing of expertspec
is needed to read it: pip install pandas pyarrow polars duckdb.
"""

import argparse
import glob
import json
import os

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq


def metadata(trace):
    """The header: model, source and the layers of the optional columns."""
    shard = sorted(glob.glob(os.path.join(trace, "*.parquet")))[0]
    keys = {k.decode(): v.decode() for k, v in pq.read_metadata(shard).metadata.items()}
    assert int(keys["expertspec.schema"]) == 1, keys
    return {k: json.loads(keys["expertspec." + k]) for k in ("model", "source", "columns")}


def experts(df, model):
    """The experts of all tokens, [T,L,K], first choice first."""
    return np.stack(df.experts).reshape(-1, model["layers"], model["top_k"])


def show(trace):
    """Prints the header and the usage of experts, in three libraries."""
    head = metadata(trace)
    model = head["model"]
    print(json.dumps(head))
    df = pd.read_parquet(trace)
    e = experts(df, model)
    usage = np.zeros((model["layers"], model["experts"]), np.int64)
    for layer in range(model["layers"]):
        chosen = e[:, layer][e[:, layer] >= 0]
        usage[layer] = np.bincount(chosen, minlength=model["experts"])
    print(f"pandas: {len(df)} tokens, {df.groupby(['dataset', 'document']).ngroups} documents")
    print("usage of the first layer:", usage[0].tolist())
    rows = pl.read_parquet(trace + "/*.parquet").group_by("dataset").len().sort("dataset").rows()
    print("polars: tokens by data set", dict(rows))
    rows = duckdb.sql(
        f"SELECT experts[1] AS expert, count(*) FROM '{trace}/*.parquet' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    print("DuckDB: first choice at the first layer", dict(rows))
    return df, e, head


# The formulas of trace/planted_test.go.
L, E, K, D, V = 5, 11, 3, 7, 1000


def planted(trace, rtol):
    """Checks every number of a planted trace against its formula."""
    df, e, head = show(trace)
    assert (head["model"]["layers"], head["model"]["experts"], head["model"]["top_k"]) == (L, E, K)
    logit_layers = np.array(head["columns"]["router_logits"])
    input_layers = np.array(head["columns"]["router_input"])
    doc = df.document.str.removeprefix("doc-").astype(int).to_numpy()
    n = len(df)
    t = df.groupby("document").cumcount().to_numpy()
    assert n == sum(1 + (i * i * 7 + i * 3) % 41 for i in range(23))
    assert (np.diff(doc) >= 0).all() and doc.max() == 22
    assert (df.dataset == [f"set-{i // 4}" for i in doc]).all()
    assert (df.token == (doc * 37 + t * 11) % V).all()
    assert (df.position == np.where(doc % 5 == 2, 100 + 2 * t, t)).all()
    length = 1 + (doc * doc * 7 + doc * 3) % 41
    decode = (doc % 3 == 1) & (t >= length // 2)
    assert (df.phase == np.where(decode, "decode", "prefill")).all()

    d, tt = doc[:, None, None], t[:, None, None]
    layer, k = np.arange(L)[None, :, None], np.arange(K)[None, None, :]
    assert (e == (3 * d + 5 * tt + 2 * layer + 4 * k) % E).all()
    weights = np.stack(df.weights).reshape(n, L, K)
    assert weights.dtype == np.float32
    assert (weights == (1 + (d + tt + layer) % 3 + 2 * (K - k)) / 32).all()
    x = np.arange(E)[None, None, :]
    logits = np.stack(df.router_logits).reshape(n, len(logit_layers), E)
    want = ((d * 7 + tt * 13 + logit_layers[None, :, None] * 17 + x * 19) % 64) / 8
    np.testing.assert_allclose(logits, want, rtol=rtol)
    i = np.arange(D)[None, None, :]
    inputs = np.stack(df.router_input).reshape(n, len(input_layers), D)
    want = ((d * 5 + tt * 3 + input_layers[None, :, None] * 29 + i * 31) % 256) / 16 - 8
    np.testing.assert_allclose(inputs, want, rtol=rtol)

    p = pl.read_parquet(trace + "/*.parquet")
    assert p["experts"].to_list() == [r.tolist() for r in df.experts]
    assert p["router_logits"].to_list() == [[float(v) for v in r] for r in df.router_logits]
    con = duckdb.connect()
    rows = con.sql(
        f"SELECT experts, router_input FROM '{trace}/*.parquet' WHERE dataset = 'set-3' ORDER BY document, position"
    ).fetchall()
    mine = df[df.dataset == "set-3"].sort_values(["document", "position"])
    assert [r[0] for r in rows] == [r.tolist() for r in mine.experts]
    assert [r[1] for r in rows] == [[float(v) for v in r] for r in mine.router_input]
    print("planted routing is where it belongs:", trace)


def stacks(trace):
    """Checks a trace of an encoder and a decoder with dropped tokens, as
    trace/stacks_test.go makes it."""
    df, e, head = show(trace)
    layers, encoder = 5, 2
    assert [s["name"] for s in head["model"]["stacks"]] == ["encoder", "decoder"]
    doc = np.array([ord(x) - ord("a") for x in df.document])
    t = df.groupby("document").cumcount().to_numpy()
    assert (df.position == t).all() and (df.token == (doc + 7 * t) % 99).all()
    encoded = t < 3 + doc
    assert (df.phase == np.where(encoded, "encode", "decode")).all()
    layer = np.arange(layers)[None, :]
    routes = encoded[:, None] == (layer < encoder)
    want = np.where(routes, (doc[:, None] + 3 * t[:, None] + 5 * layer) % 7, -1)
    assert (e[:, :, 0] == want).all()
    weights = np.stack(df.weights).reshape(-1, layers)
    assert (weights == np.where(routes, (1 + (t[:, None] + layer) % 4) / 8, 0)).all()
    dropped = np.stack(df.dropped).reshape(-1, layers)
    assert dropped.dtype == bool
    assert (dropped == (routes & ((doc[:, None] + t[:, None] + 2 * layer) % 3 == 0))).all()
    p = pl.read_parquet(trace + "/*.parquet")
    assert p["dropped"].to_list() == dropped.tolist()
    rows = duckdb.sql(f"SELECT dropped FROM '{trace}/*.parquet' ORDER BY document, position").fetchall()
    assert [r[0] for r in rows] == dropped.tolist()
    print("stacks and drops are where they belong:", trace)


def rewrite(trace, to):
    """Writes the trace anew with each library, for Go to read:
    go test ./trace -run TestReadRewritten -rewritten TO"""
    os.makedirs(to, exist_ok=True)
    table = pq.read_table(trace)
    keys = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    path = lambda name: os.path.join(to, name + ".parquet")
    pq.write_table(table, path("pyarrow"), row_group_size=130)
    pq.write_table(table, path("pyarrow2"), compression="gzip", data_page_version="2.0",
                   use_dictionary=["dataset", "document", "phase"],
                   column_encoding={"position": "DELTA_BINARY_PACKED",
                                    "weights.list.element": "BYTE_STREAM_SPLIT"})
    pl.read_parquet(trace + "/*.parquet").write_parquet(path("polars"), metadata=keys)
    pairs = ", ".join(f"'{k}': '{v}'" for k, v in keys.items())
    duckdb.sql(f"COPY (SELECT * FROM '{trace}/*.parquet' ORDER BY document, position) "
               f"TO '{path('duckdb')}' (FORMAT parquet, KV_METADATA {{{pairs}}})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", help="directory of shards, or with --planted the folder of planted traces")
    parser.add_argument("--planted", action="store_true")
    args = parser.parse_args()
    if not args.planted:
        show(args.trace)
        return
    planted(os.path.join(args.trace, "float32"), 0)
    planted(os.path.join(args.trace, "float16"), 0)
    planted(os.path.join(args.trace, "split"), 0)
    rewrite(os.path.join(args.trace, "float32"), os.path.join(args.trace, "rewritten"))
    stacks(os.path.join(args.trace, "stacks"))
    rewrite(os.path.join(args.trace, "stacks"), os.path.join(args.trace, "rewritten-stacks"))


if __name__ == "__main__":
    main()
