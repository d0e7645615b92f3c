#!/usr/bin/env python3
"""bench_server - the table of speed: hearthd beside llama.cpp's server, on the same machine, model file and threads.

Rows (gate, value, ratio): decode of 1 stream, prefill of 512 tokens, decode of 8 streams (tokens/s, ratio to llama-server);
CPU of the HTTP thread and of everything outside the backend a token (256 streams, stub backend); first token after a
cached prefix of 2,000 tokens over a cold one; another stream's gaps and short requests' first tokens while 100,000 tokens are
prefilled. Runs alternate A B A B; the ratio is the median of the pairs' ratios.

usage: bench_server.py [--llama PATH] [--model GGUF] [--pairs N] [--threads N] [--only ROW,...]
  --llama   llama-server binary (or $LLAMA_SERVER); without it the rows that need it are left out, and it says so
Standard library only. Servers listen on loopback, are ended by process id, every wait has a limit.
"""
import argparse
import http.client
import json
import os
import pathlib
import select
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A process with a port; `kind` is hearthd, stub or llama."""

    def __init__(self, kind, argv, port, ready):
        self.kind, self.port = kind, port
        self.proc = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                c.request("GET", ready)
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.stop()
        sys.exit(f"{kind} did not become ready in 60 s: {' '.join(map(str, argv))}")

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()

    def post(self, body, timeout=300):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        r = c.getresponse()
        data = json.loads(r.read())
        if r.status != 200:
            sys.exit(f"{self.kind}: status {r.status}: {data}")
        return data


def start_hearthd(binary, extra):
    port = free_port()
    argv = [binary, "--port", str(port), "--log-level", "warn", *extra]
    return Server("hearthd", argv, port, "/ready")


def start_llama(binary, model, threads, parallel):
    port = free_port()
    argv = [binary, "-m", model, "--port", str(port), "-t", str(threads), "-tb", str(threads), "-c", str(2048 * parallel),
            "-np", str(parallel), "--no-webui", "--cache-ram", "0"]
    return Server("llama", argv, port, "/health")


WORDS = ("time year people way day man thing woman life child world school state family student group country problem hand "
         "part place case week company system program question work government number night point home water room mother "
         "area money story fact month lot right study book eye job word business issue side kind head house service friend "
         "father power hour game line end member law car city community name president team minute idea kid body").split()


def prompt_of(n_words, salt):
    """About one token a word, different for each salt, so that no cache helps."""
    return " ".join(WORDS[(i * 7 + salt * 13 + i * i % 11) % len(WORDS)] for i in range(n_words))


def decode_rate(server, streams, n, salt):
    """Tokens a second of `streams` concurrent generations of n tokens, from the first token to the last."""
    body = {"max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False}
    times, lock = [], threading.Lock()

    def one(i):
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        c.request("POST", "/v1/completions", json.dumps(dict(body, prompt=prompt_of(12, salt * 100 + i))),
                  {"Content-Type": "application/json"})
        mine = []
        for line in c.getresponse():
            if line.startswith(b"data: {"):
                mine.append(time.monotonic())
        with lock:
            times.append(mine)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(streams)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    start, end = max(t[0] for t in times), min(t[-1] for t in times)
    tokens = sum(sum(start < x <= end for x in t) for t in times)
    return tokens / (end - start)


def prefill_rate(server, n_words, salt):
    """Prompt tokens a second, from request to the one token asked for."""
    start = time.monotonic()
    r = server.post({"prompt": prompt_of(n_words, salt), "max_tokens": 1, "temperature": 0, "cache_prompt": False})
    return r["usage"]["prompt_tokens"] / (time.monotonic() - start)


def cpu_seconds(pid, tid=None):
    path = f"/proc/{pid}/task/{tid}/schedstat" if tid else None
    if path:
        return int(open(path).read().split()[0]) / 1e9
    return sum(int(open(f"/proc/{pid}/task/{t}/schedstat").read().split()[0]) for t in os.listdir(f"/proc/{pid}/task")) / 1e9


def child_of(pid):
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                if int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1]) == pid:
                    return int(p)
            except OSError:
                continue
    return None


def stub_cost(server, streams, n):
    """CPU microseconds a token: of the HTTP thread, and of front and engine together."""
    pid, engine = server.proc.pid, child_of(server.proc.pid)
    body = json.dumps({"prompt": "abc", "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    socks = []
    for _ in range(streams):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        s.setblocking(False)
        socks.append(s)
    before = cpu_seconds(pid, pid), cpu_seconds(pid) + (cpu_seconds(engine) if engine else 0)
    poll, open_ = select.epoll(), {}
    for s in socks:
        poll.register(s, select.EPOLLIN)
        open_[s.fileno()] = s
        s.send((head + body).encode())
    end, chunks = time.monotonic() + 300, 0
    tails = dict.fromkeys(open_, b"")
    while open_ and time.monotonic() < end:
        for fd, _ in poll.poll(1):
            data = tails[fd] + open_[fd].recv(1 << 20)
            chunks += data.count(b'"finish_reason":') - tails[fd].count(b'"finish_reason":')
            if b"[DONE]" in data:
                poll.unregister(fd)
                open_.pop(fd).close()
            tails[fd] = data[-16:]
    if open_ or chunks < 0.99 * streams * n:  # a transfer chunk may end inside the name that is counted
        sys.exit(f"stub: {len(open_)} streams did not end in 300 s; {chunks} chunks of {streams * n}")
    after = cpu_seconds(pid, pid), cpu_seconds(pid) + (cpu_seconds(engine) if engine else 0)
    tokens = streams * n
    return [(b - a) / tokens * 1e6 for a, b in zip(before, after)], tokens


def cached_ratio(server, salt):
    text = prompt_of(2000, salt)

    def ttft():
        start = time.monotonic()
        r = server.post({"prompt": text, "max_tokens": 1, "temperature": 0})
        return time.monotonic() - start, r["usage"]["prompt_tokens_details"]["cached_tokens"]

    cold, none = ttft()
    warm, cached = ttft()
    if none != 0 or cached < 1900:
        sys.exit(f"cached prefix: {none} tokens cached at first, {cached} then: not what is to be measured")
    return warm / cold


def stall(server, step_ms):
    """While 100,000 tokens are prefilled: the p99 of another stream's gaps, and the worst first token of short requests."""
    gaps, ttfts, stop = [], [], threading.Event()

    def stream():
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        c.request("POST", "/v1/completions", json.dumps({"prompt": [5] * 100, "max_tokens": 20000, "temperature": 0,
                                                         "ignore_eos": True, "stream": True,
                                                         "logit_bias": {"97": 100}}))  # "a": each token is text
        last = None
        for line in c.getresponse():
            if line.startswith(b"data: {"):
                now = time.monotonic()
                if last and started.is_set():
                    gaps.append(now - last)
                last = now
            if stop.is_set():
                c.sock.close()
                return

    def shorts():
        while not stop.is_set():
            start = time.monotonic()
            server.post({"prompt": [7] * 60, "max_tokens": 1, "temperature": 0, "cache_prompt": False})
            ttfts.append(time.monotonic() - start)
            time.sleep(0.5)

    started = threading.Event()
    threads = [threading.Thread(target=f) for f in (stream, shorts)]
    for t in threads:
        t.start()
    time.sleep(2)
    ttfts.clear()
    started.set()
    begin = time.monotonic()
    server.post({"prompt": [i * 7 % 500 for i in range(100000)], "max_tokens": 1, "temperature": 0})
    took = time.monotonic() - begin
    stop.set()
    for t in threads:
        t.join()
    gaps.sort()
    return gaps[len(gaps) * 99 // 100] * 1e3, max(ttfts) * 1e3, took, len(gaps), len(ttfts)


def pairs(n, a, b):
    """Medians of n runs each of a and b in turn, and the median of the ratios."""
    rows = []
    for i in range(n):
        rows.append((a(2 * i), b(2 * i + 1)))
        print(f"  pair {i + 1} of {n}: {rows[-1][0]:.1f} {rows[-1][1]:.1f}", file=sys.stderr)
    return [statistics.median(x) for x in zip(*rows)], statistics.median(x / y for x, y in rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--llama", default=os.environ.get("LLAMA_SERVER"))
    ap.add_argument("--model", default=os.environ.get("HEARTH_MODEL"))
    ap.add_argument("--hearthd", default=ROOT / "build/hearthd")
    ap.add_argument("--stub", default=ROOT / "build/tests/bench/hearthd-stub")
    ap.add_argument("--pairs", type=int, default=5)
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--only", default="decode1,prefill512,decode8,cpu,cached,stall")
    o = ap.parse_args()
    only = set(o.only.split(","))
    table = []

    def row(name, gate, value, ratio, ok):
        table.append(f"{name:<44}{gate:>14}{value:>24}{ratio:>10}  {'ok' if ok else 'MISSED'}")

    if "cpu" in only:
        s = start_hearthd(o.stub, ["--set", "model.random=tiny", "--set", "sched.max_seqs=256"])
        (http_us, all_us), tokens = stub_cost(s, 256, 400)
        s.stop()
        row("HTTP thread, CPU a token, 256 streams", "<= 15 us", f"{http_us:.1f} us", f"{http_us / 15:.2f}", http_us <= 15)
        row("all outside the backend, CPU a token", "<= 30 us", f"{all_us:.1f} us", f"{all_us / 30:.2f}", all_us <= 30)
    if "stall" in only:
        s = start_hearthd(o.hearthd, ["--set", "model.random=tiny-128k", "--threads", str(o.threads)])
        gap, ttft, took, n_gaps, n_ttfts = stall(s, 100)
        s.stop()
        print(f"stall: 100,000 tokens prefilled in {took:.1f} s; {n_gaps} gaps, {n_ttfts} short requests", file=sys.stderr)
        row("gap p99 during a prefill of 100k tokens", "<= 200 ms", f"{gap:.0f} ms", f"{gap / 200:.2f}", gap <= 200)
        row("worst TTFT of short requests meanwhile", "<= 1000 ms", f"{ttft:.0f} ms", f"{ttft / 1000:.2f}", ttft <= 1000)
    speed = only & {"decode1", "prefill512", "decode8", "cached"}
    if speed and not o.model:
        sys.exit("no model: give --model or HEARTH_MODEL")
    ours = start_hearthd(o.hearthd, ["--model", o.model, "--threads", str(o.threads)]) if speed else None
    if "cached" in only:
        ratios = [cached_ratio(ours, 900 + i) for i in range(3)]
        r = statistics.median(ratios)
        row("TTFT, cached prefix of 2,000 over cold", "<= 0.10", f"{r:.3f}", f"{r / 0.1:.2f}", r <= 0.1)
    if speed - {"cached"} and not o.llama:
        print("no llama-server (--llama PATH): the rows beside it are left out")
    elif speed - {"cached"}:
        theirs = start_llama(o.llama, o.model, o.threads, 8)
        for s in (ours, theirs):  # both warm
            decode_rate(s, 1, 16, 1)
            prefill_rate(s, 400, 2)
        rows = [("decode1", "decode, 1 stream, tok/s", 0.9, lambda s, i: decode_rate(s, 1, 128, i)),
                ("prefill512", "prefill, 512 tokens, tok/s", 0.9, lambda s, i: prefill_rate(s, 511, 50 + i)),
                ("decode8", "decode, 8 streams, tok/s", 1.0, lambda s, i: decode_rate(s, 8, 96, i))]
        for key, name, gate, run in rows:
            if key in only:
                print(name, file=sys.stderr)
                (a, b), r = pairs(o.pairs, lambda i: run(ours, i), lambda i: run(theirs, i))
                row(name, f">= {gate:.1f}x", f"{a:.1f} against {b:.1f}", f"{r:.2f}", r >= gate)
        theirs.stop()
    if ours:
        ours.stop()
    print(f"{'what':<44}{'gate':>14}{'value':>24}{'ratio':>10}")
    print("\n".join(table))
    return 0 if all(line.endswith("ok") for line in table) else 1


if __name__ == "__main__":
    sys.exit(main())
