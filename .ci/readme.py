"""Runs README.md's blocks as written, in order, from the repository's root: those marked sh, go and python.
Blocks marked bash take longer than a minute, or need what this machine lacks.

    python .ci/readme.py PYTHON    # PYTHON runs the python blocks; it needs pandas and pyarrow
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

blocks = re.findall(r"^```(\w+)\n(.*?)^```$", open("README.md").read(), re.M | re.S)
assert {kind for kind, _ in blocks} == {"sh", "bash", "go", "python"}, "README.md has other blocks"
folder = tempfile.mkdtemp(prefix="_readme", dir=".")  # the go command skips it in ./...
try:
    for i, (kind, text) in enumerate(blocks):
        if kind == "bash":
            continue
        path = os.path.join(folder, f"{i}.{kind.replace('python', 'py')}")
        with open(path, "w") as f:
            f.write(text)
        command = {"sh": ["bash", "-euo", "pipefail"], "go": ["go", "run"], "python": sys.argv[1:2]}[kind]
        start = time.time()
        ended = subprocess.run(command + ["./" + path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(f"README.md, {kind} block {i}: {time.time() - start:.0f} s")
        if ended.returncode:
            sys.exit(f"{text}\n{ended.stdout}\nREADME.md, {kind} block {i}: exit status {ended.returncode}")
finally:
    shutil.rmtree(folder)
