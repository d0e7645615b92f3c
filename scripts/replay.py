#!/usr/bin/env python3
"""Replay a request trace against a running server and draw what came of it.

    replay.py TRACE [--url http://127.0.0.1:8080] [--model NAME] [--speed X] [--concurrency N] [--requests N]
              [--id-tokens N] [--max-input N] [--max-output N] [--vocab N] [--timeout S] [--out FOLDER]

TRACE: Mooncake's format, JSON lines or such a file in gzip; scripts/make_sessions.py makes some. Prompts are token ids: each
hash id becomes the same --id-tokens made-up tokens (512, or fewer for a small context), so that equal prefixes are equal.
Requests are sent at the trace's times divided by --speed (0: as fast as --concurrency allows). Each streams one completion
with its usage. In FOLDER come summary.json, ttft.svg, throughput.svg and hit_rate.svg. It stops when the trace ends, on the
first interrupt, or after 20 failures in a row; what has been measured until then is written. The API key is taken from
OPENAI_API_KEY."""

import argparse
import concurrent.futures
import gzip
import http.client
import json
import os
import pathlib
import queue
import random
import sys
import threading
import time
import urllib.parse

import svg

GIVE_UP = 20  # failures in a row


def read_trace(path, n):
    opener = gzip.open if str(path).endswith(".gz") else open
    requests = []
    with opener(path, "rt", encoding="utf-8") as f:
        for line in f:
            if line.strip():
                requests.append(json.loads(line))
            if n and len(requests) == n:
                break
    if not requests:
        raise ValueError("no requests in it")
    return sorted(requests, key=lambda r: r["timestamp"])


def tokens_of(hash_id, n, vocab):
    """n tokens that stand for an id: the same ones each time."""
    rng = random.Random(hash_id)
    return [rng.randrange(3, vocab) for _ in range(n)]


def prompt_of(request, a):
    """Its prompt: all ids whole but the last, which stands for what is left."""
    ids, n = request["hash_ids"], a.id_tokens
    rest = max(1, round((request["input_length"] - 512 * (len(ids) - 1)) * n / 512))
    tokens = [t for i in ids[:-1] for t in tokens_of(i, n, a.vocab)] + tokens_of(ids[-1], n, a.vocab)[:rest]
    return tokens[: a.max_input] if a.max_input else tokens


class Result:
    def __init__(self, due, sent):
        self.due, self.sent, self.first, self.end = due, sent, None, None
        self.prompt = self.cached = self.output = 0
        self.tiers, self.error = {}, None


def connect(a):
    kind = http.client.HTTPSConnection if a.url.scheme == "https" else http.client.HTTPConnection
    return kind(a.url.hostname, a.url.port, timeout=a.timeout)


def headers():
    key = os.environ.get("OPENAI_API_KEY")
    return {"Content-Type": "application/json", **({"Authorization": "Bearer " + key} if key else {})}


def first_model(a):
    connection = connect(a)
    try:
        connection.request("GET", a.url.path.rstrip("/") + "/v1/models", headers=headers())
        return json.loads(connection.getresponse().read())["data"][0]["id"]
    finally:
        connection.close()


def data_events(response):
    """The JSON of each event of a stream."""
    for line in response:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)


