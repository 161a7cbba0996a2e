"""Recomputes the figures of `evaluate` from its predictions file, in pandas, without the product's code.

    python recompute.py predictions.parquet [results.json]

Prints the measures by predictor and distance; with results.json, also the largest difference from the figures there,
over all rows: by layer, data set and phase too. A million rows take some seconds.
"""

import json
import sys

import numpy as np
import pandas as pd

COLUMNS = ["dataset", "phase", "layer", "distance", "predictor", "predicted", "confidence", "actual"]


def matrix(lists: pd.Series, fill: float, dtype: type) -> np.ndarray:
    """Lists of unequal length as the rows of a matrix."""
    length = lists.map(len).to_numpy()
    out = np.full((len(lists), length.max()), fill, dtype)
    out[np.arange(out.shape[1]) < length[:, None]] = np.concatenate(lists.to_numpy())
    return out


def measure(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds each row's measures as columns."""
    predicted, actual = matrix(rows.predicted, -2, int), matrix(rows.actual, -1, int)
    confidence = matrix(rows.confidence, 0, np.float32)
    hit = (predicted[:, :, None] == actual[:, None, :]).any(axis=2)  # [rows, rank]
    chosen = (actual >= 0).sum(axis=1)
    named = np.arange(predicted.shape[1]) < chosen[:, None]  # the first K ranks
    found = (hit & named).sum(axis=1)
    at = {"recall_k": found / chosen, "top1": predicted[:, 0] == actual[:, 0], "top_any": hit[:, 0], "exact": found == chosen, "at_least_one": found > 0, "named": chosen}
    for k in range(1, 9):
        at[f"recall@{k}"] = hit[:, :k].sum(axis=1) / chosen
        at[f"precision@{k}"] = hit[:, :k].sum(axis=1) / k
    bins = np.clip((confidence * np.float32(15)).astype(int), 0, 14)
    for b in range(15):  # sums of confidence less hits: ECE is the sum of their sizes over the number named
        at[f"gap{b}"] = ((confidence.astype(float) - hit) * (named & (bins == b))).sum(axis=1)
    return rows.drop(columns=["predicted", "confidence", "actual"]).assign(**at)


def table(rows: pd.DataFrame, *by: str) -> pd.DataFrame:
    gaps = [f"gap{b}" for b in range(15)]
    groups = rows.groupby(["predictor", "distance", *by], observed=True)
    out = groups[[c for c in rows if c not in ("dataset", "phase", "layer", "distance", "predictor")]].mean()
    out["ece"] = out[gaps].abs().sum(axis=1) / out.named
    out.insert(0, "pairs", groups.size())
    return out.drop(columns=["named", *gaps])


def difference(rows: pd.DataFrame, results: dict) -> float:
    """The largest difference of any figure from those of evaluate."""
    worst = 0.0
    tables = {"all": table(rows), **{by: table(rows, by) for by in ("layer", "dataset", "phase")}}
    for r in results["rows"]:
        h = r["horizon"]
        key = [r["predictor"], h["layers"] or (0 if h.get("known_id") else -1)]
        if r["by"] != "all":
            key.append(int(r["key"]) if r["by"] == "layer" else r["key"])
        mine = tables[r["by"]].loc[tuple(key)]
        for name, value in mine.items():
            stem, _, k = name.partition("@")
            worst = max(worst, abs(value - (r[stem][int(k) - 1] if k else r[name])))
    return worst


def main() -> None:
    rows = pd.read_parquet(sys.argv[1], columns=COLUMNS)
    rows = rows[rows.actual.map(len) > 0]
    rows = pd.concat(measure(rows[i : i + 100_000]) for i in range(0, len(rows), 100_000))  # bounds the memory
    print(table(rows).T.to_string(float_format="%.4f"))
    if len(sys.argv) > 2:
        print(f"largest difference from {sys.argv[2]}: {difference(rows, json.load(open(sys.argv[2]))):.2e}")


if __name__ == "__main__":
    main()
