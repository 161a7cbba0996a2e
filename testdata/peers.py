"""Measures llama.cpp, transformers and this repository's two backends on CPU, in turn, and prints tokens/s.

    EXPERTSPEC_TEST_XLA=$PLUGIN python3 testdata/peers.py -memory -greedy        # the models a and b
    EXPERTSPEC_TEST_XLA=$PLUGIN python3 testdata/peers.py -models c -forms bf16,int8

Models: a, the embedded one; b, random, hidden size 512, expert width 1,792, 8 layers; c, two layers of Mixtral 8x7B's width
(6 GB; 28 GB with the files for llama.cpp; 22 GB of memory for transformers in f32). Forms: f32, bf16, int8 (llama.cpp: Q8_0; transformers: none; ours: int8 matrices,
the rest bfloat16). Tests: prefill of 512 tokens, collect (8 documents of 512; llama.cpp: none), decode of 64 tokens after 128.
Each round runs every program once, in its own process, on all cores; a cell is the median (minimum..maximum) of rounds * reps.

The first run installs PyTorch and transformers, builds llama.cpp from llama-cpp-python's source distribution (10 minutes,
8 GB, in ~/.cache/expertspec-peers) and writes the models. Needs Go, cmake, ninja and a C++ compiler.
"""

import argparse
import collections
import glob
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.path.expanduser("~/.cache/expertspec-peers")
LLAMA = "llama_cpp_python-0.3.36"
PYTHON = CACHE + "/venv/bin/python"
BENCH, OURS = f"{CACHE}/{LLAMA}/vendor/llama.cpp/build/bin/llama-bench", CACHE + "/mixtral.test"
CORES = len(os.sched_getaffinity(0))
PROGRAMS = ["llama.cpp", "transformers", "go", "xla"]
GGUF = {"f32": "f32", "bf16": "bf16", "int8": "q8_0"}
# What may run an expert in transformers; batched_mm copies matrices for each token, which a prefill has no memory for.
EXPERTS = {"prefill": ["eager", "grouped_mm"], "collect": ["eager", "grouped_mm"], "decode": ["eager", "batched_mm", "grouped_mm"]}
CONVERT = """
import sys, runpy
sys.path.insert(0, sys.argv[1])
from conversion.llama import LlamaModel
LlamaModel.set_vocab = lambda self: self._set_vocab_none()  # ids in, ids out
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def sh(*cmd, **kw):
    print("+", *(c if len(c) < 200 else "..." for c in cmd), file=sys.stderr, flush=True)
    subprocess.run(cmd, check=True, stdout=sys.stderr, **kw)


def prepare(a):
    """Installs, builds and writes what does not exist yet."""
    os.makedirs(CACHE, exist_ok=True)
    if not os.path.exists(CACHE + "/venv/done"):
        sh(sys.executable, "-m", "venv", CACHE + "/venv")
        sh(PYTHON, "-m", "pip", "install", "-q", "torch==2.15.0", "transformers==5.24.0", "gguf", "diskcache")
        open(CACHE + "/venv/done", "w").close()
    src = f"{CACHE}/{LLAMA}/vendor/llama.cpp"
    if not os.path.exists(BENCH):
        sh(PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", LLAMA.replace("_", "-").replace("-0", "==0"), "-d", CACHE)
        sh("tar", "xzf", f"{CACHE}/{LLAMA}.tar.gz", "-C", CACHE)
        off = [f"-DLLAMA_{x}=OFF" for x in ("OPENSSL", "BUILD_SERVER", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP")]
        sh("cmake", "-G", "Ninja", "-S", src, "-B", src + "/build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *off)
        sh("ninja", "-C", src + "/build", "llama-bench")
    for name in a.models:
        d = f"{a.dir}/{name}"
        os.makedirs(a.dir, exist_ok=True)
        if name == "a" and not os.path.exists(d):
            os.symlink(ROOT + "/mixtral/mini/checkpoint", d)
        if not os.path.exists(d + "/config.json"):
            sh(PYTHON, ROOT + "/testdata/random_mixtral.py", d, {"b": "512", "c": "4096"}[name])
        for form in a.forms if "llama.cpp" in a.only else ():
            if not os.path.exists(gguf(a, name, form)):
                sh(PYTHON, "-c", CONVERT, src, d, "--outtype", GGUF[form], "--outfile", gguf(a, name, form) + ".part")
                os.rename(gguf(a, name, form) + ".part", gguf(a, name, form))
    sh("go", "test", "-c", "-o", OURS, "./mixtral", cwd=ROOT, env={"GOEXPERIMENT": "simd", **os.environ})


def gguf(a, model, form):
    return f"{a.dir}/{model}-{GGUF[form]}.gguf"


def run(cmd, **kw):
    """Returns what cmd printed and its peak resident memory in MiB, or nothing and 0 if it failed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        p = subprocess.Popen(cmd, stdout=out, stderr=err, **kw)
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if p.returncode != 0:
            print(*cmd[:3], "failed:", p.returncode, (out.read()[-500:] + err.read()[-1500:]).decode(), file=sys.stderr, flush=True)
            return "", 0
        return out.read().decode(), usage.ru_maxrss / 1024


