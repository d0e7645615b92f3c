#!/usr/bin/env python3
"""bench_gpu_serve - a hearthd on the GPU over HTTP: output tokens a second when it is saturated (E7), and the first token
of a prompt of 1,000 on an idle server beside the prefill itself (H3).

usage: bench_gpu_serve.py [--rows H3,128/128,1000/1000,...] [--weights fp8] [--format kv8] [--hearthd PATH] [--bench FOLDER]
                          [--model SHAPE] [--at-once N] [--seconds S] [--gemm G] [--attn A] [--copy C] [--set KEY=VALUE]

E7: so many requests are under way as the KV pool holds at their mean length (at most --at-once), each with a prompt of its
own, a new one for each that ends. The first ones have a part of their answer in their prompt, so that they are spread over
their lives as later ones are. When as many first tokens have come, the server's own counters (/metrics) are read, and again
after --seconds: tokens generated between. The ceiling, of facts about the card in the same run: C, the copy rate (bench_gpu);
G and A, rates of the library's best products of 2,048 rows (bench_linear) and of attention over 8,192 (peer_attention.py, or
our own kernel):

    ctx = ISL + OSL/2    B = min(2048, (83.8e9 - weights - 4e9) / (ctx KV))    KV = 131072 bytes a token, kv8 65536
    step = max(e P / C, 2 P B / G) + B ctx KV / C                              P = 7.505e9 weights of e bytes (2, fp8 1)
    prompt = 2 W ISL / G + 2 4096 32 ISL^2 / A                                 W = 6.979e9 weights of the layers
    tokens a second = 1 / (step / B + prompt / OSL)

H3: median of first tokens, one after the other over one connection, less that of bench_gpu H3, the same prefill without a
server. JSON, one object a line. Standard library only; the server listens on loopback and is ended by its process id.
"""
import argparse
import asyncio
import http.client
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import time

from bench_gpu_prefill import ROOT, attention_rates, rows_of

P, LAYERS, CARD, OTHER = 7.505e9, 6.979e9, 83.8e9, 4e9  # of Llama-3-8B; bytes of the card, and what else lives there
MOST = 1024  # requests under way
H3_TOKENS, H3_SAMPLES, H3_GATE_MS = 1000, 15, 3
TICKS = os.sysconf("SC_CLK_TCK")
FIRST_TOKENS = "hearth_time_to_first_token_seconds_count"


def say(**row):
    print(json.dumps(row), flush=True)


def prompt(n, salt):
    """Token ids that no other salt gives; in the vocabulary of every shape."""
    return random.Random(salt).choices(range(32, 512), k=n)


class Server:
    def __init__(self, hearthd, sets):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        argv = [hearthd, "--port", str(self.port), "--log-level", "warn"]
        for s in sets:
            argv += ["--set", s]
        self.proc = subprocess.Popen(argv)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.proc.poll() is None:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.stop()
        sys.exit("hearthd did not become ready in 60 s")

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        c.request("GET", path)
        r = c.getresponse()
        body = r.read().decode()
        c.close()
        return r.status, body

    def counters(self):
        """/metrics as a dictionary, CPU seconds of the server's processes and the time."""
        got = dict(re.findall(r"^(hearth_\S+) (\S+)$", self.get("/metrics")[1], re.M))
        cpu = 0.0
        children = pathlib.Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split()
        for pid in [str(self.proc.pid), *children]:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / TICKS
        return {**{k: float(v) for k, v in got.items()}, "cpu": cpu, "time": time.monotonic()}

    def stop(self):
        """At once: what is under way was measured."""
        self.proc.kill()
        self.proc.wait()


