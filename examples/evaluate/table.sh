#!/usr/bin/env bash
# Trains every predictor on the embedded model and scores it on all its test documents:
#
#     examples/evaluate/table.sh FOLDER [BACKEND [DOCUMENTS [TOKENS]]]
#
# BACKEND is go (the default) or as in README. Each predictor is fitted on DOCUMENTS of each data set (30), each network trained on
# TOKENS, repeats included (60000). FOLDER receives the traces, the predictors, table.txt, results.json and a report with recall
# against the time of a decision. Run again, collecting resumes.
set -euo pipefail
folder=$(mkdir -p "${1:?the folder to write}" && cd "$1" && pwd) backend=${2:-go} documents=${3:-30} tokens=${4:-60000}
cd "$(dirname "$0")/../.."
export GOEXPERIMENT=simd
go build -o "$folder/bin/" ./examples/collect ./examples/train ./examples/evaluate ./examples/analyze
cd "$folder"
corpus=$OLDPWD/testdata/corpus
collect() { bin/collect -backend "$backend" -logits -router-input -float float16 "$@"; }
collect -data "$corpus/train.jsonl.zst" -docs "$documents" -out train
collect -data "$corpus/valid.jsonl.zst" -docs 0 -out valid
collect -data mini -docs 0 -out test
names="frequency,previous token,transition,path of three,token id,gate reuse,inter-layer,statistics-aware,router logits,corrected gate,hidden state,routing transformer,router-logit transformer,hidden transformer,ensemble"
sets=fiction,drama,speeches,reference,math,code,reasoning,technical,legal-de,poetry-zh # without the x- data sets, which have no test documents
bin/train -backend "$backend" -trace train -datasets "$sets" -valid valid -model mini -tokens "$tokens" -only "$names" -out predictors
bin/evaluate -trace test -predictors predictors -model mini -json results.json | tee table.txt
bin/analyze -trace test -results results.json -out report
echo "$folder: table.txt, results.json and report/report.html after $SECONDS s"
