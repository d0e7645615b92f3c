"""Errors, limits, hostile values, small routes, keys."""
import hashlib
import json
import re
import signal
import socket
import threading
import time

import openai
import pytest

from conftest import SLOW

TINY = ["--set", "model.random=tiny", "--set", "kv.bytes=4MiB"]
HOSTILE = [0, -1, 1, 2**31, 2**31 - 1, -2**31, 2**32, 2**63, 2**64, -2**63, 1e308, -1e308, 1e-308, 0.5, 1.5, -0.0, 5.0, 1e5,
           "", "1", "NaN", "Infinity", "\u0000", "a" * 1000, "\ud83d\ude00", True, False, [], [1], [[]], ["a"], [None],
           [1e308], [2**40], {}, {"a": 1}, {"1": 2}, {"-1": 1}, {"99999999999": 1}, {"97": "x"}]
FIELDS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
          "max_tokens", "min_tokens", "n", "best_of", "priority", "stream", "logprobs", "echo", "ignore_eos", "stop",
          "stop_token_ids", "logit_bias", "stream_options", "prompt", "model", "cache_salt", "response_format",
          "skip_special_tokens", "return_progress", "top_logprobs", "user"]


MESSAGES = [{"role": "user", "content": "x"}]
ROUTES = {"/v1/completions": ({"prompt": "x", "max_tokens": 2}, FIELDS),
          "/v1/chat/completions": ({"messages": MESSAGES, "max_tokens": 2},
                                   [f for f in FIELDS if f not in ("prompt", "echo", "best_of")] +
                                   ["messages", "max_completion_tokens", "tools", "tool_choice", "functions", "modalities", "audio",
                                    "chat_template_kwargs", "reasoning_effort", "service_tier", "add_generation_prompt",
                                    "continue_final_message", "return_token_ids", "parallel_tool_calls"]),
          "/tokenize": ({"prompt": "x"}, ["prompt", "content", "model", "add_special_tokens"]),
          "/detokenize": ({"tokens": [1]}, ["tokens", "model", "skip_special_tokens"])}


@pytest.mark.parametrize("path", ROUTES)
def test_hostile_values_cost_only_their_sender(server, path):
    valid, fields = ROUTES[path]
    worst, refused = 0, 0
    for field in fields:
        for value in HOSTILE:
            body = json.dumps({**valid, field: value}).encode("utf-8", "surrogatepass")
            start = time.monotonic()
            r, raw = server.request("POST", path, body)
            worst = max(worst, time.monotonic() - start)
            assert r.status in (200, 400, 404), (field, value, r.status, raw)
            if r.status >= 400:
                refused += 1
                error = json.loads(raw)["error"]
                assert isinstance(error["code"], str) and isinstance(error["type"], str) and error["message"]
                assert not any(s in error["message"] for s in ("0x", ".c:", "/home", "/usr"))
    assert refused > len(fields) * len(HOSTILE) // 3 and worst < 5
    assert server.request("GET", "/health")[0].status == 200


@pytest.mark.parametrize("body, offset", [(b"", 0), (b"{", 1), (b'{"a":1,}', 7), (b'{"a":1,"a":2}', 7), (b'{"prompt":"\xff"}', 11),
                                          (b"[" * 1000, 64), (b'{"prompt":01}', 11)])
def test_json_errors_give_the_byte(server, body, offset):
    status, answer = server.post("/v1/completions", body)
    assert status == 400 and answer["error"]["code"] == "invalid_json"
    assert f"byte {offset}" in answer["error"]["message"]


@pytest.mark.parametrize("field, value", [
    ("tools", [{"type": "function", "function": {"name": "f"}}]), ("functions", [{"name": "f"}]),
    ("tool_choice", "required"), ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}), ("modalities", ["audio"])])
def test_what_is_not_there_yet_is_named(server, field, value):
    status, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], field: value})
    assert status == 400 and answer["error"]["param"] == field and answer["error"]["code"] == "unsupported_parameter"


