-- Usage of experts, its entropy, transitions and co-activation of a trace: the figures of examples/analyze, in SQL that DuckDB and
-- Spark both run. statistics.py beside this file runs it. It reads
--
--   trace   the shards' rows (trace/SCHEMA.md). DuckDB: CREATE VIEW trace AS FROM 'DIR/*.parquet';
--           Spark: CREATE TEMPORARY VIEW trace USING parquet OPTIONS (path 'DIR')
--   slots   a row for each place in the list experts: layer, choice from 0, slot (the index layer*K + choice, from 0 in Spark and
--           from 1 in DuckDB) and layer_slot (layer, counted likewise). L and K are in the metadata expertspec.model. DuckDB, for
--           Mixtral 8x7B: CREATE TABLE slots AS SELECT l AS layer, k AS choice, l*2 + k + 1 AS slot, l + 1 AS layer_slot
--           FROM range(32) a(l), range(2) b(k);
--
-- -1 is no expert. Where a model has an encoder, its tokens have none at the decoder's layers and the reverse, so that no pair of
-- choices is of both. Choices count whether the token was dropped or not.

-- How often each expert was chosen, by any choice and as the first.
CREATE TEMPORARY VIEW expert_usage AS
SELECT t.dataset, s.layer, t.experts[s.slot] AS expert, count(*) AS chosen, count(CASE WHEN s.choice = 0 THEN 1 END) AS chosen_first
FROM trace t CROSS JOIN slots s
WHERE t.experts[s.slot] >= 0
GROUP BY t.dataset, s.layer, t.experts[s.slot];

-- Entropy of usage over all data sets, in bits.
CREATE TEMPORARY VIEW usage_entropy AS
SELECT layer, -sum(p * log2(p)) AS entropy_bits
FROM (SELECT layer, sum(chosen) / sum(sum(chosen)) OVER (PARTITION BY layer) AS p FROM expert_usage GROUP BY layer, expert) shares
GROUP BY layer;

-- Choices of a token at a layer and at the next: all pairs, and first choices.
CREATE TEMPORARY VIEW transitions AS
SELECT a.layer, t.experts[a.slot] AS expert, t.experts[b.slot] AS next_expert, count(*) AS chosen,
  count(CASE WHEN a.choice = 0 AND b.choice = 0 THEN 1 END) AS chosen_first
FROM trace t CROSS JOIN slots a JOIN slots b ON b.layer = a.layer + 1
WHERE t.experts[a.slot] >= 0 AND t.experts[b.slot] >= 0
GROUP BY a.layer, t.experts[a.slot], t.experts[b.slot];

-- Tokens that chose both of two experts, each pair in both orders.
CREATE TEMPORARY VIEW coactivation AS
SELECT a.layer, t.experts[a.slot] AS expert, t.experts[b.slot] AS other_expert, count(*) AS tokens
FROM trace t CROSS JOIN slots a JOIN slots b ON b.layer = a.layer AND b.choice <> a.choice
WHERE t.experts[a.slot] >= 0 AND t.experts[b.slot] >= 0
GROUP BY a.layer, t.experts[a.slot], t.experts[b.slot];

-- The share of routed tokens that were dropped, where the trace has the column.
CREATE TEMPORARY VIEW dropped_tokens AS
SELECT s.layer, CAST(count(CASE WHEN t.dropped[s.layer_slot] THEN 1 END) AS DOUBLE) / count(*) AS dropped
FROM trace t CROSS JOIN slots s
WHERE s.choice = 0 AND t.experts[s.slot] >= 0
GROUP BY s.layer;