def send(request, result, a, now):
    """One completion, streamed; fills in the result."""
    body = {
        "model": a.model,
        "prompt": prompt_of(request, a),
        "max_tokens": max(1, min(request["output_length"], a.max_output or request["output_length"])),
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = connect(a)
    try:
        connection.request("POST", a.url.path.rstrip("/") + "/v1/completions", json.dumps(body), headers())
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {response.read(300).decode('utf-8', 'replace')}")
        for event in data_events(response):
            if event.get("error"):
                raise RuntimeError(f"in the stream: {event['error'].get('message')}")
            if event.get("choices") and result.first is None:
                result.first = now()
            if event.get("usage"):
                note_usage(result, event["usage"])
        if result.first is None:
            raise RuntimeError("the stream ended without a token")
    finally:
        connection.close()
    result.end = now()


def note_usage(result, usage):
    result.prompt, result.output = usage["prompt_tokens"], usage["completion_tokens"]
    result.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    tiers = (usage.get("hearth") or {}).get("cached_tokens")
    result.tiers = tiers if isinstance(tiers, dict) else {}


class Progress:
    """One line on stderr, drawn again at most five times a second."""

    def __init__(self, total):
        self.total, self.last, self.bar = total, 0.0, sys.stderr.isatty()

    def show(self, done, failed, in_flight, end=False):
        t = time.monotonic()
        if t - self.last < (0.2 if self.bar else 10) and not end:
            return
        self.last = t
        full = 30 * done // self.total
        line = f"[{'#' * full}{'.' * (30 - full)}] {done}/{self.total}, {in_flight} under way, {failed} failed"
        sys.stderr.write("\r" + line + ("\n" if end else "") if self.bar else line + "\n")
        sys.stderr.flush()


class Replay:
    def __init__(self, requests, a):
        self.requests, self.a = requests, a
        self.start = time.monotonic()
        self.done, self.stop, self.in_a_row = queue.Queue(), threading.Event(), 0

    def now(self):
        return time.monotonic() - self.start

    def one(self, request, due):
        """Runs in a worker."""
        if self.stop.is_set():
            return
        result = Result(due, self.now())
        try:
            send(request, result, self.a, self.now)
        except (OSError, http.client.HTTPException, RuntimeError, ValueError, KeyError) as e:
            result.error = f"{type(e).__name__}: {e}"
        self.done.put(result)

    def collect(self, results):
        while not self.done.empty():
            r = self.done.get()
            results.append(r)
            self.in_a_row = self.in_a_row + 1 if r.error else 0
            if self.in_a_row >= GIVE_UP:
                self.stop.set()

    def watch(self, futures, results, progress):
        self.collect(results)
        failed = sum(r.error is not None for r in results)
        progress.show(len(results), failed, sum(f.running() for f in futures))
        return [f for f in futures if not f.done()]

    def run(self):
        results, futures, progress = [], [], Progress(len(self.requests))
        first = self.requests[0]["timestamp"]
        pool = concurrent.futures.ThreadPoolExecutor(self.a.concurrency)
        try:
            for request in self.requests:
                due = (request["timestamp"] - first) / 1000 / self.a.speed if self.a.speed else self.now()
                while not self.stop.is_set() and (self.now() < due or len(futures) > 4 * self.a.concurrency):
                    futures = self.watch(futures, results, progress)
                    time.sleep(min(0.05, max(0.0, due - self.now())) or 0.005)
                if self.stop.is_set():
                    break
                futures.append(pool.submit(self.one, request, due))
            while futures and not self.stop.is_set():
                futures = self.watch(futures, results, progress)
                time.sleep(0.02)
        except KeyboardInterrupt:
            sys.stderr.write("\ninterrupted: writing what there is\n")
        self.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        self.collect(results)
        progress.show(len(results), sum(r.error is not None for r in results), 0, end=True)
        return results


# -- what came of it


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p / 100 * len(values)))] if values else None


def summarise(results, planned):
    good = [r for r in results if not r.error]
    errors = {}
    for r in results:
        if r.error:
            errors[r.error[:200]] = errors.get(r.error[:200], 0) + 1
    prompt, cached, output = (sum(getattr(r, k) for r in good) for k in ("prompt", "cached", "output"))
    seconds = max((r.end for r in good), default=0)
    tiers = {}
    for r in good:
        for tier, n in r.tiers.items():
            tiers[tier] = tiers.get(tier, 0) + n
    return {
        "requests": len(good), "planned": planned, "failed": len(results) - len(good), "errors": errors,
        "seconds": round(seconds, 3), "prompt_tokens": prompt, "cached_tokens": cached, "cached_tokens_by_tier": tiers,
        "completion_tokens": output, "hit_rate": cached / prompt if prompt else None,
        "prompt_tokens_per_second": prompt / seconds if seconds else None,
        "completion_tokens_per_second": output / seconds if seconds else None,
        "ttft_seconds": {f"p{p}": percentile([r.first - r.due for r in good], p) for p in (50, 90, 99)},
        "late_seconds": {"p99": percentile([r.sent - r.due for r in results], 99)},
    }  # fmt: skip