@pytest.mark.parametrize("messages, param", [
    (None, "messages"), ([], "messages"), ("hi", "messages"), ([1], "messages[0]"), ([{}], "messages[0].role"),
    ([{"role": "robot", "content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
     "messages[1].content")])
def test_bad_messages_are_named(server, messages, param):
    body = {} if messages is None else {"messages": messages}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 400 and answer["error"]["param"] == param


def test_parts_of_text_are_joined_and_developer_is_system(server):
    def ids(messages):
        r = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1, "return_token_ids": True})
        assert r[0] == 200, r
        return r[1]["prompt_token_ids"]
    assert ids([{"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]}]) == \
        ids([{"role": "user", "content": "abc"}])
    assert ids([{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]) == \
        ids([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


def test_typed_control_tokens_stay_text(server):
    r = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "<|im_start|>system"}], "max_tokens": 1,
                                             "return_token_ids": True})[1]
    assert r["prompt_token_ids"].count(257) == 2  # of the template: the user's turn and the answer's


def test_fields_of_the_sdk_are_taken_and_a_tier_is_named(server):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "service_tier": "flex", "reasoning_effort": "low",
            "verbosity": "low", "store": True, "metadata": {"a": "b"}, "user": "u", "parallel_tool_calls": False,
            "prompt_cache_key": "k", "safety_identifier": "s", "tools": [], "tool_choice": "none", "modalities": ["text"]}
    r, raw = server.request("POST", "/v1/chat/completions", body)
    assert r.status == 200 and json.loads(raw)["service_tier"] == "flex" and "x-ignored-params" not in r.headers
    assert server.post("/v1/chat/completions", {**body, "service_tier": "auto"})[1]["service_tier"] == "default"
    assert server.post("/v1/chat/completions", {**body, "service_tier": "gold"})[1]["error"]["param"] == "service_tier"
    assert server.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"messages": "x"}})[0] == 400


def test_unknown_fields_are_listed_not_refused(server):
    r, _ = server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1, "frobnicate": 1, "user": "u"})
    assert r.status == 200 and "frobnicate" in r.headers["x-ignored-params"]


def test_small_routes(server):
    r, raw = server.request("GET", "/version")
    assert r.status == 200 and json.loads(raw)["version"]
    r, raw = server.request("GET", "/v1/models/nothing")
    assert r.status == 404 and "tiny" in json.loads(raw)["error"]["message"]
    assert server.request("GET", "/nowhere")[0].status == 404
    for method, path, allow in (("GET", "/v1/completions", "POST"), ("POST", "/health", "GET"), ("DELETE", "/v1/models/tiny", "GET")):
        r, raw = server.request(method, path)
        assert r.status == 405 and r.headers["allow"] == allow and json.loads(raw)["error"]["code"] == "method_not_allowed"
    r, raw = server.request("HEAD", "/health")
    assert r.status == 200 and raw == b""
    r, _ = server.request("GET", "/health", headers={"x-request-id": "mine-1"})
    assert r.headers["x-request-id"] == "mine-1"
    status, t = server.post("/tokenize", {"prompt": "h\u00e9llo"})
    assert status == 200 and t["count"] == 6 == len(t["tokens"])
    status, d = server.post("/detokenize", {"tokens": t["tokens"]})
    assert status == 200 and d["prompt"] == "h\u00e9llo"
    assert server.post("/detokenize", {"tokens": [-1]})[0] == 400
    shown = server.post("/detokenize", {"tokens": [257, 97, 256]})[1]["prompt"]
    hidden = server.post("/detokenize", {"tokens": [257, 97, 256], "skip_special_tokens": True})[1]["prompt"]
    assert (shown, hidden) == ("<|im_start|>a<|endoftext|>", "a")


# Prometheus' text format 0.0.4: HELP and TYPE once before a family's samples, which stand together
SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*")*)\})? '
                    r'([-+0-9.eE]+|NaN|[-+]?Inf)$')


def families(text):
    """{name: (type, {labels and suffix: value})}, with the format checked."""
    out, current = {}, None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in out and len(line.split(" ", 3)) == 4
            out[current] = [None, {}]
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == current and line.split(" ")[3] in ("counter", "gauge", "histogram")
            out[current][0] = line.split(" ")[3]
        else:
            m = SAMPLE.match(line)
            assert m, line
            suffix = m[1][len(current):]
            assert m[1].startswith(current) and suffix in (("_bucket", "_sum", "_count") if out[current][0] == "histogram" else ("",))
            key = (suffix, m[2] or "")
            assert key not in out[current][1], line
            out[current][1][key] = float(m[3])
    for name, (kind, samples) in out.items():
        assert samples and (kind != "counter" or name.endswith("_total")), name
        if kind == "histogram":
            buckets = [v for (suffix, _), v in samples.items() if suffix == "_bucket"]
            labels = [le for suffix, le in samples if suffix == "_bucket"]
            assert buckets == sorted(buckets) and 'le="+Inf"' in labels[-1]
            assert buckets[-1] == next(v for (suffix, _), v in samples.items() if suffix == "_count")
    return out


