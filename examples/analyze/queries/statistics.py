"""Computes usage of experts, its entropy, transitions and co-activation of a trace in DuckDB or Spark, by statistics.sql.

    python examples/analyze/queries/statistics.py duckdb TRACE           prints each table as CSV
    python examples/analyze/queries/statistics.py spark TRACE
    python examples/analyze/queries/statistics.py spark TRACE STATISTICS compares with what analyze -trace TRACE -json STATISTICS wrote

More traces and statistics may follow. Requires pyarrow, and duckdb or pyspark with a Java runtime.
"""

import csv
import json
import math
import os
import re
import sys
import time

import pyarrow.dataset as ds

SQL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "statistics.sql")


def slots(model, base):
    """The statement that makes the view slots for an engine whose lists begin at base."""
    k = model["top_k"]
    rows = [(layer, choice, layer * k + choice + base, layer + base) for layer in range(model["layers"]) for choice in range(k)]
    values = ", ".join(map(str, rows))
    return f"CREATE TEMPORARY VIEW slots AS SELECT * FROM (VALUES {values}) AS s (layer, choice, slot, layer_slot)"


class DuckDB:
    def __init__(self):
        import duckdb
        self.connect = duckdb.connect

    def begin(self, trace, model):
        self.db = self.connect()
        self.db.execute(f"CREATE VIEW trace AS FROM '{trace}/*.parquet'")
        self.run(slots(model, 1))

    def run(self, statement):
        self.db.execute(statement)

    def rows(self, view):
        result = self.db.execute(f"SELECT * FROM {view}")
        return [c[0] for c in result.description], result.fetchall()


class Spark:
    def __init__(self):
        from pyspark.sql import SparkSession
        # Results are small: partial sums by few groups. The console's progress bars would hide them.
        self.spark = (SparkSession.builder.config("spark.sql.shuffle.partitions", "8").config("spark.ui.showConsoleProgress", "false")
                      .config("spark.ui.enabled", "false").config("spark.log.level", "ERROR").getOrCreate())

    def begin(self, trace, model):
        for view in self.spark.catalog.listTables():
            self.spark.catalog.dropTempView(view.name)
        self.spark.read.parquet(trace).createOrReplaceTempView("trace")
        self.run(slots(model, 0))

    def run(self, statement):
        self.spark.sql(statement)

    def rows(self, view):
        table = self.spark.table(view)
        return table.columns, [tuple(r) for r in table.collect()]


def views(engine, trace):
    """Yields (name, columns, rows) of each view of statistics.sql."""
    schema = ds.dataset(trace, format="parquet").schema
    engine.begin(trace, json.loads(schema.metadata[b"expertspec.model"]))
    with open(SQL) as f:
        text = re.sub(r"(?m)^--.*$", "", f.read())
    for statement in filter(str.strip, text.split(";")):
        name = re.search(r"VIEW (\w+)", statement).group(1)
        if name != "dropped_tokens" or "dropped" in schema.names:
            engine.run(statement)
            yield name, *engine.rows(name)


def expected(s):
    """The views by name, from the statistics that analyze wrote: {key: values}, zeros omitted."""
    layers = range(s["model"]["layers"])
    experts = range(s["model"]["experts"])
    usage = {(g["dataset"], l["layer"], e): (l["counts"][e], l["first_counts"][e])
             for g in s["datasets"] for l in g["layers"] for e in experts if l["counts"][e]}
    all_layers = [l for l in s["overall"]["layers"] if any(l["counts"])]
    return {
        "expert_usage": usage,
        "usage_entropy": {(l["layer"],): (l["usage"]["entropy_bits"],) for l in all_layers},
        "transitions": {(x["from"], e, f): (x["counts"][e][f], x["first_counts"][e][f])
                        for x in s.get("transitions", []) for e in experts for f in experts if x["counts"][e][f]},
        "coactivation": {(l, e, f): (s["coactivation"][l][e][f],)
                         for l in layers for e in experts for f in experts if s["coactivation"][l][e][f]},
        "dropped_tokens": {(l["layer"],): (l["dropped"],) for l in all_layers if "dropped" in l},
    }


def compare(name, rows, want):
    """Requires equal keys, equal counts, and other numbers equal within rounding."""
    width = len(next(iter(want), ()))
    got = {row[:width]: row[width:] for row in rows}
    assert len(got) == len(rows), f"{name}: a key twice"
    assert got.keys() == want.keys(), f"{name}: rows {sorted(got.keys() ^ want.keys())[:5]} in one only"
    for key, values in want.items():
        for a, b in zip(got[key], values, strict=True):
            equal = a == b if isinstance(b, int) else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
            assert equal, f"{name} {key}: {got[key]}, analyze has {values}"


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("duckdb", "spark"):
        sys.exit(__doc__)
    engine = DuckDB() if sys.argv[1] == "duckdb" else Spark()
    if len(sys.argv) == 3:
        for name, columns, rows in views(engine, sys.argv[2]):
            print(name)
            csv.writer(sys.stdout).writerows([columns, *sorted(rows)])
        return
    for trace, file in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        with open(file) as f:
            want = expected(json.load(f))
        start = time.time()
        for name, _, rows in views(engine, trace):
            compare(name, rows, want.pop(name))
            print(f"{trace}: {name}: {len(rows)} rows of {sys.argv[1]} equal ours ({time.time() - start:.1f} s)", flush=True)
            start = time.time()
        assert not any(want.values()), f"{trace}: {sys.argv[1]} has no {[k for k, v in want.items() if v]}"


if __name__ == "__main__":
    main()