def rates(results, seconds, value, at):
    """Value a second in 60 equal parts of the run."""
    width = max(seconds / 60, 1e-9)
    sums = [0.0] * 61
    for r in results:
        sums[min(60, int(at(r) / width))] += value(r)
    return [((i + 0.5) * width, s / width) for i, s in enumerate(sums[:60])]


def plots(results):
    good = sorted((r for r in results if not r.error), key=lambda r: r.first)
    seconds = max((r.end for r in good), default=1)
    ttft = svg.Plot("Time to first token", "seconds since the start", "seconds")
    ttft.dots("a request", [(r.first, r.first - r.due) for r in good])
    through = svg.Plot("Throughput", "seconds since the start", "tokens a second")
    through.line("prompt, computed", rates(good, seconds, lambda r: r.prompt - r.cached, lambda r: r.first))
    through.line("prompt, cached", rates(good, seconds, lambda r: r.cached, lambda r: r.first))
    through.line("generated", rates(good, seconds, lambda r: r.output, lambda r: r.end))
    hits, prompt, cached, points = svg.Plot("Hit rate since the start", "seconds since the start", "percent"), 0, 0, []
    for r in good:
        prompt, cached = prompt + r.prompt, cached + r.cached
        points.append((r.first, 100 * cached / max(1, prompt)))
    hits.line("cached / prompt tokens", points)
    return {"ttft.svg": ttft, "throughput.svg": through, "hit_rate.svg": hits}


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("trace", type=pathlib.Path)
    p.add_argument("--url", type=urllib.parse.urlsplit, default=urllib.parse.urlsplit("http://127.0.0.1:8080"))
    p.add_argument("--model", help="default: the first that the server lists")
    p.add_argument("--speed", type=float, default=1, help="trace seconds a second; 0: as fast as it goes")
    p.add_argument("--concurrency", type=int, default=64)
    p.add_argument("--requests", type=int, default=0, help="only the first N")
    p.add_argument("--id-tokens", type=int, default=512, help="tokens that stand for a hash id")
    p.add_argument("--max-input", type=int, default=0, help="cut prompts to so many tokens")
    p.add_argument("--max-output", type=int, default=0)
    p.add_argument("--vocab", type=int, default=1000, help="token ids are taken from 3 to this")
    p.add_argument("--timeout", type=float, default=600, help="seconds without a byte")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("replay"))
    a = p.parse_args(argv)
    if a.url.scheme not in ("http", "https") or not a.url.hostname:
        p.error("--url: http://HOST:PORT")
    if a.speed < 0 or a.concurrency < 1 or a.id_tokens < 1 or a.vocab < 5:
        p.error("--speed from 0, --concurrency and --id-tokens from 1, --vocab from 5 on")
    return a


def main(argv=None):
    a = arguments(argv)
    try:
        requests = read_trace(a.trace, a.requests)
    except (OSError, ValueError) as e:
        sys.exit(f"replay: {a.trace}: {e}")
    try:
        a.model = a.model or first_model(a)
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as e:
        sys.exit(f"replay: {a.url.geturl()}: no list of models: {type(e).__name__}: {e}")
    results = Replay(requests, a).run()
    summary = summarise(results, len(requests))
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name, plot in plots(results).items():
        (a.out / name).write_text(plot.svg())
    print(json.dumps(summary, indent=2))
    return 0 if summary["requests"] == len(requests) else 1


if __name__ == "__main__":
    sys.exit(main())
