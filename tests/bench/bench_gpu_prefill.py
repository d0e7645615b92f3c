#!/usr/bin/env python3
"""bench_gpu_prefill - a whole prefill of Llama-8B on the GPU beside what its parts take alone (E6).

usage: bench_gpu_prefill.py [--bench FOLDER] [--rows E6:8192,...]
The composite, in the same run: each step's four products of a layer at G, the best that cublasLt does for the shape with
as many rows as the step has (bench_linear 8b ROWS); causal attention over the whole prompt at A, cuDNN's rate on contiguous
K and V through PyTorch (peer_attention.py), or our own kernel's where there is no PyTorch (it says which). Nothing else is
in it: norms, RoPE, writing K and V, activation, embedding, head, choice and launches are what may be lost. JSON, one
object a line. Standard library only; the programs it runs are ended with it.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYERS, HEADS, HEAD_DIM, GATE, STRETCH = 32, 32, 128, 0.86, 0.95


def rows_of(argv, timeout=300):
    """The JSON lines that a program prints; nothing when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        print(done.stderr.strip()[-400:], file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def attention_rates(bench, lengths):
    """TFLOP/s of causal attention for each length, and whose."""
    shapes = [f"128:32/8:{n}" for n in lengths]
    rows = rows_of([sys.executable, str(ROOT / "tests/bench/peer_attention.py"), *shapes])
    whose = "cuDNN"
    if not rows:
        rows = rows_of([str(bench / "bench_prefill"), *(s + "+0" for s in shapes)])
        whose = "own"
    return {r["rows"]: r["TFLOPs"] for r in rows}, whose


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/tests/bench")
    p.add_argument("--rows", default="E6")
    o = p.parse_args()
    ours = [r for row in o.rows.split(",") for r in rows_of([str(o.bench / "bench_gpu"), row])]
    if not ours:
        print("SKIP E6: bench_gpu gave no row")
        return
    layer = {}  # seconds of a layer's products at so many rows
    for chunk in sorted({r["chunk"] for r in ours}):
        products = [r for r in rows_of([str(o.bench / "bench_linear"), "8b", str(chunk)]) if r["type"] == "bf16"]
        for r in products:
            print(json.dumps(r), flush=True)
        layer[chunk] = sum(r["us"] for r in products) * 1e-6
    attention, whose = attention_rates(o.bench, sorted({r["ctx"] for r in ours}))
    for r in ours:
        products = LAYERS * layer[r["chunk"]] * r["ctx"] / r["chunk"]
        attend = 2.0 * HEADS * HEAD_DIM * r["ctx"] ** 2 * LAYERS / (attention[r["ctx"]] * 1e12)
        whole = (products + attend) * 1e3
        print(json.dumps({**r, "products_ms": round(products * 1e3, 2), "attention_ms": round(attend * 1e3, 2),
                          "A_TFLOPs": attention[r["ctx"]], "A_of": whose, "composite_ms": round(whole, 2),
                          "ratio": round(whole / r["ms"], 3), "gate": GATE, "stretch": STRETCH}), flush=True)


if __name__ == "__main__":
    main()
