"""What happens to a server: vanishing clients, a dying engine, draining."""
import json
import os
import signal
import socket
import threading
import time

import pytest

from conftest import SLOW

TINY = ["--set", "model.random=tiny", "--set", "kv.bytes=4MiB"]
SLOW_MODEL = ["--set", "model.random=smollm2-135m", "--set", "kv.bytes=256MiB"]
LONG = {"prompt": "x", "max_tokens": 1900, "ignore_eos": True}


def send(server, body, path="/v1/completions"):
    k = socket.create_connection(("127.0.0.1", server.port), timeout=30 * SLOW)
    data = json.dumps(body).encode()
    k.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
    return k


def idle(server):
    server.metric_until("hearth_requests_running", lambda v: v == 0)
    server.metric_until("hearth_requests_waiting", lambda v: v == 0)
    server.metric_until('hearth_kv_blocks{state="used"}', lambda v: v == 0)


@pytest.mark.parametrize("how", ["fin", "half", "rst"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_vanished_client_frees_its_blocks_in_every_state(server, how, stream):
    for wait in (False, True):  # at once (perhaps still being read or queued), and while it decodes
        k = send(server, {**LONG, "stream": stream})
        if wait:
            server.metric_until("hearth_requests_running", lambda v: v >= 1)
        if how == "rst":
            k.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how == "half":
            k.shutdown(socket.SHUT_WR)
        else:
            k.close()
        idle(server)
        k.close()


def test_a_cancelled_prefill_stays_cached(start):
    s = start(*SLOW_MODEL)
    prompt = [i * 17 % 40000 for i in range(3000)]
    k = send(s, {"prompt": prompt, "max_tokens": 5})
    s.metric_until("hearth_step_tokens_total", lambda v: v > 600)
    k.close()
    idle(s)
    computed = s.metrics()["hearth_step_tokens_total"]
    assert computed < 3000, "the prefill ran to its end: nothing was cancelled"
    r = s.complete(prompt=prompt[:400], max_tokens=1)
    assert r["usage"]["prompt_tokens_details"]["cached_tokens"] == 384


def test_a_slow_reader_pauses_itself_alone(server):
    k = send(server, {**LONG, "max_tokens": 1900, "stream": True, "logprobs": 20, "n": 4, "prompt": "slow"})
    k.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(5):
        server.complete(prompt="quick", max_tokens=20, ignore_eos=True)
    k.close()
    idle(server)


def test_pipelined_requests_are_answered_in_order(server):
    k = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    one = json.dumps({"prompt": "p", "max_tokens": 30, "ignore_eos": True}).encode()
    k.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-request-id: first\r\nContent-Length: %d\r\n\r\n" % len(one) + one +
              b"GET /health HTTP/1.1\r\nHost: x\r\nx-request-id: second\r\nConnection: close\r\n\r\n")
    data = b""
    while chunk := k.recv(65536):
        data += chunk
    assert data.count(b"HTTP/1.1 200") == 2 and data.index(b"first") < data.index(b"second")


def test_streams_outlive_the_engine(start):
    s = start(*SLOW_MODEL, "--set", "engine.mode=exec")
    bodies = [{"prompt": f"story {i}", "max_tokens": 60, "ignore_eos": True, "seed": i, "temperature": 0 if i % 2 else 0.9,
               "frequency_penalty": 0.4, "n": 1 + i % 3} for i in range(4)]
    calm = [[c["text"] for c in s.complete(**b)["choices"]] for b in bodies]
    got = [None] * len(bodies)

    def run(i):
        events = s.events("/v1/completions", bodies[i])
        texts = [""] * bodies[i]["n"]
        for e in events:
            texts[e["choices"][0]["index"]] += e["choices"][0]["text"]
        got[i] = texts

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(bodies))]
    before = s.metrics()["hearth_generated_tokens_total"]
    for t in threads:
        t.start()
    s.metric_until("hearth_generated_tokens_total", lambda v: v > before + 20)
    os.kill(s.engine_pid(), signal.SIGKILL)
    for t in threads:
        t.join(120 * SLOW)
    assert got == calm
    assert s.metrics()["hearth_engine_restarts_total"] == 1
    assert "engine restart" in s.text()


def test_an_engine_that_keeps_dying_is_given_up_with_a_reason(start):
    s = start(*TINY, "--set", "engine.mode=exec")
    for i in range(3):
        os.kill(s.engine_pid(), signal.SIGKILL)
        if i < 2:
            s.metric_until("hearth_engine_restarts_total", lambda v, i=i: v == i + 1)
            s.metric_until("hearth_load_percent", lambda v: v == 100)
    s.proc.wait(20 * SLOW)
    assert s.proc.returncode == 1 and "3 times within 60 s" in s.text()


def test_drain_finishes_what_runs_and_refuses_what_comes(start):
    s = start(*SLOW_MODEL)
    k = send(s, {"prompt": "x", "max_tokens": 50, "stream": True, "logit_bias": {"97": 100}})  # "a": text
    s.metric_until("hearth_generated_tokens_total", lambda v: v > 3)
    s.proc.send_signal(signal.SIGTERM)
    end = time.monotonic() + 20
    while s.request("GET", "/ready")[0].status == 200 and time.monotonic() < end:
        time.sleep(0.02)
    r, raw = s.request("POST", "/v1/completions", {"prompt": "y"})
    assert r.status == 503 and json.loads(raw)["error"]["code"] == "draining" and r.headers["connection"] == "close"
    data = b""
    while chunk := k.recv(65536):
        data += chunk
    assert data.endswith(b"0\r\n\r\n") and b"data: [DONE]" in data and data.count(b'"text":') >= 40
    assert s.proc.wait(20 * SLOW) == 0


def test_a_second_signal_ends_at_once(start):
    s = start(*SLOW_MODEL)
    k = send(s, {**LONG, "stream": True})
    s.metric_until("hearth_requests_running", lambda v: v == 1)
    s.proc.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    s.proc.send_signal(signal.SIGTERM)
    assert s.proc.wait(15 * SLOW) == 0
    k.close()


def test_loading_is_said_with_percent(start):
    s = start("--set", "model.random=llama-1b", "--set", "kv.bytes=64MiB", ready=False)
    end, port = time.monotonic() + 20, None
    while not port and time.monotonic() < end:  # the port is open long before the weights are there
        for line in open(f"/proc/{s.proc.pid}/net/tcp"):
            f = line.split()
            if f[3] == "0A" and f[9] in {os.readlink(f"/proc/{s.proc.pid}/fd/{n}")[8:-1]
                                         for n in os.listdir(f"/proc/{s.proc.pid}/fd")
                                         if os.readlink(f"/proc/{s.proc.pid}/fd/{n}").startswith("socket:")}:
                port = int(f[1].split(":")[1], 16)
        time.sleep(0.01)
    s.port = port
    r, raw = s.request("GET", "/ready")
    assert r.status == 503 and "loading" in raw.decode() and "%" in raw.decode() and r.headers["retry-after"]
    assert s.request("GET", "/health")[0].status == 200


def test_ready_is_told_to_the_service_manager(start, tmp_path):
    path = str(tmp_path / "notify")
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    n.bind(path)
    n.settimeout(30)
    s = start(*TINY, env={"NOTIFY_SOCKET": path})
    said = n.recv(4096).decode()
    while "READY=1" not in said:
        said = n.recv(4096).decode()
    s.proc.send_signal(signal.SIGTERM)
    while "STOPPING=1" not in said:
        said = n.recv(4096).decode()
    assert s.proc.wait(20) == 0
