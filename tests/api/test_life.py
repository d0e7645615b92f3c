"""What happens to a server: vanishing clients, a dying engine, draining."""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from conftest import BINARY, SLOW

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


def test_a_stream_has_its_headers_while_its_prompt_is_computed(start):
    s = start(*SLOW_MODEL)
    made = s.metrics()["hearth_generated_tokens_total"]
    k = send(s, {"prompt": [i * 17 % 40000 for i in range(7000)], "max_tokens": 2, "stream": True})
    data = k.recv(65536)
    assert data.startswith(b"HTTP/1.1 200 ") and b"text/event-stream" in data and b"data:" not in data
    assert s.metrics()["hearth_generated_tokens_total"] == made
    k.close()


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_vanished_client_costs_two_steps_at_most(start, how):
    """In the queue none, in prefill and decode the step under way and perhaps the next."""
    s = start(*SLOW_MODEL, "--set", "sched.max_seqs=1", "--set", "sched.max_batch_tokens=64")

    def vanish(k):
        if how == "rst":
            k.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        before = s.metrics()["hearth_steps_total"]
        k.close()
        return before

    decoding = send(s, {**LONG, "stream": True})
    s.metric_until("hearth_generated_tokens_total", lambda v: v > 3)
    queued = send(s, {"prompt": [5] * 3000, "max_tokens": 1})
    s.metric_until("hearth_requests_waiting", lambda v: v == 1)
    vanish(queued)
    s.metric_until("hearth_requests_waiting", lambda v: v == 0)
    before = vanish(decoding)
    idle(s)
    assert s.metrics()["hearth_steps_total"] - before <= 3  # one more: metrics were read before
    rows = s.metrics()["hearth_step_tokens_total"]
    prefilling = send(s, {"prompt": [7] * 4000, "max_tokens": 1})
    s.metric_until("hearth_step_tokens_total", lambda v: v > rows + 100)
    before = vanish(prefilling)
    idle(s)
    assert s.metrics()["hearth_steps_total"] - before <= 3
    assert s.metrics()["hearth_step_tokens_total"] < rows + 4000