def test_every_metric_keeps_the_format_and_vllms_names_come_when_asked(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "metrics.compat=vllm", "--alias", 'a"b\\c')
    s.complete(prompt=list(range(200)), max_tokens=5, ignore_eos=True)
    s.complete(prompt=list(range(200)), max_tokens=5, ignore_eos=True)
    all_ = families(s.request("GET", "/metrics")[1].decode())
    vllm = {n: v for n, v in all_.items() if n.startswith("vllm:")}
    assert not set(all_) - set(vllm) - {n for n in all_ if n.startswith("hearth_")}
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
                 "prefix_cache_hits_total", "time_to_first_token_seconds", "inter_token_latency_seconds",
                 "e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds",
                 "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
                 "request_generation_tokens", "request_prefill_kv_computed_tokens", "prompt_tokens_by_source_total",
                 "num_preemptions_total", "request_success_total"):
        assert all('model_name="a\\"b\\\\c"' in labels for _, labels in vllm["vllm:" + name][1]), name
    assert sum(v for v in vllm["vllm:prefix_cache_hits_total"][1].values()) == 192
    assert 'le="7200"' in str(all_["hearth_request_seconds"][1].keys())


def test_metrics_are_prometheus_text(server):
    r, raw = server.request("GET", "/metrics")
    assert r.status == 200 and r.headers["content-type"].startswith("text/plain; version=0.0.4")
    before = server.metrics()
    server.complete(prompt="count me", max_tokens=7, ignore_eos=True)
    after = server.metrics()
    assert after["hearth_generated_tokens_total"] - before["hearth_generated_tokens_total"] == 7
    assert after["hearth_prompt_tokens_total"] - before["hearth_prompt_tokens_total"] == 8
    assert after['hearth_http_requests_total{code="2xx"}'] > before['hearth_http_requests_total{code="2xx"}']
    assert after["hearth_time_to_first_token_seconds_count"] - before["hearth_time_to_first_token_seconds_count"] == 1
    assert after['hearth_time_to_first_token_seconds_bucket{le="+Inf"}'] == after["hearth_time_to_first_token_seconds_count"]


def test_answers_are_counted_by_their_class(server):
    def classes():
        return {c: server.metrics()[f'hearth_http_requests_total{{code="{c}"}}'] for c in ("2xx", "4xx", "5xx")}
    before = classes()
    server.request("GET", "/nowhere")
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
    after = classes()
    assert after["4xx"] - before["4xx"] == 1 and after["5xx"] == before["5xx"]
    assert after["2xx"] - before["2xx"] == 4  # three times the metrics before, and the completion


def test_each_request_is_counted_once_and_by_how_it_ended(server):
    def told():
        m = server.metrics()
        finished = {reason: m[f'hearth_requests_finished_total{{reason="{reason}"}}'] for reason in ("stop", "length", "cancelled", "error")}
        return {**finished, "e2e": m["hearth_request_seconds_count"], "prompts": m["hearth_request_prompt_tokens_count"],
                "sum": m["hearth_request_generated_tokens_sum"]}
    for body, want in [({"max_tokens": 5}, {"length": 1, "e2e": 1, "prompts": 1, "sum": 5}),
                       ({"max_tokens": 5, "n": 2}, {"length": 2, "e2e": 1, "prompts": 1, "sum": 10}),
                       ({"max_tokens": 5, "stop_token_ids": [97]}, {"stop": 1, "e2e": 1, "prompts": 1}),
                       ({"max_tokens": 5, "stop": "aa"}, {"stop": 1, "e2e": 1, "prompts": 1, "sum": 2}),
                       ({"max_tokens": 5, "stream": True}, {"length": 1, "e2e": 1, "prompts": 1, "sum": 5}),
                       ({"max_tokens": 0}, {})]:
        before = told()
        server.request("POST", "/v1/completions", {"prompt": "once", "logit_bias": {"97": 100}, **body})
        server.until(lambda: told()["e2e"] - before["e2e"] == want.get("e2e", 0))
        after = told()
        assert {k: after[k] - before[k] for k in after if after[k] != before[k]} == want, body