class Client:
    """One kept connection, one request after the other."""

    def __init__(self, port):
        self.port, self.r, self.w = port, None, None

    async def ask(self, body):
        """The answer's JSON; an answer other than 200 ends the run."""
        if not self.w:
            self.r, self.w = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        data = json.dumps(body).encode()
        self.w.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(data) + data)
        head = (await self.r.readuntil(b"\r\n\r\n")).decode().lower()
        size = re.search(r"^content-length: (\d+)", head, re.M)
        text = await self.r.readexactly(int(size[1])) if size else await self.chunks()
        if " 200 " not in head.split("\r\n")[0]:
            raise RuntimeError(f"{head} {text[:300]}")
        return json.loads(text)

    async def chunks(self):
        text = b""
        while n := int(await self.r.readline(), 16):
            text += await self.r.readexactly(n)
            await self.r.readline()
        await self.r.readline()
        return text


def request(isl, osl, salt):
    return {"prompt": prompt(isl, salt), "max_tokens": osl, "temperature": 0, "ignore_eos": True}


async def saturate(server, isl, osl, at_once, seconds):
    """Counters at the begin and the end of a window in which at_once requests are always under way."""
    numbers = iter(range(1, 1 << 30))

    async def worker(k):
        client, done = Client(server.port), osl * k // at_once
        try:
            while True:
                answer = await client.ask(request(isl + done, osl - done, f"{isl} {osl} {next(numbers)}"))
                if answer["usage"]["completion_tokens"] != osl - done:
                    raise RuntimeError(f"{answer['usage']}: not {osl - done} tokens")
                done = 0
        finally:
            if client.w:
                client.w.close()

    begin = await asyncio.to_thread(server.counters)
    workers = [asyncio.create_task(worker(k)) for k in range(at_once)]
    first = at_once + begin[FIRST_TOKENS]
    watch = asyncio.gather(*workers)

    async def pause(s):
        done, _ = await asyncio.wait([watch], timeout=s)
        if done:
            watch.result()  # a worker ends only by failing

    while (await asyncio.to_thread(server.counters))[FIRST_TOKENS] < first:
        await pause(0.25)
    await pause(1)
    begin = await asyncio.to_thread(server.counters)
    await pause(seconds)
    end = await asyncio.to_thread(server.counters)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    return begin, end


def ceiling(isl, osl, o, rates):
    kv, e = 65536 if o.format == "kv8" else 131072, 1 if o.weights == "fp8" else 2
    ctx = isl + osl / 2
    b = min(2048, (CARD - e * LAYERS - 4 * (P - LAYERS) - OTHER) / (ctx * kv))
    step = max(e * P / rates["C"], 2 * P * b / rates["G"]) + b * ctx * kv / rates["C"]
    a_prompt = 2 * LAYERS * isl / rates["G"] + 2 * 4096 * 32 * isl ** 2 / rates["A"]
    return 1 / (step / b + a_prompt / osl)


def bench_saturated(server, o, rates, isl, osl):
    at = server.counters()
    tokens = sum(at[f'hearth_kv_blocks{{state="{s}"}}'] for s in ("used", "cached", "free")) * at["hearth_kv_block_tokens"]
    # Sequences of mean length fill the pool; a block and a half of each is not full or is being begun.
    at_once = min(o.at_once, int(tokens / (isl + osl / 2 + 1.5 * at["hearth_kv_block_tokens"])))
    begin, end = asyncio.run(saturate(server, isl, osl, at_once, o.seconds))
    d = {k: end[k] - begin[k] for k in begin}
    rate, most = d["hearth_generated_tokens_total"] / d["time"], ceiling(isl, osl, o, rates)
    say(row="E7", model=o.model, weights=o.weights, format=o.format, isl=isl, osl=osl, at_once=at_once, window_s=round(d["time"], 1),
        tok_s=round(rate), ceiling=round(most), ratio=round(rate / most, 3), gate=0.55 if isl == osl == 128 else 0.65,
        stretch=0.78 if isl == osl == 128 else 0.88, copy_GBps=round(rates["C"] * 1e-9), gemm_TFLOPs=round(rates["G"] * 1e-12),
        attn_TFLOPs=round(rates["A"] * 1e-12), prompt_tok_s=round(d["hearth_prompt_tokens_total"] / d["time"]),
        cached=d['hearth_prompt_tokens_by_source_total{source="cached"}'],
        steps_s=round(d["hearth_steps_total"] / d["time"], 1),
        rows_a_step=round(d["hearth_step_tokens_total"] / d["hearth_steps_total"], 1),
        cpu=round(d["cpu"] / d["time"], 2), preempted=d["hearth_preemptions_total"], running=end["hearth_requests_running"],
        waiting=end["hearth_requests_waiting"])