def measure(a, program, model, form, tests, reps, experts):
    """Yields (test, variant, tokens/s) and last ("memory", "", MiB) of one process or, of llama.cpp, one for each test."""
    d, peak = f"{a.dir}/{model}", 0
    if program == "llama.cpp":
        for test in tests:
            if test != "collect":
                what = ["-p", "512", "-n", "0"] if test == "prefill" else ["-p", "0", "-n", "64", "-d", "128"]
                out, mib = run([BENCH, "-m", gguf(a, model, form), "-t", str(CORES), "-r", str(reps), "-o", "json", *what])
                peak = max(peak, mib)
                for v in json.loads(out or "[]"):
                    yield from ((test, "", r) for r in v["samples_ts"])
    elif program == "transformers":
        if form != "int8":
            out, peak = run([PYTHON, __file__, "torch", d, form, str(reps), json.dumps({t: experts[t] for t in tests})])
            yield from json.loads(out or "[]")
    else:
        env = {k: v for k, v in os.environ.items() if k != "EXPERTSPEC_TEST_XLA" or program == "xla"}
        env |= {"EXPERTSPEC_BENCH_MODEL": d, "EXPERTSPEC_BENCH_DTYPE": "float32" if form == "f32" else "bfloat16"}
        env |= {"EXPERTSPEC_BENCH_INT8": "1"} if form == "int8" else {}
        bench = "^Benchmark(" + "|".join(t.title() for t in tests) + f")$/^{program}$"
        out, peak = run([OURS, "-test.run=^$", "-test.bench=" + bench, "-test.benchtime=1x", f"-test.count={reps}"], env=env, cwd=ROOT + "/mixtral")
        for test, rate in re.findall(r"^Benchmark(\w+)/.* ([\d.e+]+) tokens/s", out, re.M):
            yield test.lower(), "", float(rate)
    if peak:
        yield "memory", "", peak


def torch_worker(d, form, reps, experts):
    """Prints [test, implementation of experts, tokens/s] as JSON."""
    import torch

    model = torch_model(d, form)
    ids = torch.randint(3, 4096, (8, 512))
    out = []

    @torch.inference_mode()
    def once(test, name, new):
        model.set_experts_implementation(name if test != "decode" else "eager")
        if test != "decode":
            batch = ids if test == "collect" else ids[:1]
            began = time.perf_counter()
            model(batch, use_cache=False, logits_to_keep=1, output_router_logits=True)
            return batch.numel() / (time.perf_counter() - began)
        o = model(ids[:1, :128], logits_to_keep=1)
        model.set_experts_implementation(name)
        began = time.perf_counter()
        for _ in range(new):
            o = model(o.logits.argmax(-1), past_key_values=o.past_key_values)
            o.logits.argmax(-1).item()
        return new / (time.perf_counter() - began)

    for test, names in experts.items():
        best = 0
        for name in names:
            warm = once(test, name, 4)
            if warm > best / 3:  # batched_mm may take minutes
                best = max(best, warm)
                out += [(test, name, once(test, name, 64)) for _ in range(reps)]
    print(json.dumps(out))


