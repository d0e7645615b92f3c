"""peer_llama - Llama-8B in PyTorch beside ours: a greedy decode step and a whole prefill, the same shapes, the same card.

usage: peer_llama.py [--rows 1x1024,32x1024,8192] [--mode MODE] [--prepare] [--bench FOLDER]      needs PyTorch with a GPU

BxCTX is a decode step, a number alone a prefill of so many tokens. What PyTorch does best, written plainly: bfloat16, products
of q, k, v and of gate and up fused, norms and RoPE in float, all between two attentions one compiled region, attention by
cuDNN, the decode step one captured CUDA graph over contiguous keys of exactly CTX positions (no paging, no scheduler: in
PyTorch's favour); a prefill has no graph, as launches take less time than it. --mode is torch.compile's, or "eager": the same
functions uncompiled, also in a graph. Weights and keys are normals, nothing is zero. --prepare compiles with two layers and times
nothing: what it finds stays in TORCHINDUCTOR_CACHE_DIR for the run.

Then bench_gpu runs the same shapes. JSON, one object a line; ratio is PyTorch's time over ours: 1.0 and more is as fast.
"""
import argparse
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench_gpu_prefill import ROOT, rows_of

N, D, HEADS, KV_HEADS, DIM, FF, VOCAB = 32, 4096, 32, 8, 128, 14336, 128256
Q, KV = HEADS * DIM, KV_HEADS * DIM
GATES = {"decode": 1.0, "prefill": 0.93}


def normal(*shape, scale=None):
    x = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
    return x.normal_(0, scale if scale else shape[-1] ** -0.5)


def make_weights(layers):
    def layer():
        return {"n1": normal(D, scale=1), "qkv": normal(Q + 2 * KV, D), "o": normal(D, Q), "n2": normal(D, scale=1),
                "gu": normal(2 * FF, D), "down": normal(D, FF)}

    return {"embed": normal(VOCAB, D, scale=1), "norm": normal(D, scale=1), "head": normal(VOCAB, D),
            "layers": [layer() for _ in range(layers)]}