def test_a_full_queue_answers_429_at_once(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", "--set", "sched.max_seqs=1", "--set", "sched.max_queued=2",
              "--set", "engine.mode=thread")
    body = json.dumps({"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}).encode()
    socks = []
    for _ in range(3):
        k = socket.create_connection(("127.0.0.1", s.port))
        k.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        socks.append(k)
    s.metric_until("hearth_requests_waiting", lambda v: v == 2)
    r, raw = s.request("POST", "/v1/completions", {"prompt": "y", "max_tokens": 1})
    assert r.status == 429 and json.loads(raw)["error"]["code"] == "queue_full"
    assert 0 < int(r.headers["retry-after-ms"]) <= 120000 and int(r.headers["retry-after"]) >= 1
    for k in socks:
        k.close()
    s.metric_until("hearth_requests_waiting", lambda v: v == 0)
    assert s.complete(prompt="y", max_tokens=1)["usage"]["completion_tokens"] <= 1


def test_limits_of_the_configuration_hold(start):
    limits = {"header_time": "1s", "body_time": "1s", "idle": "1s", "max_connections": 6, "header_count": 12, "header_bytes": "2KiB",
              "max_body": "1KiB"}
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", *(a for k, v in limits.items() for a in ("--set", f"http.{k}={v}")))

    def connect(data):
        k = socket.create_connection(("127.0.0.1", s.port), timeout=20)
        k.sendall(data)
        return k

    def rest(k):
        data = b""
        while chunk := k.recv(65536):
            data += chunk
        return data
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    post = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{"
    assert rest(connect(head + b"a: b\r\n" * 12 + b"\r\n")).startswith(b"HTTP/1.1 431")
    assert rest(connect(head + b"a: %s\r\n\r\n" % (b"b" * 2100))).startswith(b"HTTP/1.1 431")
    assert rest(connect(post.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % 1025 + b" " * 1024)).startswith(b"HTTP/1.1 413")
    begin = time.monotonic()
    idle, half_head, half_body = connect(head + b"\r\n"), connect(head), connect(post % 100)
    others = [connect(head) for _ in range(3)]
    seventh = rest(connect(b""))
    assert seventh.startswith(b"HTTP/1.1 503") and b'"overloaded"' in seventh and b"too many connections" in seventh
    assert [rest(k)[:12] for k in (idle, half_head, half_body)] == [b"HTTP/1.1 200", b"HTTP/1.1 408", b"HTTP/1.1 408"]
    assert 0.9 < time.monotonic() - begin < 10 * SLOW
    for k in others:
        k.close()


def test_memory_of_bodies_comes_back(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", "--set", "http.max_body=16KiB", "--set", "http.body_memory=20KiB")
    for _ in range(10):  # each takes 4 KiB for a moment
        assert s.complete(prompt="x", max_tokens=1)["choices"]
        assert s.post("/tokenize", {"prompt": "x"})[0] == 200
        assert s.request("POST", "/v1/completions", b"{")[0].status == 400


def test_an_answer_that_nobody_reads_waits_in_any_ring(start):
    """The engine is done long before the client reads: nothing is lost, whatever the ring holds."""
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=16MiB", "--set", "http.stream_bytes=4KiB")
    body = {"prompt": "\u0001" * 400, "echo": True, "max_tokens": 300, "ignore_eos": True, "n": 24, "seed": 5}
    whole = s.complete(**body)
    done = 'hearth_requests_finished_total{reason="length"}'
    before = s.metrics()[done]
    k = socket.socket()
    k.settimeout(60 * SLOW)
    k.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    k.connect(("127.0.0.1", s.port))
    data = json.dumps({**body, "stream": True}).encode()
    k.sendall(b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    s.metric_until(done, lambda v: v == before + 24)
    raw = b""
    while chunk := k.recv(65536):
        raw += chunk
    events = raw.split(b"\r\n\r\n", 1)[1].decode().split("\n\n")
    assert events.pop() == "" and events.pop() == "data: [DONE]"
    texts = [""] * 24
    for e in events:
        c = json.loads(e[6:])["choices"][0]
        texts[c["index"]] += c["text"]
    assert texts == [c["text"] for c in whole["choices"]] and texts[0].startswith("\u0001" * 400)


def test_a_long_text_is_cut_between_characters(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "http.stream_bytes=4KiB")  # pieces of 256 bytes
    for text in ("\u65e5" * 600, "a" + "\U0001f600" * 400, "ab" + "\u00e9" * 800):
        body = {"prompt": text, "echo": True, "max_tokens": 1, "logit_bias": {"97": 100}, "frobnicate": 1}
        events = s.events("/v1/completions", body)
        assert len(events) > 5 and "".join(e["choices"][0]["text"] for e in events) == text + "a"
    r, _ = s.request("POST", "/v1/completions", {**body, "stream": True})
    assert r.headers["x-ignored-params"] == "frobnicate"  # of streams too


def test_one_access_line_tells_of_each_request(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB")
    s.complete(prompt=[5] * 100, max_tokens=1)
    s.request("POST", "/v1/completions", {"prompt": [5] * 100, "max_tokens": 7, "n": 2, "ignore_eos": True, "stream": True},
              headers={"x-request-id": "told"})
    s.request("GET", "/health", headers={"x-request-id": "told"})
    s.until(lambda: "path=/health" in s.text())
    lines = [line for line in s.text().splitlines() if "http access" in line and "id=told " in line]
    assert len(lines) == 2 and "path=/v1/completions status=200 end=done " in lines[0] and " method=GET path=/health " in lines[1]
    assert lines[0].endswith(" prompt_tokens=100 cached_tokens=64 completion_tokens=14 n=2 stream=1")


def test_defaults_of_the_configuration_bend_to_the_context(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "sampling.max_tokens=100", "--set", "sampling.top_k=1")
    def tokens(n, **kw):
        return s.complete(prompt=[7] * n, ignore_eos=True, **kw)["usage"]["completion_tokens"]
    assert (tokens(5), tokens(5, max_tokens=200), tokens(2018)) == (100, 200, 30)
    assert s.complete(prompt=[7], ignore_eos=True)["choices"] == s.complete(prompt=[7], ignore_eos=True)["choices"]  # greedy


def test_names_and_seed_of_the_configuration_hold(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "model.alias=first,second", "--set", "seed=5")
    body = {"prompt": "x", "max_tokens": 20, "ignore_eos": True, "return_token_ids": True}
    ids = [s.complete(**body, **kw)["choices"][0]["token_ids"] for kw in ({}, {}, {"seed": 5}, {"seed": 6}, {"n": 2})]
    assert ids[0] == ids[1] == ids[2] == ids[4] != ids[3]
    assert [m.id for m in s.client().models.list()] == ["first", "second"]
    assert [s.complete(**body, **kw)["model"] for kw in ({}, {"model": "second"}, {"model": None})] == ["first", "second", "first"]
    status, r = s.post("/v1/completions", {**body, "model": "firs"})
    assert status == 404 and r["error"]["type"] == "not_found_error" and "first, second" in r["error"]["message"]


def test_a_fingerprint_tells_models_apart_and_nothing_else(start):
    marks = [start("--set", f"model.random={shape}", "--set", f"kv.bytes={size}").complete(prompt="x", max_tokens=1)["system_fingerprint"]
             for shape, size in (("tiny", "4MiB"), ("tiny", "4MiB"), ("tiny:2", "4MiB"))]
    assert marks[0] == marks[1] != marks[2]


def test_a_need_above_the_pool_is_named_with_both_numbers(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", "--set", "kv.format=kv32")
    context = json.loads(s.request("GET", "/ready")[1])["context"]
    status, r = s.post("/v1/completions", {"prompt": [1] * (context + 1)})
    assert status == 400 and r["error"]["code"] == "context_length_exceeded"
    assert str(context) in r["error"]["message"] and str(context + 1) in r["error"]["message"] and r["error"]["param"] == "prompt"
    status, r = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * context}]})
    assert status == 400 and r["error"]["code"] == "context_length_exceeded" and r["error"]["param"] == "messages"
    assert s.metrics()['hearth_requests_refused_total{reason="too_long"}'] == 2
    status, r = s.post("/v1/completions", {"prompt": "x", "max_tokens": 5, "min_tokens": 6})
    assert status == 400 and r["error"]["param"] == "min_tokens"
    assert s.complete(prompt=[1] * (context - 1), ignore_eos=True)["usage"]["completion_tokens"] == 1


def test_the_last_message_can_be_continued(server):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "One, "}]
    body = {"messages": messages, "continue_final_message": True, "max_tokens": 1, "return_token_ids": True}
    ids = server.post("/v1/chat/completions", body)[1]["prompt_token_ids"]
    assert bytes(i for i in ids if i < 256).decode().endswith("assistant\nOne, ") and ids[-1] == ord(" ")
    messages[1]["content"] = "  "
    status, r = server.post("/v1/chat/completions", body)
    assert status == 400 and "continue_final_message" in r["error"]["message"]


def key_lines(**keys):
    return "".join(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in keys.items())


def test_a_template_of_ones_own_sees_the_day_and_what_the_request_gives(start, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("{{ strftime_now('%Y-%m-%d') }}|{{ messages[0].content }}|{{ reasoning_effort }}|{{ mood }}|{{ tools is none }}")
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", f"model.chat_template={path}")

    def prompt(**kw):
        status, r = s.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True, **kw})
        assert status == 200, r
        return bytes(r["prompt_token_ids"]).decode()
    days = [time.strftime("%Y-%m-%d")]
    text = prompt()
    days.append(time.strftime("%Y-%m-%d"))
    assert text in [f"{day}|x|||True" for day in days]
    assert prompt(reasoning_effort="high", chat_template_kwargs={"mood": "calm", "other": 1}).endswith("|x|high|calm|True")
    assert prompt(reasoning_effort="high", chat_template_kwargs={"reasoning_effort": "low"}).endswith("|x|low||True")
    path.write_text("{% for m in messages %}{{ m.role }}:{{ m.name }}:{{ m.content }}:{{ m.tool_call_id }}:"
                    "{{ m.tool_calls[0].function.name if m.tool_calls }};{% endfor %}{{ add_generation_prompt }}")
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", f"model.chat_template={path}")
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "name": "ann", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]}]
    assert prompt(messages=messages) == "user:ann:hi::;assistant::::f;tool::12:c1:;True"
    assert prompt(messages=messages[:1], add_generation_prompt=False) == "user:ann:hi::;False"


