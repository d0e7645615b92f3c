#!/usr/bin/env python3
"""A conversation sleeps on a drive while the daemon is killed, and goes on: what that costs beside computing it again.

    scripts/sleep_demo.py [--model FILE.gguf | --random SHAPE] [--words N] [--folder FOLDER] [-- more arguments of hearthd]

Needs Python and build/hearthd (or $HEARTHD) alone. It talks, suspends, kills the daemon (kill -9), starts it, goes on by name; then the
same again with /resume first; then computes the same turn without any cache, which must give the same text."""
import argparse
import atexit
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "demo"


class Daemon:
    def __init__(self, argv):
        begun = time.monotonic()
        self.proc = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        for line in self.proc.stdout:
            ready = re.search(r"hearthd ready: http://127\.0\.0\.1:(\d+) ", line)
            if ready:
                self.port, self.start_s = int(ready[1]), time.monotonic() - begun
                return
        sys.exit("hearthd did not start")

    def end(self, sig):
        self.proc.send_signal(sig)
        self.proc.wait()
        self.proc.stdout.close()

    def call(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        c.request(method, path, json.dumps(body) if body is not None else None)
        answer = json.loads(c.getresponse().read())
        c.close()
        if "error" in answer:
            sys.exit(f"{method} {path}: {answer['error']['message']}")
        return answer

    def talk(self, messages, **more):
        """Stream an answer: text, usage, seconds to its first token."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        body = {"messages": messages, "temperature": 0, "max_tokens": 32, "stream": True,
                "stream_options": {"include_usage": True}, **more}
        begun, first, text, usage = time.monotonic(), None, "", None
        c.request("POST", "/v1/chat/completions", json.dumps(body))
        r = c.getresponse()
        if r.status != 200:
            sys.exit(r.read().decode())
        for line in r:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                first = first or time.monotonic() - begun
                text += choice["delta"].get("content") or ""
        c.close()
        return text, usage, first


def long_text(words):
    line = "On day {0} the keeper of the light wrote: wind from the {1}, {2} ships passed, the lamp burned {3} hours. "
    winds = ("north", "east", "south", "west")
    out = ""
    for i in range(1, 100000):
        if len(out.split()) >= words:
            return out
        out += line.format(i, winds[i * i % 4], i * 7 % 23, 8 + i % 7)
    return out


def row(what, ttft, usage):
    cached = usage["hearth"]["cached_tokens"]
    print(f"{what:44} {ttft * 1000:9.0f} ms   {usage['prompt_tokens']:6} tokens, "
          f"of them HBM {cached['hbm']}, DRAM {cached['dram']}, NVMe {cached['nvme']}", flush=True)


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("--model")
    p.add_argument("--random", default="tiny")
    p.add_argument("--words", type=int, default=300)
    p.add_argument("--folder")
    a, more = p.parse_known_args()
    made = None if a.folder else tempfile.TemporaryDirectory(prefix="hearth-demo-")
    argv = [os.environ.get("HEARTHD", str(ROOT / "build/hearthd")), "--listen", "127.0.0.1:0", "--log-level", "warn", "--set",
            f"kv.nvme.dirs={a.folder or made.name}", "--set", "kv.nvme.bytes=2GiB", "--set", "kv.dram.bytes=512MiB",
            *(["--model", a.model] if a.model else ["--set", f"model.random={a.random}"]), *[m for m in more if m != "--"]]

    d = Daemon(argv)
    atexit.register(lambda: d.proc.poll() is None and d.proc.kill())
    messages = [{"role": "user", "content": long_text(a.words) + "\nWhat is this?"}]
    text, usage, ttft = d.talk(messages, session_id=NAME)
    row("first turn, computed", ttft, usage)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Which wind blew on day 3?"}]

    def sleep_and_wake():
        nonlocal d
        begun = time.monotonic()
        s = d.call("POST", f"/v1/sessions/{NAME}/suspend")
        print(f"suspended: {s['suspended']['blocks']} blocks, {s['suspended']['bytes'] / 2**20:.0f} MiB durable on "
              f"{s['suspended']['tier']} after {(time.monotonic() - begun) * 1000:.0f} ms; kill -9", flush=True)
        d.end(signal.SIGKILL)
        d = Daemon(argv)
        print(f"started again in {d.start_s:.1f} s", flush=True)

    sleep_and_wake()
    slept, usage, ttft_nvme = d.talk(messages, session_id=NAME)
    row("next turn, from where it slept", ttft_nvme, usage)
    nvme = usage["hearth"]["cached_tokens"]["nvme"]

    sleep_and_wake()
    begun = time.monotonic()
    s = d.call("POST", f"/v1/sessions/{NAME}/resume")
    want = s["blocks"] - s["missing_blocks"]
    while d.call("GET", f"/v1/sessions/{NAME}")["tiers"]["hbm"]["blocks"] < want and time.monotonic() - begun < 60:
        time.sleep(0.002)
    print(f"resumed: {s['predicted_ms']:.0f} ms predicted, {(time.monotonic() - begun) * 1000:.0f} ms taken", flush=True)
    woken, usage, ttft = d.talk(messages, session_id=NAME)
    row("the same turn, resumed before", ttft, usage)

    computed, usage, ttft_all = d.talk(messages, cache_prompt=False)
    row("the same turn, computed whole", ttft_all, usage)
    d.end(signal.SIGTERM)
    same = slept == woken == computed
    print(f"same text: {'yes' if same else 'NO'}; {ttft_all / ttft_nvme:.0f} times sooner from NVMe")
    sys.exit(0 if same and nvme else 1)


main()
