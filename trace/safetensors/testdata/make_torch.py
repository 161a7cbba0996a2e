"""Makes torch.zip: files of torch.save, and what they hold as safetensors.

    python make_torch.py            (torch 2.9.1, safetensors 0.7)

all.bin, legacy.bin and protocol4.bin hold the tensors of all.safetensors (legacy.bin and protocol4.bin, those that torch can
save so); many.bin many small ones; refused/NAME.bin one tensor "bad", or one value, that OpenTorch must refuse."""

import io
import os
import sys
import types
import zipfile
from collections import OrderedDict

import safetensors.torch
import torch

torch.manual_seed(13)
here = os.path.dirname(os.path.abspath(__file__))
out = {}


def save(value, **options):
    f = io.BytesIO()
    torch.save(value, f, **options)
    return f.getvalue()


def numbers(dtype, *shape):
    n = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.arange(n) % 3 == 1).reshape(shape)
    return (torch.arange(n) - (0 if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else 3)).to(dtype).reshape(shape)


class Net(torch.nn.Module):  # whose state_dict has nested _metadata
    def __init__(self):
        super().__init__()
        self.block = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.LayerNorm(7)])


plain = Net().state_dict()
for i, dtype in enumerate([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
                           torch.int8, torch.uint8, torch.bool, torch.complex64]):
    plain["t." + str(dtype).split(".")[1]] = numbers(dtype, 2, 3, i + 1)
plain["scalar"] = torch.tensor(-2.5)
plain["empty"] = torch.zeros(3, 0, 2)
plain["parameter"] = torch.nn.Parameter(torch.randn(3, 2))
named = torch.nn.Parameter(torch.randn(2, 2))
named.note = "x"  # a parameter with state
plain["parameter with state"] = named
stack = torch.randn(3, 4, 5)  # one storage of experts
for e in range(3):
    plain[f"expert.{e}"] = stack[e]
    plain[f"expert.{e}.transposed"] = stack[e].T
plain["stack"] = stack
plain["permuted"] = stack.permute(2, 0, 1)
plain["every second"] = stack[:, ::2, 1:]
plain["one column"] = stack[:, 1:2, 3]
half = torch.randn(7, 6).half()
plain["half.transposed"] = half.T
plain["half.rows"] = half[2:5]
plain["broadcast"] = half[0].expand(4, 6)  # fewer elements than the storage has
wide = (torch.arange(1500)[:, None] * 7 + torch.arange(1410)) % 50  # spans more than one read, and compresses
wide = wide.bfloat16()
plain["wide.transposed"] = wide.T
later = {"t.uint16": numbers(torch.uint16, 3, 2), "t.uint32": numbers(torch.uint32, 3, 1), "t.uint64": numbers(torch.uint64, 2, 1),
         "t.float8_e4m3fn": numbers(torch.float8_e4m3fn, 3, 3), "t.float8_e5m2": numbers(torch.float8_e5m2, 2, 4)}
everything = plain.copy()
everything._metadata = plain._metadata
everything.update(later)
everything["t.uint16.transposed"] = everything["t.uint16"].T
assert everything._metadata["block.0"]["version"] == 1

out["all.bin"] = save(everything)
out["legacy.bin"] = save(everything, _use_new_zipfile_serialization=False)
out["protocol4.bin"] = save(dict(everything), pickle_protocol=4)
out["all.safetensors"] = safetensors.torch.save({k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in everything.items()})
out["many.bin"] = save(OrderedDict((f"{i}", torch.tensor([i])) for i in range(1000)), _use_new_zipfile_serialization=False)

refused = {
    "sparse": torch.eye(3).to_sparse(),
    "quantized": torch.quantize_per_tensor(torch.ones(3), 0.5, 1, torch.qint8),
    "complex128": torch.zeros(2, dtype=torch.complex128),
    "conjugated": torch.zeros(2, dtype=torch.complex64).conj(),
    "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
    "expanded": torch.zeros(2, 1).expand(2, 9),
    "meta": torch.zeros(2, device="meta"),
    "axes": torch.zeros([1] * 9),
    "subclass": torch.zeros(2).as_subclass(type("T", (torch.Tensor,), {"__module__": "torch.t"})),
    "number": 3.5,
    "none": None,
    "size": torch.Size([2]),
    "storage": torch.zeros(2).untyped_storage(),
    "nested": {"w": torch.zeros(2)},
}


sys.modules["torch.t"] = types.ModuleType("torch.t")  # where the subclass is looked up
sys.modules["torch.t"].T = type(refused["subclass"])
for name, value in refused.items():
    out[f"refused/{name}.bin"] = save({"a": torch.ones(2), "bad": value})
out["refused/tensor alone.bin"] = save(torch.zeros(2))
out["refused/module.bin"] = save(torch.nn.Linear(2, 2))

big = io.BytesIO(out["refused/number.bin"])
swapped = io.BytesIO()
with zipfile.ZipFile(big) as z, zipfile.ZipFile(swapped, "w") as w:
    for i in z.infolist():
        w.writestr(zipfile.ZipInfo(i.filename), b"big" if i.filename.endswith("byteorder") else z.read(i))
out["refused/big-endian.bin"] = swapped.getvalue()

with zipfile.ZipFile(os.path.join(here, "torch.zip"), "w") as z:
    for name, data in out.items():
        z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)
        print(len(data), name)
