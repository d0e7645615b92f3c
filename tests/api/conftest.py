"""Servers for the API tests: build/hearthd (or $HEARTHD) on a port of its own choosing, ended by process id.

`server` runs made-up weights, once with the engine as a thread and once as a process of its own: every test that takes it
runs in both. `real` serves the default model. Nothing here sleeps without a bound."""
import http.client
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import time

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("HEARTHD", str(ROOT / "build/hearthd"))
SLOW = 10 if "san-" in BINARY else 1


class Hearthd:
    def __init__(self, *args, ready=True, env=None, binary=BINARY):
        argv = [binary, "--listen", "127.0.0.1:0", "--log-level", "info", *args]
        self.log = open(os.path.join("/tmp", f"hearthd-test-{os.getpid()}-{time.monotonic_ns()}.log"), "w+")
        os.unlink(self.log.name)
        self.proc = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **(env or {})})
        self.port, self.out = None, b""
        if ready:
            self.wait_ready()

    def wait_ready(self, seconds=60 * SLOW):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.proc.stdout], [], [], 0.2)[0]:
                data = os.read(self.proc.stdout.fileno(), 65536)
                self.out += data
                m = re.search(rb"hearthd ready: http://127\.0\.0\.1:(\d+) ", self.out)
                if m:
                    self.port = int(m[1])
                    return
                if not data:
                    break
        self.stop()
        raise AssertionError(f"no ready line; log: {self.text()}")

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
            try:
                self.proc.wait(30)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.proc.stdout.close()
        return self.proc.returncode

    # -- plain HTTP
    def request(self, method, path, body=None, headers=None, timeout=60 * SLOW):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        raw = r.read()
        c.close()
        return r, raw

    def post(self, path, body, **kw):
        r, raw = self.request("POST", path, body, **kw)
        return r.status, json.loads(raw)

    def complete(self, **body):
        status, answer = self.post("/v1/completions", body)
        assert status == 200, answer
        return answer

    def events(self, path, body):
        """Data of each SSE event of a stream, in order; the raw bytes are checked for framing."""
        r, raw = self.request("POST", path, {**body, "stream": True})
        assert r.status == 200, raw
        assert r.headers["content-type"].startswith("text/event-stream")
        assert r.headers["cache-control"] == "no-cache" and r.headers["x-accel-buffering"] == "no"
        events = raw.decode().split("\n\n")
        assert events.pop() == ""
        assert all(e.startswith("data: ") and "\n" not in e for e in events), "a comment, an id or a broken frame"
        assert events.pop() == "data: [DONE]"
        return [json.loads(e[6:]) for e in events]

    def metrics(self):
        _, raw = self.request("GET", "/metrics")
        return {k: float(v) for k, v in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", raw.decode(), re.M)}

    def metric_until(self, name, want, seconds=20):
        """Wait until a metric satisfies want(value); its value."""
        end = time.monotonic() + seconds * SLOW
        while True:
            value = self.metrics()[name]
            if want(value) or time.monotonic() > end:
                assert want(value), f"{name} stays {value}"
                return value
            time.sleep(0.02)

    def until(self, want, seconds=20):
        """Ask want() until it gives something true; that."""
        end = time.monotonic() + seconds * SLOW
        while True:
            value = want()
            if value or time.monotonic() > end:
                assert value, "it does not come"
                return value
            time.sleep(0.01)

    def engine_pid(self):
        for p in os.listdir("/proc"):
            if p.isdigit():
                try:
                    stat = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(stat[1]) == self.proc.pid and stat[0] != "Z":
                    return int(p)
        return None

    def client(self, **kw):
        kw.setdefault("api_key", "none")
        kw.setdefault("max_retries", 0)
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", **kw)

    def async_client(self, **kw):
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, **kw)


TINY = ["--set", "model.random=tiny", "--set", "kv.bytes=16MiB"]


@pytest.fixture(scope="session", params=["thread", "exec"])
def server(request):
    s = Hearthd(*TINY, "--set", f"engine.mode={request.param}")
    s.mode = request.param
    yield s
    assert s.stop() == 0, s.text()


@pytest.fixture
def start():
    """Start servers that end with the test."""
    started = []

    def go(*args, **kw):
        started.append(Hearthd(*args, **kw))
        return started[-1]

    yield go
    for s in started:
        s.stop()


@pytest.fixture(scope="session", params=["thread", "exec"])
def real(request):
    model = os.environ.get("HEARTH_MODEL") or subprocess.check_output(
        ["bash", str(ROOT / "scripts/fetch_model.sh")], text=True).splitlines()[-1]
    s = Hearthd("--model", model, "--alias", "smollm2", "--set", "kv.bytes=256MiB", "--set", f"engine.mode={request.param}")
    yield s
    assert s.stop() == 0, s.text()