def torch_model(d, form):
    import torch
    import transformers

    torch.set_num_threads(CORES)
    return transformers.MixtralForCausalLM.from_pretrained(d, dtype=torch.float32 if form == "f32" else torch.bfloat16).eval()


def torch_greedy(d, ids, new):
    import torch

    with torch.inference_mode():
        out = torch_model(d, "f32").generate(torch.tensor([ids]), do_sample=False, min_new_tokens=new, max_new_tokens=new)
    print(json.dumps(out[0, len(ids) :].tolist()))


def llama_greedy(file, ids, new):
    import ctypes

    import numpy as np

    os.environ["LLAMA_CPP_LIB_PATH"] = os.path.dirname(BENCH)
    sys.path.insert(0, f"{CACHE}/{LLAMA}")
    from llama_cpp import llama_cpp as ll

    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(file.encode(), ll.llama_model_default_params())
    p = ll.llama_context_default_params()
    p.n_ctx, p.n_threads, p.n_threads_batch, p.type_k, p.type_v = 512, CORES, CORES, ll.GGML_TYPE_F32, ll.GGML_TYPE_F32
    p.flash_attn_type = 0  # flash attention rounds to float16, which changes logits by .015
    ctx, vocabulary = ll.llama_init_from_model(model, p), ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    out, chunk = [], ids
    for _ in range(new):
        tokens = (ctypes.c_int32 * len(chunk))(*chunk)  # a batch only points to them
        assert ll.llama_decode(ctx, ll.llama_batch_get_one(tokens, len(chunk))) == 0
        out.append(int(np.ctypeslib.as_array(ll.llama_get_logits_ith(ctx, -1), (vocabulary,)).argmax()))
        chunk = out[-1:]
    print(json.dumps(out))


def greedy(a, model, new=32):
    """Prints whether the programs continue 64 tokens alike in float32."""
    ids = random.Random(1).choices(range(3, 4096), k=64)
    d, got = f"{a.dir}/{model}", {}
    got["transformers"] = json.loads(run([PYTHON, __file__, "torch_greedy", d, json.dumps(ids), str(new)])[0] or "[]")
    got["llama.cpp"] = json.loads(run([PYTHON, __file__, "llama_greedy", gguf(a, model, "f32"), json.dumps(ids), str(new)])[0] or "[]")
    with tempfile.TemporaryDirectory() as tmp:
        json.dump({"id": "x", "ids": ids}, open(tmp + "/in.jsonl", "w"))
        for name, backend in ("go", "go"), ("xla", "xla:" + os.environ.get("EXPERTSPEC_TEST_XLA", "")):
            if name in a.only:
                sh("go", "run", "./examples/forward", "-model", d, "-backend", backend, "-in", tmp + "/in.jsonl", "-out", tmp + "/out", "-greedy", str(new), cwd=ROOT)
                raw = open(tmp + "/out", "rb").read()
                n = 8 + struct.unpack("<Q", raw[:8])[0]
                at = json.loads(raw[8:n])["x.greedy_ids"]["data_offsets"]
                got[name] = list(struct.unpack(f"<{new}i", raw[n + at[0] : n + at[1]]))
    for name, g in got.items():
        same = next((i for i in range(new) if g[i : i + 1] != got["transformers"][i : i + 1]), new)
        print(f"{model}: greedy continuation in float32: {name} has the first {same} of {new} tokens of transformers", flush=True)


