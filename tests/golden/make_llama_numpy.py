#!/usr/bin/env python3
"""make_llama_numpy - the truth about random:tiny, by an independent implementation in NumPy float64.

Writes llama_numpy.txt (cases: source, token ids, rows) and llama_numpy.f32 (their logits, float32, little-endian, one
row of the vocabulary after the other) beside itself. Nothing of Hearth's code runs here: weights come from the
generator that engine/model/load_random.c documents, the model from the papers: RMSNorm (Zhang & Sennrich 2019), rotary
embedding on pairs (i, i + D/2) (Su et al. 2021), grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020).

    python3 -m venv ../venv && ../venv/bin/pip install numpy==2.4.6
    ../venv/bin/python tests/golden/make_llama_numpy.py
"""
import os

import numpy as np

U64 = np.uint64
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

SHAPES = {  # layers, embd, heads, kv heads, head dim, ff, vocab, rope base
    "tiny": (2, 64, 4, 2, 16, 128, 512, 1e4),
    "tiny-128k": (2, 64, 4, 2, 16, 128, 512, 5e6),
}
EPS = float(np.float32(1e-5))

CASES = [  # shape, seed, tokens, rows whose logits are kept
    ("tiny", 1, 40, range(40)),
    ("tiny", 18446744073709551615, 600, range(19, 600, 40)),
    ("tiny-128k", 7, 200, range(190, 200)),
]


def splitmix(state):
    """Output of SplitMix64 with this state before the step; state: uint64 array."""
    z = state + U64(GOLDEN)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def odd_numbers(seed, name, n):
    """v[n] of the generator, as float32 (exact: below 2^24)."""
    one = lambda x: splitmix(np.array([x], U64))[0]
    key = one(one(seed) ^ U64(fnv1a(name)))
    blocks = np.arange((n + 3) // 4, dtype=U64)
    words = splitmix(key + blocks * U64(GOLDEN))
    parts = (words[:, None] >> (U64(16) * np.arange(4, dtype=U64))) & U64(0xFFFF)
    return (2 * parts.reshape(-1)[:n].astype(np.int64) - 65535).astype(np.float32)


def round_bf16(x):
    u = x.view(np.uint32)
    u = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return u.view(np.float32)


class Weights:
    def __init__(self, seed):
        self.seed = seed

    def matrix(self, name, rows, cols, gain):
        scale = np.float32(gain * np.sqrt(3.0 / cols) / 65535)
        return round_bf16(odd_numbers(self.seed, name, rows * cols) * scale).astype(np.float64).reshape(rows, cols)

    def norm(self, name, n):
        v = odd_numbers(self.seed, name, n) * np.float32(0.1 / 65535)
        return (np.float32(1) + v).astype(np.float64)


def rms_norm(x, w):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS) * w


def rope(x, base):
    """x [T][heads][D] at positions 0 .. T-1."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(half) / half)
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def attention(q, k, v):
    """q [T][H][D], k and v [T][G][D]; causal."""
    t, heads, d = q.shape
    group = heads // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    score = np.einsum("thd,shd->hts", q, k) / np.sqrt(d)
    score = np.where(np.tril(np.ones((t, t), bool)), score, -np.inf)
    p = np.exp(score - score.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return np.einsum("hts,shd->thd", p, v).reshape(t, heads * d)


def logits(shape, seed, ids):
    layers, e, heads, kv, d, ff, vocab, base = SHAPES[shape]
    w = Weights(seed)
    x = w.matrix("token_embd.weight", vocab, e, 3)[ids]
    for i in range(layers):
        m = lambda part, rows, cols, gain=1: w.matrix(f"blk.{i}.{part}.weight", rows, cols, gain).T
        h = rms_norm(x, w.norm(f"blk.{i}.attn_norm.weight", e))
        q = (h @ m("attn_q", heads * d, e, 2)).reshape(-1, heads, d)
        k = (h @ m("attn_k", kv * d, e, 2)).reshape(-1, kv, d)
        v = (h @ m("attn_v", kv * d, e)).reshape(-1, kv, d)
        x = x + attention(rope(q, base), rope(k, base), v) @ m("attn_output", e, heads * d)
        h = rms_norm(x, w.norm(f"blk.{i}.ffn_norm.weight", e))
        gate, up = h @ m("ffn_gate", ff, e), h @ m("ffn_up", ff, e)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ m("ffn_down", e, ff)
    return rms_norm(x, w.norm("output_norm.weight", e)) @ w.matrix("output.weight", vocab, e, 3).T


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    rng = np.random.default_rng(20240607)
    with open(f"{here}/llama_numpy.txt", "w") as text, open(f"{here}/llama_numpy.f32", "wb") as data:
        for shape, seed, n, rows in CASES:
            ids = rng.integers(0, 512, n)
            out = logits(shape, seed, ids)
            rows = list(rows)
            data.write(out[rows].astype("<f4").tobytes())
            text.write(f"random:{shape}:{seed} {n} {len(rows)}\n")
            text.write(" ".join(map(str, ids)) + "\n" + " ".join(map(str, rows)) + "\n")
            p = np.exp(out - out.max(-1, keepdims=True))
            print(shape, seed, "logit std %.2f" % out.std(), "mean top p %.3f" % (p.max(-1) / p.sum(-1)).mean(),
                  "distinct argmax", len(set(out.argmax(-1))))


if __name__ == "__main__":
    main()