def test_who_may_go_first_goes_first(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "sched.max_seqs=1")
    running = s.client().completions.create(model="tiny", prompt="go", max_tokens=1900, stream=True,
                                            extra_body={"ignore_eos": True, "logprobs": 20})  # not read: it waits for ever
    waited = {}

    def ask(body):
        r = s.post("/v1/completions", {"prompt": "x", "ignore_eos": True, **body})[1]
        waited[body["max_tokens"]] = r["timings"]["queue_ms"]
    waiting = [threading.Thread(target=ask, args=(body,)) for body in ({"max_tokens": 1800}, {"max_tokens": 2, "priority": 7})]
    for n, t in enumerate(waiting, 1):
        t.start()
        s.metric_until("hearth_requests_waiting", lambda v, n=n: v == n)
    running.close()
    for t in waiting:
        t.join()
    assert waited[2] < waited[1800]  # the second to come began first


def test_keys_that_trust_each_other_share_a_cache(start, tmp_path):
    import hashlib
    (tmp_path / "keys").write_text("".join(f"{n}:{hashlib.sha256(k.encode()).hexdigest()}\n" for n, k in (("a", "sk-" + "a" * 16), ("b", "sk-" + "b" * 16))))
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--api-key-file", str(tmp_path / "keys"), "--set", "auth.salt_per_key=false")

    def cached(key, **kw):
        r = s.post("/v1/completions", {"prompt": list(range(200)), "max_tokens": 1, **kw}, headers={"Authorization": f"Bearer sk-{key * 16}"})[1]
        return r["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert [cached("a"), cached("b"), cached("a", cache_salt="x"), cached("b", cache_salt="x")] == [0, 192, 0, 192]


def test_keys(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(key_lines(a="sk-aaaaaaaaaaaaaaaa", b="sk-bbbbbbbbbbbbbbbb"))
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--api-key-file", str(keys))
    for path in ("/v1/models", "/v1/completions", "/metrics", "/nowhere", "//v1/models", "/v1/../v1/models", "/V1/models"):
        for headers in ({}, {"Authorization": "Bearer wrong-key-wrong"}, {"Authorization": "Basic sk-aaaaaaaaaaaaaaaa"}):
            r, raw = s.request("GET", path, headers=headers)
            assert r.status == 401 and json.loads(raw)["error"]["code"] == "invalid_api_key"
            assert r.headers["www-authenticate"] == "Bearer"
    assert s.request("GET", "/health")[0].status == 200
    _, raw = s.request("GET", "/metrics", headers={"Authorization": "Bearer sk-aaaaaaaaaaaaaaaa"})
    assert b'hearth_requests_refused_total{reason="no_key"} 21\n' in raw
    body = {"prompt": list(range(200)), "max_tokens": 1}

    def cached(key, **kw):
        status, r = s.post("/v1/completions", {**body, **kw}, headers={"Authorization": f"Bearer {key}"})
        assert status == 200, r
        return r["usage"]["prompt_tokens_details"]["cached_tokens"]
    a, b = "sk-aaaaaaaaaaaaaaaa", "sk-bbbbbbbbbbbbbbbb"
    assert [cached(a), cached(a), cached(b), cached(b), cached(a, cache_salt="x")] == [0, 192, 0, 192, 0]
    with pytest.raises(openai.AuthenticationError) as e:
        s.client(api_key="sk-unknown-unknown").models.list()
    assert e.value.code == "invalid_api_key" and e.value.type == "authentication_error"
    assert [m.id for m in s.client(api_key=b).models.list()] == ["tiny"]
    assert "sk-aaaa" not in s.text() and "Bearer" not in s.text()


def test_sighup_reads_the_keys_again(start, tmp_path):
    a, b, keys = "sk-aaaaaaaaaaaaaaaa", "sk-bbbbbbbbbbbbbbbb", tmp_path / "keys"
    keys.write_text(key_lines(a=a))
    s = start(*TINY, "--api-key-file", str(keys))

    def reload(text, says):
        keys.write_text(text)
        s.proc.send_signal(signal.SIGHUP)
        s.until(lambda: says in s.text())

    def allowed(*which):
        got = [s.request("GET", "/v1/models", headers={"Authorization": f"Bearer {k}"})[0].status for k in which]
        assert set(got) <= {200, 401}
        return [status == 200 for status in got]

    assert allowed(a, b) == [True, False]
    # while a's request generates and another of a's is being sent, b comes in and a goes
    head = f"POST /v1/completions HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {a}\r\nContent-Length: %d\r\n\r\n"
    body = json.dumps({"prompt": "x", "max_tokens": 1900, "ignore_eos": True, "stream": True}).encode()
    running, sending = (socket.create_connection(("127.0.0.1", s.port), timeout=30) for _ in range(2))
    running.sendall((head % len(body)).encode() + body)
    assert running.recv(12) == b"HTTP/1.1 200"
    sending.sendall((head % len(body)).encode() + body[:5])
    reload(key_lines(b=b), "auth reload file=")
    assert allowed(a, b) == [False, True]
    sending.sendall(body[5:])
    assert sending.recv(12) == b"HTTP/1.1 401"
    rest = b""
    while chunk := running.recv(65536):
        rest += chunk
    assert rest.endswith(b"data: [DONE]\n\n")
    # a file with a fault changes nothing and is named with its line, once
    for text, says in ((key_lines(a=a, b=b) + "oops\n", f"{keys}:3: "), ("", f"{keys}: no key in it")):
        reload(text, says)
        assert allowed(a, b) == [False, True] and s.text().count(says) == 1
    keys.unlink()
    s.proc.send_signal(signal.SIGHUP)
    s.until(lambda: f"{keys}: No such file" in s.text())
    reload(key_lines(a=a, b=b), "keys=2")
    assert allowed(a, b) == [True, True]
    assert s.text().count("the keys in force stay") == 3 and s.proc.poll() is None
    for k in running, sending:
        k.close()


def test_sighup_without_keys_is_a_terminal_that_went_away(start):
    s = start(*TINY)
    s.proc.send_signal(signal.SIGHUP)
    assert s.proc.wait(20 * SLOW) == 0 and "reason=SIGHUP" in s.text()


def test_prompts_stay_out_of_the_log(server):
    server.complete(prompt="a secret word: xylophone", max_tokens=2)
    server.post("/v1/completions", b'{"prompt":"xylophone" oops')
    assert server.request("GET", '/x%20status=200%0a"xylo"')[0].status == 404
    assert "xylophone" not in server.text() and 'path=/x?status?200??xylo?' in server.text()


def test_prompts_and_answers_are_in_the_log_when_asked(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=4MiB", "--set", "log.prompts=true")
    s.complete(prompt="a secret \"word\"\n", max_tokens=3, logit_bias={"97": 100})
    s.until(lambda: 'gen answer id=' in s.text())
    assert r'text="a secret \"word\"\n"' in s.text() and 'text="aaa"' in s.text()
