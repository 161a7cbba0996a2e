"""Training throughput of the transformers of speculate/neural in PyTorch on a GPU, thousand tokens a second: the counterpart of
BenchmarkTrainTransformer. Documents of the embedded model's shape are on the device in 16 bits, products are in bfloat16 (autocast),
a step of AdamW clips the gradient; the loss is read every 20 steps.

    python train_transformer.py [hidden|logits|routing] [eager|compile] [batch] [seconds]
"""

import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

kind = sys.argv[1] if len(sys.argv) > 1 else "hidden"
mode = sys.argv[2] if len(sys.argv) > 2 else "eager"
batch = int(sys.argv[3]) if len(sys.argv) > 3 else 8192
seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 5
L, E, D, V, T, C, BLOCKS = 16, 8, 96, 4096, 512, 256, 4
HEADS, INPUTS, LOGITS = C // 32, kind == "hidden", kind == "logits"
H, DEPTH, M = (C, 3, C // 4) if INPUTS else (C // 2, 2, 0)
TARGETS = [(h, l) for h in (1, 2, 4) for l in range(h, L)]
G = len(TARGETS)
P = L * D if INPUTS else L * E * (2 if LOGITS else 1)
FEATURES = 2 * D if INPUTS else P
torch.manual_seed(1)
torch.backends.cuda.matmul.allow_tf32 = True


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        p = lambda *dims: nn.Parameter(torch.randn(dims) / math.sqrt(dims[-2]))
        self.embed, self.read = p(V + 1, C), p(P, C)
        self.qkv = nn.ParameterList([p(C, 3 * C) for _ in range(BLOCKS)])
        self.out = nn.ParameterList([p(C, C) for _ in range(BLOCKS)])
        self.up = nn.ParameterList([p(C, 4 * C) for _ in range(BLOCKS)])
        self.down = nn.ParameterList([p(4 * C, C) for _ in range(BLOCKS)])
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(C)) for _ in range(2 * BLOCKS + 1)])
        self.linear, self.linear_c, self.out_bias = p(G, FEATURES, E), p(G, C, E), nn.Parameter(torch.zeros(G, 1, E))
        self.first, self.first_c, self.first_bias = p(G, FEATURES, H), p(G, C, H), nn.Parameter(torch.zeros(G, 1, H))
        if M:
            self.eup, self.ebias, self.edown = p(G, D, E * M), nn.Parameter(torch.zeros(G, 1, E * M)), p(G, E * M, H)
        self.hidden = nn.ParameterList([p(G, H, H) for _ in range(DEPTH - 1)])
        self.hbias = nn.ParameterList([nn.Parameter(torch.zeros(G, 1, H)) for _ in range(DEPTH - 1)])
        self.last = p(G, H, E)
        a = torch.arange(T)[:, None] * 1e4 ** (-torch.arange(16) / 16)
        self.register_buffer("cos", a.cos())
        self.register_buffer("sin", a.sin())
        known = torch.tensor([[f // (FEATURES // L) <= l - h for f in range(FEATURES)] for h, l in TARGETS])
        self.register_buffer("known", known[:, :, None].float())

    def turn(self, x):
        lo, hi = x.chunk(2, -1)
        return torch.cat([lo * self.cos - hi * self.sin, hi * self.cos + lo * self.sin], -1)

    def forward(self, ids, now, route):  # [B,T], [B,T,L,*], [B,T,L,E]
        b, t = ids.shape
        n = b * t
        before = F.pad(now.reshape(b, t, P), (0, 0, 1, 0))[:, :-1]
        x = (F.embedding(ids, self.embed) + before @ self.read).float()
        for i in range(BLOCKS):
            q = F.rms_norm(x, (C,), self.norms[2 * i]) @ self.qkv[i]
            q, k, v = q.view(b, t, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(self.turn(q.float()).to(v.dtype), self.turn(k.float()).to(v.dtype), v, is_causal=True)
            x = x + a.transpose(1, 2).reshape(b, t, C) @ self.out[i]
            x = x + F.relu(F.rms_norm(x, (C,), self.norms[2 * i + 1]) @ self.up[i]) @ self.down[i]
        s = F.rms_norm(x, (C,), self.norms[-1]).reshape(n, C)
        y = torch.einsum("nc,gce->gne", s, self.linear_c)
        h = torch.einsum("nc,gch->gnh", s, self.first_c)
        if INPUTS:
            x = now.reshape(n, L, D).transpose(0, 1)
            at = torch.tensor([l - h for h, l in TARGETS], device=x.device)
            latest = x[at]
            older = x[(at - 1).clamp(min=0)] * (at > 0)[:, None, None]
            f = torch.cat([latest, older], -1)
            y, h = y + torch.bmm(f, self.linear), h + torch.bmm(f, self.first)
            u = F.relu(torch.bmm(latest, self.eup) + self.ebias).view(G, n, E, M)
            u = (u * route.reshape(n, L, E).transpose(0, 1)[at][..., None]).view(G, n, E * M)
            h = h + torch.bmm(u, self.edown)
        else:
            f = now.reshape(n, FEATURES)
            y = y + torch.einsum("nf,gfe->gne", f, self.linear * self.known)
            h = h + torch.einsum("nf,gfh->gnh", f, self.first * self.known)
        h = F.relu(h + self.first_bias)
        for w, c in zip(self.hidden, self.hbias):
            h = h + F.relu(torch.bmm(h, w) + c)
        return (y + torch.bmm(h, self.last) + self.out_bias).float()


docs = 512 * T
ids = torch.randint(0, V, (docs,), device="cuda")
inputs = torch.randn(docs, L, D, device="cuda").half() if INPUTS else None
logits = torch.randn(docs, L, E, device="cuda").half()
top = logits.float().topk(2, -1)
route = torch.zeros(docs, L, E, device="cuda").scatter_(-1, top.indices, top.values.softmax(-1)).half()
layers = torch.tensor([l for _, l in TARGETS], device="cuda")
net = Net().cuda()
optimizer = torch.optim.AdamW(net.parameters(), lr=0.002, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def loss_of(rows):
    z, r = logits[rows].float(), route[rows].bfloat16()
    if INPUTS:
        now = inputs[rows].bfloat16()
    else:
        now = r + 0.5 * (r > 0)
        if LOGITS:
            now = torch.cat([now, (z - z.mean(-1, keepdim=True)).bfloat16()], -1)
    with torch.autocast("cuda", torch.bfloat16):
        y = net(ids[rows], now, r)
    want = z.softmax(-1).reshape(-1, L, E).transpose(0, 1)[layers]
    return -(want * y.log_softmax(-1)).sum(-1).mean(1).sum()


if mode == "compile":
    loss_of = torch.compile(loss_of)


def step():
    starts = torch.randint(0, docs // T, (batch // T, 1), device="cuda") * T
    loss = loss_of(starts + torch.arange(T, device="cuda"))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), G**0.5)
    optimizer.step()
    return loss


began = time.perf_counter()
for _ in range(5):
    step()
torch.cuda.synchronize()
first = time.perf_counter() - began
steps, began = 0, time.perf_counter()
while time.perf_counter() - began < seconds:
    for _ in range(20):
        loss = step()
    loss.item()
    steps += 20
rate = steps * batch / (time.perf_counter() - began) / 1000
size = sum(p.numel() for p in net.parameters())
print(f"{kind} {mode} batch {batch}: {rate:.0f} ktokens/s, first steps {first:.1f} s, {size} parameters, {torch.cuda.max_memory_allocated() >> 20} MiB", flush=True)
