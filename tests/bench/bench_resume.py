#!/usr/bin/env python3
"""bench_resume - a hearthd over HTTP whose sessions sleep on tiers: how soon the first token comes when they are resumed.

usage: bench_resume.py ROW ... [--hearthd PATH] [--backend cuda|cpu] [--model SHAPE|FILE] [--dir FOLDER] [--tokens 8192,32768]
  T5   after a restart, from the drive: first token beside bytes / min(R, P) + the first token of the same suffix on the same
       prefix in the pool. R: plain O_DIRECT reads of the slab in this run; P: given (--pinned, GB/s, of bench_moves)
  T6   from DRAM, beside computing it: short prompts take its place in the pool
  T7   output tokens a second of prompts that have nothing in common, with tiers and prefix cache and without either
  T10  four folders, one of them lost: every session resumes; first token beside computing it. With T5 --folders 4 --lose it is
       taken with what T5 has left there, loading or computing as the server chooses
Prompts are token ids; a first token is the answer to max_tokens 1. JSON, one object a line. Standard library only; the server
listens on loopback and is ended by its process id.
"""
import argparse
import concurrent.futures
import http.client
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUFFIX = 64


def say(**row):
    print(json.dumps(row), flush=True)


class Server:
    def __init__(self, o, extra):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        model = ["--model", o.model] if os.path.exists(o.model) else ["--set", f"model.random={o.model}"]
        sets = [x for e in extra + o.set for x in ("--set", e)]
        self.proc = subprocess.Popen([o.hearthd, "--backend", o.backend, "--port", str(self.port), "--log-level", "warn",
                                      *model, *sets])
        end = time.monotonic() + 120
        while time.monotonic() < end and self.proc.poll() is None:
            try:
                if self.ask("GET", "/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        self.stop()
        sys.exit("hearthd ended, or was not ready in 120 s")

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        c.request(method, path, body, {"Content-Type": "application/json"})
        r = c.getresponse()
        raw = r.read()
        c.close()
        return r.status, raw

    def complete(self, ids, n=1, **more):
        """Seconds from the first byte sent, and usage."""
        body = json.dumps({"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more}).encode()
        begin = time.monotonic()
        status, raw = self.ask("POST", "/v1/completions", body)
        spent = time.monotonic() - begin
        if status != 200:
            raise RuntimeError(raw[:400])
        return spent, json.loads(raw)["usage"]

    def suspend(self, name):
        begin = time.monotonic()
        while True:
            status, raw = self.ask("POST", f"/v1/sessions/{name}/suspend")
            if status == 200:
                return time.monotonic() - begin
            if time.monotonic() - begin > 120:
                sys.exit(f"suspend: {status} {raw[:400]}")
            time.sleep(0.2)

    def cpu_s(self):
        """CPU seconds of the daemon and its engine, all threads, so far."""
        ticks = 0
        for f in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                field = f.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if self.proc.pid in (int(f.parent.name), int(field[1])):
                ticks += int(field[11]) + int(field[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


def prompt(o, n, salt):
    r = random.Random(salt)
    return [r.randrange(100, o.vocab) for _ in range(n)]


def of_tiers(usage):
    return usage.get("hearth", {}).get("cached_tokens", usage.get("prompt_tokens_details"))


def read_rate(folder, most=2 << 30, unit=4 << 20, depth=16):
    """R in bytes/s: the slabs in these folders, pieces of 4 MiB, 16 at a time (a folder)."""
    jobs = []
    for f in folder:
        slab = max(pathlib.Path(f).glob("*.slab"), key=lambda p: p.stat().st_size)
        fd = os.open(slab, os.O_RDONLY | os.O_DIRECT)
        jobs.append([fd, min(most // len(folder), os.stat(fd).st_size), iter(range(0, 1 << 50, unit)), threading.Lock()])

    def reader(job):
        buf, n = mmap.mmap(-1, unit), 0
        while True:
            with job[3]:
                at = next(job[2])
            if at + unit > job[1]:
                return n
            n += os.preadv(job[0], [buf], at)

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(depth * len(jobs)) as pool:
        done = sum(pool.map(reader, [j for j in jobs for _ in range(depth)]))
    spent = time.monotonic() - begin
    for j in jobs:
        os.close(j[0])
    return done / spent


def tiers(o, dirs, pool_tokens, dram_tokens):
    return [f"kv.format={o.format}", f"kv.bytes={pool_tokens * o.kv}", f"kv.dram.bytes={dram_tokens * o.kv}",
            "kv.nvme.dirs=" + ",".join(dirs), f"kv.nvme.bytes={o.nvme}", "kv.load=always",
            f"sched.max_batch_tokens={o.batch}", f"ctx_size={max(o.tokens) + 4 * SUFFIX}"]


def token_bytes(o):
    """KV bytes of a token, as --plan says."""
    model = ["--model", o.model] if os.path.exists(o.model) else ["--set", f"model.random={o.model}"]
    plan = subprocess.run([o.hearthd, "--backend", "cpu", *model, "--set", f"kv.format={o.format}", "--set", "kv.bytes=1GiB", "--plan"],
                          capture_output=True, text=True)
    line = [l for l in plan.stdout.splitlines() if l.startswith("KV a token")]
    return int(line[0].split()[3]) if line else sys.exit("--plan: " + plan.stdout + plan.stderr)


def warmed_up(o, conf, rows=512):
    """A server whose products of so many rows at a time are timed, and whose buckets are recorded."""
    s = Server(o, conf)
    s.complete(prompt(o, min(2 * rows, max(o.tokens) // 2), 1))
    s.complete(prompt(o, SUFFIX, 2))
    return s


def t5(o):
    top = tempfile.mkdtemp(prefix="hearth-t5-", dir=o.dir)
    dirs = [f"{top}/drive{i}" for i in range(o.folders)]
    room = sum(o.tokens) + 4 * o.batch
    conf = tiers(o, dirs, room, room)
    cold, s = {}, None
    try:
        for d in dirs:
            os.mkdir(d)
        s = warmed_up(o, conf, o.batch)
        for n in o.tokens:
            cold[n], _ = s.complete(prompt(o, n, n), session_id=f"s{n}")
        park = {n: s.suspend(f"s{n}") for n in o.tokens}
        s.stop()
        for again in range(o.n):
            s = warmed_up(o, conf)
            for n in o.tokens:
                r = read_rate(dirs)
                ids = prompt(o, n, n)
                first, usage = s.complete(ids + prompt(o, SUFFIX, 1000 + again))
                hot = sorted(s.complete(ids + prompt(o, SUFFIX, 2000 + again * 10 + i))[0] for i in range(3))[1]
                least = n * o.kv / min(r, o.pinned * 1e9)
                say(row="T5", tokens=n, format=o.format, first_token_s=round(first, 4), bytes_GB=round(n * o.kv / 1e9, 3),
                    R_GBps=round(r / 1e9, 2), P_GBps=o.pinned, read_s=round(least, 4), in_pool_s=round(hot, 4),
                    ratio=round(first / (least + hot), 3), gate=1.15, computed_s=round(cold[n], 3), parked_s=round(park[n], 2),
                    cached=of_tiers(usage))
            s.stop()
        if o.lose:
            shutil.rmtree(dirs[o.folders // 2])
            s = warmed_up(o, [c for c in conf if not c.startswith("kv.load=")])
            for n in o.tokens:
                first, usage = s.complete(prompt(o, n, n))
                say(row="T10", tokens=n, format=o.format, folders=o.folders, computed_s=round(cold[n], 3),
                    first_token_s=round(first, 4), ratio=round(first / cold[n], 3), gate=0.30, cached=of_tiers(usage))
    finally:
        if s:
            s.stop()
        shutil.rmtree(top, ignore_errors=True)


def t6(o):
    n = max(o.tokens)
    conf = [f"kv.format={o.format}", f"kv.bytes={(n + 256) * o.kv}", f"kv.dram.bytes={int(2.2 * n) * o.kv}", "kv.load=always",
            f"sched.max_batch_tokens={o.batch}", f"ctx_size={n + 4 * SUFFIX}"]
    s = warmed_up(o, conf, o.batch)
    try:
        ids, others = prompt(o, n, 10), [prompt(o, n // 32, 11 + i) for i in range(32)]
        cold, _ = s.complete(ids)
        print(f"computed in {cold:.3f} s", file=sys.stderr, flush=True)
        warm, load, usage = [], [], None
        for i in range(o.n):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:  # they take its place in the pool
                list(pool.map(s.complete, others))
            t, usage = s.complete(ids + prompt(o, SUFFIX, 3000 + i))
            warm.append(t)
            load.append(usage["hearth"]["load_ms"])
        hot = statistics.median(s.complete(ids + prompt(o, SUFFIX, 4000 + i))[0] for i in range(3))
        w = statistics.median(warm)
        say(row="T6", tokens=n, format=o.format, computed_s=round(cold, 3), resumed_s=round(w, 4), all_s=[round(x, 3) for x in warm],
            load_ms=load, in_pool_s=round(hot, 4), GB=round(n * o.kv / 1e9, 3), ratio=round(cold / w, 1), gate=50, cached=of_tiers(usage))
    finally:
        s.stop()


def throughput(s, o, at_once, salt):
    """Output tokens a second, and a CPU second."""
    def one(i):
        return s.complete(prompt(o, o.isl, salt * 100000 + i), o.osl)[1]["completion_tokens"]

    begin, cpu = time.monotonic(), s.cpu_s()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        done = sum(pool.map(one, range(o.n_requests)))
    return done / (time.monotonic() - begin), done / (s.cpu_s() - cpu)


def t7(o):
    d = tempfile.mkdtemp(prefix="hearth-t7-", dir=o.dir)
    pool = [f"kv.format={o.format}", f"kv.bytes={o.pool_tokens * o.kv}", f"sched.max_batch_tokens={o.batch}"]
    on = pool + [f"kv.dram.bytes={o.dram_tokens * o.kv}", f"kv.nvme.dirs={d}", f"kv.nvme.bytes={o.nvme}"]
    if o.write_day:
        on.append(f"kv.nvme.write_bytes_per_day={o.write_day}")
    servers = []
    try:
        servers = [Server(o, pool + ["kv.prefix_cache=false"]), Server(o, on)]
        for s in servers:
            throughput(s, o, o.at_once, 1)
        rates = [[], []]
        for i in range(o.n):
            for k in (0, 1):
                rates[k].append(throughput(servers[k], o, o.at_once, 10 + 2 * i + k))
        off, with_ = ([statistics.median(x) for x in zip(*r)] for r in rates)
        pairs = [sorted(round(b[k] / a[k], 3) for a, b in zip(*rates)) for k in (0, 1)]
        say(row="T7", what="0 % hits, cache and tiers on against off", isl=o.isl, osl=o.osl, at_once=o.at_once, requests=o.n_requests,
            off_tok_s=round(off[0], 1), on_tok_s=round(with_[0], 1), ratio=statistics.median(pairs[0]), pairs=pairs[0],
            ratio_by_cpu=statistics.median(pairs[1]), pairs_by_cpu=pairs[1], gate=0.98)
    finally:
        for s in servers:
            s.stop()
        shutil.rmtree(d, ignore_errors=True)


def t10(o):
    top = tempfile.mkdtemp(prefix="hearth-t10-", dir=o.dir)
    dirs = [f"{top}/drive{i}" for i in range(4)]
    n, sessions = max(o.tokens), o.sessions
    conf = tiers(o, dirs, (sessions + 1) * (n + 512), 2 * n)
    s = None
    try:
        for d in dirs:
            os.mkdir(d)
        s = warmed_up(o, conf, o.batch)
        cold = []
        for i in range(sessions):
            cold.append(s.complete(prompt(o, n, 50 + i), session_id=f"s{i}")[0])
        for i in range(sessions):
            s.suspend(f"s{i}")
        s.stop()
        shutil.rmtree(dirs[2])
        s = warmed_up(o, conf)
        warm, cached = [], []
        for i in range(sessions):
            t, usage = s.complete(prompt(o, n, 50 + i))
            warm.append(t)
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        c, w = statistics.median(cold), statistics.median(warm)
        say(row="T10", tokens=n, format=o.format, sessions=sessions, resumed=sum(k >= 0.7 * n for k in cached), computed_s=round(c, 3),
            first_token_s=round(w, 4), all_s=[round(x, 3) for x in warm], ratio=round(w / c, 3), gate=0.30, cached_tokens=cached)
    finally:
        if s:
            s.stop()
        shutil.rmtree(top, ignore_errors=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("rows", nargs="+", choices=["T5", "T6", "T7", "T10"])
    p.add_argument("--hearthd", default=str(ROOT / "build/hearthd"))
    p.add_argument("--backend", default="cuda")
    p.add_argument("--model", default="llama-8b-128k")
    p.add_argument("--vocab", type=int, default=128000)
    p.add_argument("--format", default="kv8")
    p.add_argument("--dir", default="/tmp")
    p.add_argument("--tokens", default="8192,32768,131072", type=lambda t: [int(x) for x in t.split(",")])
    p.add_argument("--kv", type=int, help="KV bytes of a token; else --plan is asked")
    p.add_argument("--n", type=int, default=3, help="how often")
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--nvme", default="24GiB")
    p.add_argument("--pinned", type=float, default=50, help="P, GB/s")
    p.add_argument("--folders", type=int, default=1, help="T5")
    p.add_argument("--lose", action="store_true", help="T5: one folder afterwards, and T10 of the others")
    p.add_argument("--sessions", type=int, default=4, help="T10")
    p.add_argument("--isl", type=int, default=512, help="T7: tokens in, out, requests at once, all; the pool, DRAM")
    p.add_argument("--osl", type=int, default=128)
    p.add_argument("--at-once", type=int, default=64)
    p.add_argument("--n-requests", type=int, default=256)
    p.add_argument("--pool-tokens", type=int, default=65536)
    p.add_argument("--dram-tokens", type=int, default=65536)
    p.add_argument("--write-day", default="")
    p.add_argument("--set", action="append", default=[])
    o = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that servers are, too
    o.tokens = [min(n, 131072 - 4 * SUFFIX) for n in o.tokens]  # the suffixes fit into what the shapes were trained for, too
    o.kv = o.kv or token_bytes(o)
    for row in o.rows:
        {"T5": t5, "T6": t6, "T7": t7, "T10": t10}[row](o)


if __name__ == "__main__":
    main()