def test_a_slow_reader_pauses_itself_alone(server):
    """Nobody reads: the request stops a credit ahead of what the ring and the socket took, others go on, nothing is lost."""
    body = {**LONG, "logprobs": 20, "prompt": "slow", "seed": 2, "max_tokens": 1990}
    before = server.metrics()
    k = socket.socket()
    k.settimeout(60 * SLOW)
    k.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    k.connect(("127.0.0.1", server.port))
    data = json.dumps({**body, "stream": True}).encode()
    k.sendall(b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    generated = "hearth_generated_tokens_total"
    server.metric_until(generated, lambda v: v >= before[generated] + 1024)
    for _ in range(20):  # far more steps than it would need
        server.complete(prompt="quick", max_tokens=100, ignore_eos=True)
    now = server.metrics()
    assert now["hearth_requests_running"] == 1 and now[generated] - before[generated] < 2000 + 1800
    raw = b""
    while chunk := k.recv(65536):
        raw += chunk
    events = raw.split(b"\r\n\r\n", 1)[1].decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    choices = [json.loads(e[6:])["choices"][0] for e in events[:-2]]
    whole = server.complete(**body)["choices"][0]
    assert "".join(c["text"] for c in choices) == whole["text"]
    assert sum((c["logprobs"]["token_logprobs"] for c in choices if c["logprobs"]), []) == whole["logprobs"]["token_logprobs"]
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
    bodies = [{"prompt": f"story {i}", "max_tokens": 60 if SLOW == 1 else 30, "ignore_eos": True, "seed": i, "temperature": 0 if i % 2 else 0.9,
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


def test_ready_means_that_a_token_was_made(start):
    s = start(*TINY)
    assert s.metrics()["hearth_generated_tokens_total"] == 1


def test_ready_says_when_the_engine_restarts(start):
    s = start(*SLOW_MODEL, "--set", "engine.mode=exec")
    os.kill(s.engine_pid(), signal.SIGKILL)

    def refusal():
        r, raw = s.request("GET", "/ready")
        return r.status == 503 and r.headers["retry-after-ms"] and json.loads(raw)["error"]["code"]
    assert s.until(refusal) == "restarting" and s.request("GET", "/health")[0].status == 200
    assert s.complete(prompt="waits", max_tokens=2, ignore_eos=True)["usage"]["completion_tokens"] == 2
    assert s.request("GET", "/ready")[0].status == 200


def kill_engine(server, running):
    """Once it computes so many sequences."""
    before = server.metrics()["hearth_engine_restarts_total"]
    server.until(lambda: server.metrics()["hearth_load_percent"] == 100 and server.metrics()["hearth_requests_running"] == running)
    os.kill(server.engine_pid(), signal.SIGKILL)
    return before + 1


def ended_with(code, status, streamed, whole):
    """A stream and a whole answer end well-formed with an error."""
    def rest(k):
        data = b""
        while chunk := k.recv(65536):
            data += chunk
            if data.endswith((b"0\r\n\r\n", b"}")):
                break
        k.close()
        return data
    stream, answer = rest(streamed), rest(whole)
    last = [line for line in stream.split(b"\n") if line.startswith(b"data: ")][-1]
    assert json.loads(last[6:])["error"]["code"] == code and b"[DONE]" not in stream and stream.endswith(b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status) and json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == code
    return answer


def test_requests_that_two_engines_died_with_fail_and_the_server_goes_on(start):
    s = start(*SLOW_MODEL, "--set", "engine.mode=exec")
    streamed, whole = send(s, {**LONG, "stream": True, "logit_bias": {"97": 100}}), send(s, LONG)
    s.metric_until("hearth_engine_restarts_total", lambda v, n=kill_engine(s, 2): v == n)
    later = send(s, {"prompt": "later", "max_tokens": 100, "ignore_eos": True, "seed": 3})
    s.metric_until("hearth_engine_restarts_total", lambda v, n=kill_engine(s, 3): v == n)
    answer = ended_with("engine_died", 500, streamed, whole)
    assert b"x-should-retry: false" in answer.lower() and s.text().count("engine suspect") == 2
    data = b""
    while not data.endswith(b"}"):
        data += later.recv(65536)
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["usage"]["completion_tokens"] == 100
    assert s.metrics()["hearth_engine_restarts_total"] == 2 and s.request("GET", "/ready")[0].status == 200
    later.close()


def test_clients_of_an_engine_that_is_given_up_get_an_error_and_the_server_ends(start):
    s = start(*SLOW_MODEL, "--set", "engine.mode=exec")
    s.metric_until("hearth_engine_restarts_total", lambda v, n=kill_engine(s, 0): v == n)
    s.metric_until("hearth_engine_restarts_total", lambda v, n=kill_engine(s, 0): v == n)
    streamed, whole = send(s, {**LONG, "stream": True, "logit_bias": {"97": 100}}), send(s, LONG)
    kill_engine(s, 2)
    ended_with("engine_dead", 503, streamed, whole)
    assert s.proc.wait(20 * SLOW) == 1 and "3 times within 60 s" in s.text()


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
    told = json.loads(s.request("GET", "/ready")[1])
    assert told["running"] == 1 and told["waiting"] == 0 and told["kv_tokens_used"] == 64 < told["kv_tokens"]
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


def test_a_drain_waits_no_longer_than_it_is_told(start):
    s = start(*TINY, "--set", "drain.timeout=1s")
    k = send(s, {**LONG, "stream": True, "logprobs": 20})  # nobody reads: it would wait for ever
    s.metric_until("hearth_requests_running", lambda v: v == 1)
    begin = time.monotonic()
    s.proc.send_signal(signal.SIGTERM)
    assert s.proc.wait(20 * SLOW) == 0 and time.monotonic() - begin >= 1
    k.close()


def test_a_second_signal_ends_at_once(start):
    s = start(*SLOW_MODEL)
    k = send(s, {**LONG, "stream": True})
    s.metric_until("hearth_requests_running", lambda v: v == 1)
    s.proc.send_signal(signal.SIGTERM)
    s.until(lambda: s.request("GET", "/ready")[0].status == 503)
    s.proc.send_signal(signal.SIGTERM)
    assert s.proc.wait(15 * SLOW) == 0
    k.close()


def test_text_that_is_still_being_read_does_not_hold_up_the_end(start):
    s = start(*TINY)
    socks = [send(s, {"prompt": "x" * 3000000, "max_tokens": 1}, path) for path in ("/tokenize", "/v1/completions") * 4]
    s.metric_until("hearth_http_requests_open", lambda v: v > len(socks))  # its own request, too
    s.proc.send_signal(signal.SIGTERM)
    s.proc.send_signal(signal.SIGINT)
    assert s.proc.wait(15 * SLOW) == 0
    for k in socks:
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


class Manager:
    """What systemd hears."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def hears(self, what, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if what in self.socket.recv(4096).decode().split("\n"):
                    return True
            except TimeoutError:
                pass
        return False


def test_ready_is_told_to_the_service_manager(start, tmp_path):
    m = Manager(tmp_path)
    s = start(*TINY, env={"NOTIFY_SOCKET": m.path})
    assert m.hears("READY=1", 20 * SLOW)
    s.proc.send_signal(signal.SIGTERM)
    assert m.hears("STOPPING=1", 20 * SLOW)
    assert s.proc.wait(20 * SLOW) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_the_watchdog_hears_of_an_engine_that_lives_and_of_no_other(start, tmp_path, busy):
    m = Manager(tmp_path)
    s = start(*TINY, "--set", "engine.mode=exec", env={"NOTIFY_SOCKET": m.path, "WATCHDOG_USEC": "4000000"})
    assert m.hears("WATCHDOG=1", 20 * SLOW)
    k = send(s, LONG) if busy else None
    pid = s.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        m.hears("WATCHDOG=1", 1.5)  # of what it did before
        assert not m.hears("WATCHDOG=1", 2.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert m.hears("WATCHDOG=1", 20 * SLOW)
    if k:
        k.close()


def handed(host, tmp_path, *args):
    """hearthd with a listening socket as descriptor 3, as systemd gives it."""
    listener = socket.create_server((host, 0))
    env = {**os.environ, "LISTEN_FDS": "1"}
    launch = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", launch, str(listener.fileno()), BINARY, *TINY, *args]
    log = open(tmp_path / "log", "w+")
    proc = subprocess.Popen(command, env=env, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=log)
    return proc, listener, log


def test_sockets_of_systemd_are_served(tmp_path):
    proc, listener, log = handed("127.0.0.1", tmp_path)
    port = listener.getsockname()[1]
    try:
        assert f"http://127.0.0.1:{port} ".encode() in proc.stdout.readline()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        c.request("GET", "/ready")
        assert c.getresponse().status == 200
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(20 * SLOW) == 0
    finally:
        proc.kill()
        proc.wait()
        proc.stdout.close()
        listener.close()


def test_a_public_socket_of_systemd_needs_keys(tmp_path):
    proc, listener, log = handed("0.0.0.0", tmp_path)
    try:
        assert proc.wait(20 * SLOW) == 1
        log.seek(0)
        assert "no API keys" in log.read()
    finally:
        proc.kill()
        proc.wait()
        proc.stdout.close()
        listener.close()
