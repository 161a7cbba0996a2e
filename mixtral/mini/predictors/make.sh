#!/usr/bin/env bash
# Makes predictors.zip: trains the networks of FOLDER/routing, FOLDER/logit and FOLDER/hidden that do not exist yet, and packs them.
#
#     mixtral/mini/predictors/make.sh FOLDER [BACKEND]
#
# BACKEND is that of a GPU (xla:cuda), of which 60 GB are used. Recording 43 GB of traces takes 1 min of it and requires PYTHON
# (python3) with torch, transformers and pyarrow; training takes 16 min. Seeds are 1. Trainings end by time, so that those of
# another machine are alike, not equal: ours shared two H200 with others, and were rounded to 8 bits after calibration, not before.
set -euo pipefail
folder=$(mkdir -p "${1:?the folder to write}" && cd "$1" && pwd) backend=${2:-xla:cuda} python=${PYTHON:-python3}
cd "$(dirname "$0")/../../.."
export GOEXPERIMENT=simd
here=$PWD corpus=$PWD/testdata/corpus
go build -o "$folder/bin/" ./examples/train
cd "$folder"

record() { "$python" "$here/testdata/record.py" --model "$here/mixtral/mini/checkpoint" "$@"; }
network() { # folder, name, blocks,width,window, horizons, tokens in a step, MiB, seconds
  [ -d "$1" ] && return
  if [ ! -d train ]; then
    record --data "$corpus/valid.jsonl.zst" --docs 30 --out valid
    for i in {0..5}; do record --data "$corpus/train.jsonl.zst" --cut --share "$i/6" --out recording & pids[i]=$!; done
    for p in "${pids[@]}"; do wait "$p"; done
    mv recording train
  fi
  bin/train -backend "$backend" -trace train -valid valid -model mini -only "$2" -transformer "$3" -horizons "$4" -batch "$5" -rate .0025 \
    -device-memory "$6" -tokens 4000000000 -limit "$7" -checks 20 -patience 1000 -valid-tokens 16384 -seed 1 -quantize int8 -out "$1"
}
network routing "routing transformer" 4,96,512 1,2,4,token+id,token 8192 20000 300s
network logit "router-logit transformer" 4,64,512 1,2,4 8192 20000 300s
network hidden "hidden transformer" 4,64,512 1,2,4 16384 60000 320s

"$python" - "$here/mixtral/mini/predictors/predictors.zip" routing logit hidden <<'PYTHON'
import json, os, sys, zipfile
out, *folders = sys.argv[1:]
sets = [json.load(open(os.path.join(f, "predictors.json"))) for f in folders]
assert all(s["provenance"] == sets[0]["provenance"] for s in sets), "networks of other documents"
packed = dict(sets[0], predictors=[p for s in sets for p in s["predictors"]], costs={k: v for s in sets for k, v in s["costs"].items()})
with zipfile.ZipFile(out, "w") as z:
    def add(name, data):
        z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)  # without the time of day
    add("predictors.json", json.dumps(packed, separators=(",", ":")))
    for folder, s in zip(folders, sets):
        for name in s["predictors"]:
            with open(os.path.join(folder, name), "rb") as f:
                add(name, f.read())
print(out, os.path.getsize(out), "bytes")
PYTHON