def main():
    comma = lambda s: s.split(",")
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-models", type=comma, default=["a", "b"])
    p.add_argument("-forms", type=comma, default=list(GGUF))
    p.add_argument("-tests", type=comma, default=["prefill", "decode"], help="prefill, collect, decode")
    p.add_argument("-only", type=comma, default=PROGRAMS, help="programs: " + ", ".join(PROGRAMS))
    p.add_argument("-rounds", type=int, default=3)
    p.add_argument("-reps", type=int, default=2, help="repetitions in a round")
    p.add_argument("-memory", action="store_true", help="and peak resident memory of one decoding process each")
    p.add_argument("-greedy", action="store_true", help="and whether greedy continuations agree in float32")
    p.add_argument("-dir", default="/tmp/peers", help="folder of the models")
    a = p.parse_args()
    if not os.environ.get("EXPERTSPEC_TEST_XLA"):
        a.only = [x for x in a.only if x != "xla"]
    prepare(a)
    rates = collections.defaultdict(lambda: collections.defaultdict(list))  # (model, test, form, program) -> variant -> tokens/s
    print("load average:", os.getloadavg()[0], flush=True)
    try:
        for model, form, program in ((m, f, x) for _ in range(a.rounds) for m in a.models for f in a.forms for x in a.only):
            tried = {t: rates[model, t, form, "transformers"] for t in a.tests}
            experts = {t: [max(v, key=lambda e: statistics.median(v[e]))] if v else EXPERTS[t] for t, v in tried.items()}
            for test, variant, rate in measure(a, program, model, form, a.tests, a.reps, experts):
                if test != "memory":
                    rates[model, test, form, program][variant].append(rate)
    except KeyboardInterrupt:
        print("interrupted: fewer rounds", flush=True)
    ours, peers = [x for x in a.only if x in ("go", "xla")], [x for x in a.only if x not in ("go", "xla")]
    head = ["model", "test", "form", *a.only, *(f"{o} / {x}" for o in ours for x in peers)]
    print("|", " | ".join(head), "|\n|" + "---|" * len(head))
    for model, test, form in ((m, t, f) for m in a.models for t in a.tests for f in a.forms):
        cells, medians = [], {}
        for program in a.only:
            if variants := rates[model, test, form, program]:
                name, best = max(variants.items(), key=lambda v: statistics.median(v[1]))
                medians[program] = statistics.median(best)
                number = lambda x: f"{x:,.0f}" if x >= 100 else f"{x:.1f}"
                cells.append(f"{number(medians[program])} ({number(min(best))}..{number(max(best))}) {name}".strip())
            else:
                cells.append("-")
        ratios = [f"{medians[o] / medians[x]:.2f}" if o in medians and x in medians else "-" for o in ours for x in peers]
        print("|", " | ".join([model, test, form, *cells, *ratios]), "|", flush=True)
    if a.memory:
        print("\nPeak resident memory of a decoding process, MiB:\n\n|", " | ".join(["model", "form", *a.only]), "|\n|" + "---|" * (2 + len(a.only)))
        for model, form in ((m, f) for m in a.models for f in a.forms):
            cells = []
            for program in a.only:
                variants = rates[model, "decode", form, "transformers"]
                experts = {"decode": [max(variants, key=lambda e: statistics.median(variants[e]), default="eager")]}
                peak = [x for t, _, x in measure(a, program, model, form, ["decode"], 1, experts) if t == "memory"]
                cells.append(f"{peak[0]:,.0f}" if peak else "-")
            print("|", " | ".join([model, form, *cells]), "|", flush=True)
    for model in a.models if a.greedy else ():
        greedy(a, model)


if len(sys.argv) > 1 and sys.argv[1] == "torch":
    torch_worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
elif len(sys.argv) > 1 and sys.argv[1] in ("torch_greedy", "llama_greedy"):
    globals()[sys.argv[1]](sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
else:
    main()