def norm(x, w):
    f = x.float()
    return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * w


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def heads_of(x, w, cos, sin):
    """q, k, v [B][heads][T][DIM] of x [B][T][D]."""
    b, t, _ = x.shape
    q, k, v = F.linear(norm(x, w["n1"]), w["qkv"]).split((Q, KV, KV), -1)
    q, k, v = (y.view(b, t, -1, DIM).transpose(1, 2) for y in (q, k, v))
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def finish(x, a, w):
    """The rest of a layer after attention a [B][heads][T][DIM]."""
    b, _, t, _ = a.shape
    x = x + F.linear(a.transpose(1, 2).reshape(b, t, Q), w["o"])
    gate, up = F.linear(norm(x, w["n2"]), w["gu"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def choose(x, w_norm, head):
    return F.linear(norm(x, w_norm), head).argmax(-1)


# The regions. `cache` is (K, V) [B][KV_HEADS][CTX][DIM] of which the last position is written, or None: then K and V come back.
def region_begin(ids, embed, w, cos, sin, cache):
    x = F.embedding(ids, embed)
    return x, *keep(heads_of(x, w, cos, sin), cache)


def region_between(x, a, w, after, cos, sin, cache):
    x = finish(x, a, w)
    return x, *keep(heads_of(x, after, cos, sin), cache)


def region_end(x, a, w, w_norm, head):
    return choose(finish(x, a, w)[:, -1:], w_norm, head)


def keep(qkv, cache):
    q, k, v = qkv
    if cache is None:
        return q, k.contiguous(), v.contiguous()
    cache[0][:, :, -1:] = k
    cache[1][:, :, -1:] = v
    return q, cache[0], cache[1]


def angles(t, first):
    inv = 500000.0 ** (-torch.arange(0, DIM, 2, device="cuda").float() / DIM)
    x = torch.outer(torch.arange(first, first + t, device="cuda").float(), inv)
    return x.cos(), x.sin()


class Model:
    def __init__(self, layers, mode):
        self.w = make_weights(layers)
        self.regions = [region_begin, region_between, region_end]
        if mode != "eager":
            # dynamic=False: a shape at a time, as the figures are
            self.regions = [torch.compile(f, mode=mode, dynamic=False, fullgraph=True) for f in self.regions]

    def run(self, ids, cos, sin, caches, causal):
        begin, between, end = self.regions
        layers, kept = self.w["layers"], []
        x, q, k, v = begin(ids, self.w["embed"], layers[0], cos, sin, caches and caches[0])
        for i, w in enumerate(layers):
            kept.append((k, v))
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                a = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            if i + 1 < len(layers):
                x, q, k, v = between(x, a, w, layers[i + 1], cos, sin, caches and caches[i + 1])
        return end(x, a, layers[-1], self.w["norm"], self.w["head"]), kept


def timed(call, repeats, samples):
    """Median milliseconds of a call."""
    t = []
    for _ in range(samples):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        t.append(begin.elapsed_time(end) / repeats)
    return sorted(t)[samples // 2]


def decode_ms(model, b, ctx, prepare):
    ids = torch.randint(VOCAB, (b, 1), device="cuda")
    caches = [tuple(normal(b, KV_HEADS, ctx, DIM, scale=1) for _ in "kv") for _ in model.w["layers"]]
    cos, sin = angles(1, ctx - 1)

    def step():
        ids.copy_(model.run(ids, cos, sin, caches, False)[0])

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    if prepare:
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    timed(graph.replay, 8, 2)
    return timed(graph.replay, 8, 7)


def prefill_ms(model, t, prepare):
    ids = torch.randint(VOCAB, (1, t), device="cuda")
    cos, sin = angles(t, 0)
    for _ in range(1 if prepare else 3):
        model.run(ids, cos, sin, None, True)
    torch.cuda.synchronize()
    return None if prepare else timed(lambda: model.run(ids, cos, sin, None, True), 1, 7)


def compare(o, row, kind, mode, ms):
    """Ours of the same shape, now that PyTorch's memory is free."""
    argv = ["random:llama-8b", row] if kind == "decode" else [f"E6:{row}"]
    ours = [r for r in rows_of([str(o.bench / "bench_gpu"), *argv]) if r["row"] in ("decode", f"E6:{row}")]
    if ours:
        best = min(r.get("step_ms") or r["ms"] for r in ours)
        print(json.dumps({"row": "peer", "what": f"{kind} {row}, 8B bf16", "mode": mode, "torch_ms": round(ms, 3), "ours_ms": best,
                          "ratio": round(ms / best, 3), "gate": GATES[kind]}), flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rows", default="1x1024,32x1024,8192")
    p.add_argument("--mode", default="max-autotune-no-cudagraphs")
    p.add_argument("--prepare", action="store_true")
    p.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/tests/bench")
    o = p.parse_args()
    if not torch.cuda.is_available():
        print("SKIP gpu-peers: no GPU for PyTorch")
        return
    with torch.no_grad():
        for row in o.rows.split(","):
            begin = time.monotonic()
            b, _, ctx = row.rpartition("x")
            kind = "decode" if b else "prefill"
            mode = "default" if not b and o.mode != "eager" else o.mode  # many rows: the library's products are the best
            model = Model(2 if o.prepare else N, mode)
            ms = decode_ms(model, int(b), int(ctx), o.prepare) if b else prefill_ms(model, int(ctx), o.prepare)
            print(json.dumps({"peer": "PyTorch " + torch.__version__, "device": torch.cuda.get_device_name(), "what": row, "mode": mode,
                              "ms": ms and round(ms, 3), "spent_s": round(time.monotonic() - begin, 1)}), flush=True)
            del model
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            if ms:
                compare(o, row, kind, mode, ms)


if __name__ == "__main__":
    sys.exit(main())
