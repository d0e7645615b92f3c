"""scripts/replay.py against a server of a few lines, and scripts/make_sessions.py: what is sent, when, and what is drawn."""

import gzip
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import xml.etree.ElementTree as xml

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Stub(http.server.ThreadingHTTPServer):
    """Streams as many tokens as are asked for; the cached ones are those of the longest prompt prefix seen before."""

    daemon_threads = True

    def __init__(self, fail=lambda n: False):
        self.bodies, self.fail, self.lock = [], fail, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def note(self, body):
        with self.lock:
            before = [b["prompt"] for b in self.bodies]
            self.bodies.append(body)
            return len(self.bodies), max((common(body["prompt"], p) for p in before), default=0)


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def event(self, data):
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "stub"}]}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        n, cached = self.server.note(body)
        failed = self.server.fail(n)
        self.send_response(503 if failed else 200)
        self.end_headers()
        if failed:
            return
        for _ in range(body["max_tokens"]):
            self.event({"choices": [{"index": 0, "text": "x"}], "usage": None})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"],
                 "prompt_tokens_details": {"cached_tokens": cached},
                 "hearth": {"cached_tokens": {"hbm": cached, "dram": 0, "nvme": 0}}}  # fmt: skip
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def stub():
    servers = []

    def start(**kw):
        servers.append(Stub(**kw))
        return servers[-1]

    yield start
    for s in servers:
        s.shutdown()
        s.server_close()


def write(path, requests):
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    return path


def replay(trace, server, out, *args):
    url = f"http://127.0.0.1:{server.server_address[1]}"
    r = subprocess.run([sys.executable, ROOT / "scripts/replay.py", trace, "--url", url, "--out", out, *args],
                       capture_output=True, text=True, timeout=60)  # fmt: skip
    return r.returncode, json.loads((out / "summary.json").read_text()), r.stderr


def request(at, ids, tokens, output=3):
    return {"timestamp": at, "input_length": tokens, "output_length": output, "hash_ids": ids}


def test_prompts_share_what_their_ids_share_and_hits_are_counted(stub, tmp_path):
    s = stub()
    trace = write(tmp_path / "t.jsonl", [request(0, [7, 8], 1024), request(400, [7, 8, 9], 1100), request(800, [7], 512)])
    code, summary, err = replay(trace, s, tmp_path / "out", "--id-tokens", "16", "--concurrency", "1", "--max-output", "2")
    assert code == 0, err
    a, b, c = (x["prompt"] for x in s.bodies)
    assert len(a) == 32 and b[:32] == a and c == a[:16]
    assert len(b) == 34, "the last id stands for what is left, on the same scale"
    assert all(x["model"] == "stub" and x["stream"] and x["max_tokens"] == 2 and x["ignore_eos"] for x in s.bodies)
    assert summary["requests"] == 3 and summary["failed"] == 0
    assert (summary["prompt_tokens"], summary["cached_tokens"], summary["completion_tokens"]) == (82, 48, 6)
    assert summary["cached_tokens_by_tier"] == {"hbm": 48, "dram": 0, "nvme": 0}
    assert "3/3" in err


def test_requests_go_out_at_the_times_of_the_trace_divided_by_speed(stub, tmp_path):
    s = stub()
    trace = write(tmp_path / "t.jsonl", [request(1000 * i, [i], 100) for i in range(4)])
    code, summary, _ = replay(trace, s, tmp_path / "out", "--speed", "5")
    assert code == 0
    assert summary["seconds"] >= 0.6, "3 s at five times the speed"
    assert summary["ttft_seconds"]["p50"] is not None


@pytest.mark.parametrize("packed", [False, True])
def test_plots_are_svg_with_a_mark_for_each_request(stub, tmp_path, packed):
    s = stub()
    trace = write(tmp_path / "t.jsonl", [request(0, [i % 3, i], 700) for i in range(20)])
    if packed:
        (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(trace.read_bytes()))
        trace = tmp_path / "t.jsonl.gz"
    code, summary, err = replay(trace, s, tmp_path / "out", "--speed", "0", "--id-tokens", "8")
    assert code == 0, err
    assert summary["requests"] == 20 and 0 < summary["hit_rate"] < 1
    for name in ("ttft.svg", "throughput.svg", "hit_rate.svg"):
        root = xml.parse(tmp_path / "out" / name).getroot()
        assert root.tag.endswith("svg")
    circles = [e for e in xml.parse(tmp_path / "out/ttft.svg").iter() if e.tag.endswith("circle")]
    assert len(circles) == 20


def test_it_goes_on_after_failures_and_says_which(stub, tmp_path):
    s = stub(fail=lambda n: n % 3 == 0)
    trace = write(tmp_path / "t.jsonl", [request(0, [i], 100) for i in range(9)])
    code, summary, _ = replay(trace, s, tmp_path / "out", "--speed", "0")
    assert code == 1 and summary["requests"] == 6 and summary["failed"] == 3
    assert any("503" in e for e in summary["errors"])


def test_it_stops_by_itself_when_nothing_succeeds(stub, tmp_path):
    s = stub(fail=lambda n: True)
    trace = write(tmp_path / "t.jsonl", [request(0, [i], 100) for i in range(400)])
    code, summary, _ = replay(trace, s, tmp_path / "out", "--speed", "0", "--concurrency", "2")
    assert code == 1 and summary["requests"] == 0
    assert 20 <= summary["failed"] < 400


def sessions(*args):
    r = subprocess.run([sys.executable, ROOT / "scripts/make_sessions.py", *args], capture_output=True, check=True, timeout=60)
    return r.stdout


def test_sessions_are_the_same_again_and_as_long_as_was_asked():
    text = sessions("--seed", "5", "--sessions", "20")
    assert text == sessions("--seed", "5", "--sessions", "20") != sessions("--seed", "6", "--sessions", "20")
    requests = [json.loads(line) for line in text.splitlines()]
    assert all(len(r["hash_ids"]) == -(-r["input_length"] // 512) for r in requests)
    assert [r["timestamp"] for r in requests] == sorted(r["timestamp"] for r in requests)
    longest = max(r["input_length"] for r in requests)
    assert 500_000 < longest < 1_100_000
    assert len({i for r in requests for i in r["hash_ids"]}) < 0.6 * sum(len(r["hash_ids"]) for r in requests), "turns go on"


def test_the_small_trace_is_what_the_script_makes():
    assert sessions("--small") == (ROOT / "tests/golden/sessions.jsonl").read_bytes()
