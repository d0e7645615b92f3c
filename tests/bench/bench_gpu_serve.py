#!/usr/bin/env python3
"""bench_gpu_serve - a hearthd on the GPU over HTTP: output tokens a second when it is saturated (E7), and the first token
of a prompt of 1,000 on an idle server beside the prefill itself (H3).

usage: bench_gpu_serve.py [--hearthd PATH] [--bench-gpu PATH] [--model SHAPE] [--rows ISL/OSL,...] [--n N]
E7 prints the ceiling of facts about the card in the same run: C is the copy rate that bench_gpu measures; G and A (rates
of matrix products and of attention, TFLOP/s) are given (--gemm, --attn). bf16: with P weights read a step (2 P bytes),
ctx = ISL + OSL / 2, B = min(slots, KV bytes / (ctx 131072)), a step takes max(2 P / C, 2 P B / G) + B ctx 131072 / C and
a prompt 2 W ISL / G + 2 4096 32 ISL^2 / A (W: weights of the layers); tokens a second = 1 / (step / B + prompt / OSL).
JSON, one object a line. Standard library only; the server listens on loopback and is ended by its process id.
"""
import argparse
import asyncio
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
P, LAYERS, KV_TOKEN = 7.505e9, 6.979e9, 131072  # Llama-3-8B: weights read a step, of its layers, KV bytes of a token


def say(**row):
    print(json.dumps(row), flush=True)


def copy_rate(bench_gpu):
    """bytes/s and ms of a decode step of one sequence, from the row E1."""
    out = subprocess.run([bench_gpu, "E1"], capture_output=True, text=True, timeout=120).stdout
    for line in out.splitlines():
        row = json.loads(line)
        if row["row"] == "E1":
            return row["copy_GBps"] * 1e9
    sys.exit("bench_gpu E1 gave no row: " + out)


class Server:
    def __init__(self, hearthd, model, slots, extra):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        argv = [hearthd, "--backend", "cuda", "--port", str(self.port), "--log-level", "warn",
                "--set", f"model.random={model}", "--set", f"sched.max_seqs={slots}", "--set", "sched.max_queued=8192", "--set", "sched.max_batch_tokens=2048",
                "--set", "http.max_connections=16384", *extra]
        self.proc = subprocess.Popen(argv)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.proc.poll() is None:
            try:
                c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                c.request("GET", "/ready")
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.stop()
        sys.exit("hearthd did not become ready in 60 s")

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()


def ids_of(n, salt):
    return [32 + (i * 7 + salt * 31 + i * i % 89) % 90 for i in range(n)]


async def ask(port, isl, osl, salt):
    """One request, not streamed; returns output tokens."""
    body = json.dumps({"prompt": ids_of(isl, salt), "max_tokens": osl, "temperature": 0, "ignore_eos": True}).encode()
    r, w = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    w.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await w.drain()
    answer = await r.read()
    w.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(answer[:300])
    if b"chunked" in head.lower():
        text, at = b"", 0
        while True:
            end = rest.index(b"\r\n", at)
            n = int(rest[at:end], 16)
            if n == 0:
                break
            text += rest[end + 2:end + 2 + n]
            at = end + 4 + n
        rest = text
    return json.loads(rest)["usage"]["completion_tokens"]


async def saturate(port, isl, osl, at_once, total):
    """`total` requests, at_once of them under way; tokens/s from the first request to the last answer."""
    gate, tokens = asyncio.Semaphore(at_once), 0

    async def one(i):
        nonlocal tokens
        async with gate:
            n = await ask(port, isl, osl, i)
            tokens += n

    start = time.monotonic()
    await asyncio.gather(*(one(i) for i in range(total)))
    return tokens / (time.monotonic() - start)


def ceiling(isl, osl, slots, kv_bytes, c, g, a):
    ctx = isl + osl / 2
    b = min(slots, kv_bytes / (ctx * KV_TOKEN))
    step = max(2 * P / c, 2 * P * b / g) + b * ctx * KV_TOKEN / c
    prompt = 2 * LAYERS * isl / g + 2 * 4096 * 32 * isl ** 2 / a
    return 1 / (step / b + prompt / osl)


def first_token(port, isl, salt):
    """Seconds from request to the first chunk of a stream."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"prompt": ids_of(isl, salt), "max_tokens": 4, "temperature": 0, "ignore_eos": True, "stream": True})
    start = time.monotonic()
    c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    while not r.readline().startswith(b"data: {"):
        pass
    spent = time.monotonic() - start
    r.read()
    return spent


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--hearthd", default=str(ROOT / "build/hearthd"))
    p.add_argument("--bench-gpu", default=str(ROOT / "build/tests/bench/bench_gpu"))
    p.add_argument("--model", default="llama-8b")
    p.add_argument("--rows", default="128/128,1000/1000,2048/128")
    p.add_argument("--slots", type=int, default=512)
    p.add_argument("--n", type=float, default=2.0, help="requests, as a multiple of those under way")
    p.add_argument("--gemm", type=float, default=716, help="G, TFLOP/s")
    p.add_argument("--attn", type=float, default=590, help="A, TFLOP/s")
    p.add_argument("--set", action="append", default=[])
    o = p.parse_args()
    c = copy_rate(o.bench_gpu)
    extra = [x for s in o.set for x in ("--set", s)]
    server = Server(o.hearthd, o.model, o.slots, extra)
    try:
        asyncio.run(saturate(server.port, 64, 16, 300, 300))  # warm: buckets are recorded, products are timed
        steps = sorted(first_token(server.port, 1000, 7000 + i) for i in range(9))
        say(row="H3", what="first token of a prompt of 1,000 over HTTP, idle server", first_token_ms=round(steps[4] * 1e3, 2),
            least_ms=round(steps[0] * 1e3, 2), copy_GBps=c * 1e-9)
        for row in o.rows.split(","):
            isl, osl = map(int, row.split("/"))
            kv = 0.88 * 83e9 - 2 * 8.03e9
            at_once = min(o.slots, int(kv / ((isl + osl) * KV_TOKEN)))
            got = asyncio.run(saturate(server.port, isl, osl, at_once, int(at_once * o.n)))
            most = ceiling(isl, osl, o.slots, kv, c, o.gemm * 1e12, o.attn * 1e12)
            say(row="E7", isl=isl, osl=osl, at_once=at_once, tok_s=round(got), ceiling=round(most), ratio=round(got / most, 3),
                gate=0.55 if isl == 128 else 0.65, copy_GBps=c * 1e-9, gemm_TFLOPs=o.gemm, attn_TFLOPs=o.attn)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
