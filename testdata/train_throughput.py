"""Training throughput of two-layer networks in PyTorch, thousand examples a second: the counterpart of BenchmarkTrainStep
in speculate/neural. BCE with logits, AdamW, batch 1024, data in memory; the fastest run of 20 steps, because other programs may
share the machine. The second number includes what our loop also does: clipping gradients and reading the loss at each step.

    python train_throughput.py [seconds a shape]
"""

import sys
import time

import torch

torch.set_num_threads(2)
BATCH, ROWS, RUN = 1024, 65536, 20


def throughput(i: int, h: int, o: int, seconds: float, clip: bool) -> float:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(i, h), torch.nn.ReLU(), torch.nn.Linear(h, o))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.002, betas=(0.9, 0.99), weight_decay=0.01)
    x = torch.randn(ROWS, i)
    want = torch.stack([(x[:, k % i] + x[:, (k + 1) % i] > 0).float() for k in range(o)], 1)
    best, steps, began, at = 0.0, 0, time.perf_counter(), 0
    end = began + seconds
    while time.perf_counter() < end:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x[at : at + BATCH]), want[at : at + BATCH])
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            loss.item()
        optimizer.step()
        at = (at + BATCH) % ROWS
        steps += 1
        if steps % RUN == 0:
            now = time.perf_counter()
            best, began = max(best, RUN * BATCH / (now - began)), now
    return best / 1000


for shape in [(16, 64, 8), (96, 256, 8), (320, 256, 8), (128, 512, 128)]:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("-".join(map(str, shape)), *(f"{throughput(*shape, seconds, clip):.0f}" for clip in (False, True)), flush=True)