def first_token(c, salt):
    """Seconds from request to the first chunk of a stream of one token (which may be no text, and brings one all the same)."""
    body = json.dumps({**request(H3_TOKENS, 1, salt), "stream": True})
    start = time.monotonic()
    c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    while not r.readline().startswith(b"data: {"):
        pass
    spent = time.monotonic() - start
    r.read()
    return spent


def bench_first_token(server, pure_ms):
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for i in range(3):  # the library's algorithms are timed
        first_token(c, 1000 + i)
    t = sorted(first_token(c, i) * 1e3 for i in range(H3_SAMPLES))
    ms = t[len(t) // 2]
    say(row="H3", what=f"first token of a prompt of {H3_TOKENS} over HTTP, idle server, less the prefill", first_token_ms=round(ms, 2),
        least_ms=round(t[0], 2), most_ms=round(t[-1], 2), prefill_ms=pure_ms, over_ms=round(ms - pure_ms, 2) if pure_ms else None,
        gate_ms=H3_GATE_MS)


def facts(o, names):
    """C, G and A of this run, and milliseconds of the prefill of H3."""
    row = {}
    if "H3" in names or not o.copy:
        row = next(iter(rows_of([str(o.bench / "bench_gpu"), "H3"])), {})
    rates = {"C": (o.copy or row.get("copy_GBps", 0)) * 1e9, "G": o.gemm * 1e12, "A": o.attn * 1e12}
    if names != ["H3"] and not o.gemm:
        kind = "e4m3" if o.weights == "fp8" else "bf16"
        products = [r for r in rows_of([str(o.bench / "bench_linear"), "8b", "2048"]) if r["type"] == kind]
        rates["G"] = sum(r["TFLOPs"] * r["us"] for r in products) / sum(r["us"] for r in products) * 1e12
    if names != ["H3"] and not o.attn:
        rates["A"] = attention_rates(o.bench, [8192])[0][8192] * 1e12
    return rates, row.get("ms")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--hearthd", default=str(ROOT / "build/hearthd"))
    p.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/tests/bench")
    p.add_argument("--model", default="llama-8b")
    p.add_argument("--backend", default="cuda")
    p.add_argument("--weights", default="as_stored")
    p.add_argument("--format", default="kv16")
    p.add_argument("--rows", default="H3,128/128,1000/1000,2048/128")
    p.add_argument("--at-once", type=int, default=MOST)
    p.add_argument("--seconds", type=float, default=15)
    p.add_argument("--copy", type=float, default=0, help="C, GB/s, instead of measuring it; likewise:")
    p.add_argument("--gemm", type=float, default=0, help="G, TFLOP/s")
    p.add_argument("--attn", type=float, default=0, help="A, TFLOP/s")
    p.add_argument("--set", action="append", default=[])
    o = p.parse_args()
    names = o.rows.split(",")
    rates, pure_ms = facts(o, names)
    server = Server(o.hearthd, [f"model.random={o.model}", f"model.weights={o.weights}", f"kv.format={o.format}",
                                f"backend={o.backend}", f"sched.max_seqs={o.at_once}", "sched.max_queued=8192",
                                "sched.max_batch_tokens=2048", "http.max_connections=4096", *o.set])
    try:
        for name in names:
            if name == "H3":
                bench_first_token(server, pure_ms)
            else:
                bench_saturated(server, o, rates, *map(int, name.split("/")))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
