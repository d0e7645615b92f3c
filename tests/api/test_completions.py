"""/v1/completions: prompts of all forms, sampling, stops, logprobs, streams, usage."""
import json
import socket

import pytest

from conftest import SLOW

TEXT = {"97": 100}  # "a": a token that is text, whatever the weights say


def test_prompt_forms_give_the_same_tokens(server):
    a = server.complete(prompt="hello", max_tokens=8, temperature=0, return_token_ids=True)
    b = server.complete(prompt=[104, 101, 108, 108, 111], max_tokens=8, temperature=0, return_token_ids=True)
    c = server.complete(prompt=["hello", "hello"], max_tokens=8, temperature=0, return_token_ids=True)
    d = server.complete(prompt=[[104, 101, 108, 108, 111]], max_tokens=8, temperature=0, return_token_ids=True)
    ids = a["choices"][0]["token_ids"]
    assert len(ids) == 8 and a["choices"][0]["finish_reason"] == "length"
    assert all(x["token_ids"] == ids for r in (b, c, d) for x in r["choices"])
    assert [x["index"] for x in c["choices"]] == [0, 1]
    assert a["usage"]["prompt_tokens"] == 5 and c["usage"]["prompt_tokens"] == 10
    assert c["usage"]["completion_tokens"] == 16 and c["usage"]["total_tokens"] == 26
    assert a["prompt_token_ids"] == [104, 101, 108, 108, 111]


def test_an_empty_prompt_begins_with_the_models_first_token(server):
    for prompt in ("", [], [""]):
        assert server.complete(prompt=prompt, max_tokens=2)["usage"]["prompt_tokens"] == 1


def test_streamed_equals_whole(server):
    for extra in ({}, {"temperature": 0.8, "seed": 3}, {"n": 3, "seed": 4}, {"logprobs": 3}, {"echo": True, "n": 2}):
        body = {"prompt": "stream me", "max_tokens": 40, "temperature": 0, **extra}
        whole = server.complete(**body)
        events = server.events("/v1/completions", body)
        for i, choice in enumerate(whole["choices"]):
            mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
            assert "".join(c["text"] for c in mine) == choice["text"]
            assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
            assert mine[-1]["finish_reason"] == choice["finish_reason"]
            if "logprobs" in extra:
                for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                    assert sum((c["logprobs"][key] for c in mine if c["logprobs"]), []) == choice["logprobs"][key]
                assert len(choice["logprobs"]["tokens"]) == 40


def test_usage_chunk_only_when_asked(server):
    body = {"prompt": "abc", "max_tokens": 5, "logit_bias": TEXT}
    assert all("usage" not in e for e in server.events("/v1/completions", body))
    events = server.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert all(e["usage"] is None for e in events[:-1])
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 5
    assert len({e["id"] for e in events}) == 1 and len({e["created"] for e in events}) == 1


def test_stop_strings_are_cut_wherever_they_lie(server):
    free = server.complete(prompt="xyz", max_tokens=12, logit_bias={"97": 50, "98": 50}, seed=5)["choices"][0]["text"]
    assert set(free) <= {"a", "b"} and len(free) == 12
    for cut in range(1, 11):
        stop = free[cut:cut + 3]
        at = free.index(stop)
        body = {"prompt": "xyz", "max_tokens": 12, "logit_bias": {"97": 50, "98": 50}, "seed": 5, "stop": ["zzz", stop]}
        r = server.complete(**body)
        assert r["choices"][0]["text"] == free[:at]
        assert r["choices"][0]["finish_reason"] == "stop" and r["choices"][0]["stop_reason"] == stop
        assert r["usage"]["completion_tokens"] == at + len(stop)
        events = server.events("/v1/completions", body)
        assert "".join(e["choices"][0]["text"] for e in events) == free[:at]


def test_a_stop_of_several_bytes_is_found_across_tokens(server):
    # "é" is the bytes 195 169: one token each
    r = server.complete(prompt=[1], max_tokens=9, temperature=0, logit_bias={"195": 100}, stop="\ufffd\ufffd\ufffd")
    assert r["choices"][0]["finish_reason"] == "stop" and r["choices"][0]["text"] == ""


def test_a_character_of_several_tokens_is_found_and_never_cut(server):
    free = {"prompt": "xyz", "max_tokens": 60, "logit_bias": {"195": 50, "169": 50}, "seed": 11,
            "frequency_penalty": 1}  # the two bytes of "é", so that both come
    text = server.complete(**free)["choices"][0]["text"]
    assert "é" in text and set(text) <= {"é", "\ufffd"}
    for stop in ("é", "éé", "\ufffdé", "é\ufffd"):
        events = server.events("/v1/completions", {**free, "stop": stop})
        whole = server.complete(**free, stop=stop)["choices"][0]
        assert whole["text"] == text[:text.index(stop)] == "".join(e["choices"][0]["text"] for e in events)
        assert whole["finish_reason"] == "stop" and whole["stop_reason"] == stop


def test_stop_strings_wait_for_min_tokens(server):
    ask = dict(prompt="q", max_tokens=10, logit_bias=TEXT, stop=["a"])
    assert server.complete(**ask)["usage"]["completion_tokens"] == 1
    r = server.complete(**ask, min_tokens=4)
    assert r["choices"][0]["text"] == "aaaa" and r["choices"][0]["stop_reason"] == "a"
    assert r["usage"]["completion_tokens"] == 5


def test_stop_ids_and_min_tokens(server):
    r = server.complete(prompt="q", max_tokens=10, logit_bias=TEXT, stop_token_ids=[97])
    assert r["choices"][0]["text"] == "" and r["choices"][0]["finish_reason"] == "stop"
    assert r["choices"][0]["stop_reason"] == 97 and r["usage"]["completion_tokens"] == 0
    r = server.complete(prompt="q", max_tokens=10, logit_bias=TEXT, stop_token_ids=[97], min_tokens=4, return_token_ids=True)
    assert len(r["choices"][0]["token_ids"]) == 4 and 97 not in r["choices"][0]["token_ids"]
    end = {"256": 100}  # <|endoftext|>
    assert server.complete(prompt="q", max_tokens=10, logit_bias=end)["usage"]["completion_tokens"] == 0
    r = server.complete(prompt="q", max_tokens=10, logit_bias=end, ignore_eos=True, skip_special_tokens=False)
    assert r["choices"][0]["text"] == "<|endoftext|>" * 10 and r["choices"][0]["finish_reason"] == "length"
    r = server.complete(prompt="q", max_tokens=10, logit_bias=TEXT, stop_token_ids=[97], ignore_eos=True)  # the model's ends alone
    assert r["choices"][0]["finish_reason"] == "stop" and r["choices"][0]["stop_reason"] == 97


def test_seeds_bias_and_penalties(server):
    def ids(**kw):
        return server.complete(prompt="seed", max_tokens=30, return_token_ids=True, **kw)["choices"][0]["token_ids"]
    assert ids(seed=1) == ids(seed=1) != ids(seed=2)
    assert ids(seed=1, temperature=0) == ids(seed=2, temperature=0) == ids(top_k=1)
    assert ids(temperature=0, logit_bias=TEXT) == [97] * 30
    assert 97 not in ids(seed=1, logit_bias={"97": -100})
    # a token of 100 more than the rest, less 2 for each time it came: 97 comes again, but not always
    assert ids(temperature=0, logit_bias={"97": 10}, frequency_penalty=2).count(97) < 30
    assert ids(temperature=0, logit_bias={"97": 1}, repetition_penalty=50).count(97) <= 1


def test_choices_differ_and_each_has_its_own_stream_of_randomness(server):
    r = server.complete(prompt="many", max_tokens=20, n=4, seed=9, return_token_ids=True)
    lists = [c["token_ids"] for c in r["choices"]]
    assert len({tuple(x) for x in lists}) == 4
    assert lists[0] == server.complete(prompt="many", max_tokens=20, seed=9, return_token_ids=True)["choices"][0]["token_ids"]


def test_logprobs_are_of_the_raw_distribution(server):
    r = server.complete(prompt="lp", max_tokens=4, temperature=0, logprobs=20, logit_bias=TEXT)
    lp = r["choices"][0]["logprobs"]
    assert lp["tokens"] == ["a"] * 4 and lp["text_offset"] == [0, 1, 2, 3]
    for chosen, top in zip(lp["token_logprobs"], lp["top_logprobs"]):
        values = list(top.values())
        assert values == sorted(values, reverse=True) and chosen <= values[0] <= 0
    zero = server.complete(prompt="lp", max_tokens=2, logprobs=0, ignore_eos=True)["choices"][0]["logprobs"]
    assert zero["top_logprobs"] == [{}, {}] and len(zero["token_logprobs"]) == 2


def test_echo_puts_the_prompt_first(server):
    r = server.complete(prompt="the prompt ", max_tokens=3, logit_bias=TEXT, echo=True)
    assert r["choices"][0]["text"] == "the prompt aaa"
    assert server.complete(prompt=[104, 105], max_tokens=1, logit_bias=TEXT, echo=True)["choices"][0]["text"] == "hia"
    ids = {"prompt": [257, 104], "max_tokens": 1, "logit_bias": TEXT, "echo": True}
    assert server.complete(**ids)["choices"][0]["text"] == "ha"
    assert server.complete(**ids, skip_special_tokens=False)["choices"][0]["text"] == "<|im_start|>ha"
    body = {"prompt": "only this", "max_tokens": 3, "logit_bias": {"256": 100}, "echo": True}  # ends before its first token
    assert server.complete(**body)["choices"][0]["text"] == "only this"
    assert "".join(e["choices"][0]["text"] for e in server.events("/v1/completions", body)) == "only this"


def test_log_probabilities_of_tokens_without_text_arrive_one_by_one(server):
    body = {"prompt": "x", "max_tokens": 600, "logit_bias": {"256": 100}, "ignore_eos": True, "logprobs": 20}
    events = server.events("/v1/completions", body)
    assert sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events if e["choices"][0]["logprobs"]) == 600
    assert max(len(json.dumps(e)) for e in events) < 8192
    del body["logprobs"]
    ids = [e["choices"][0]["token_ids"] for e in server.events("/v1/completions", {**body, "return_token_ids": True})]
    assert sum(ids, []) == [256] * 600 and max(map(len, ids)) <= 64


def test_a_long_answer_with_log_probabilities_is_whole(server):
    body = {"prompt": "long", "max_tokens": 300, "ignore_eos": True, "logprobs": 20, "n": 4, "seed": 8}
    whole = server.complete(**body)
    for c in whole["choices"]:
        assert [len(c["logprobs"][k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [300] * 4
    events = server.events("/v1/completions", body)
    for c in whole["choices"]:
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == c["index"]]
        assert "".join(m["text"] for m in mine) == c["text"]
        assert sum((m["logprobs"]["token_logprobs"] for m in mine if m["logprobs"]), []) == c["logprobs"]["token_logprobs"]


def test_second_turn_reuses_the_first(server):
    first = [i * 7 % 256 for i in range(300)]
    r = server.complete(prompt=first, max_tokens=20, temperature=0, return_token_ids=True)
    longer = first + r["choices"][0]["token_ids"] + [1, 2, 3]
    r = server.complete(prompt=longer, max_tokens=2, temperature=0)
    assert r["usage"]["prompt_tokens_details"]["cached_tokens"] == 256  # 319 tokens of the first turn: 4 blocks and a rest
    r = server.complete(prompt=longer, max_tokens=2, temperature=0)
    assert r["usage"]["prompt_tokens_details"]["cached_tokens"] == 320
    off = server.complete(prompt=longer, max_tokens=2, temperature=0, cache_prompt=False)
    assert off["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert off["choices"][0]["text"] == r["choices"][0]["text"]
    other = server.complete(prompt=longer, max_tokens=2, temperature=0, cache_salt="somebody else")
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_cache_on_equals_cache_off_at_every_edge(server):
    for n in (0, 1, 63, 64, 65, 127, 128, 129, 1900):
        body = {"prompt": [i * 11 % 251 for i in range(n)], "max_tokens": 6, "temperature": 0, "return_token_ids": True}
        off = server.complete(**body, cache_prompt=False)
        server.complete(**body)
        on = server.complete(**body)
        assert on["choices"][0]["token_ids"] == off["choices"][0]["token_ids"]
        assert on["usage"]["prompt_tokens_details"]["cached_tokens"] == (max(n, 1) - 1) // 64 * 64


def test_progress_frames_when_asked(server):
    body = {"prompt": list(range(250)) * 7, "max_tokens": 2, "return_progress": True, "cache_prompt": False}
    events = server.events("/v1/completions", body)
    frames = [e["prompt_progress"] for e in events if "prompt_progress" in e]
    assert frames and all(e["choices"] == [] for e in events if "prompt_progress" in e)
    assert all(f["total"] == 1750 and 0 < f["processed"] <= 1750 for f in frames)
    assert [f["processed"] for f in frames] == sorted(f["processed"] for f in frames) and all(f["cache"] == 0 for f in frames)
    server.complete(prompt=[3] * 300, max_tokens=1)
    events = server.events("/v1/completions", {"prompt": [3] * 1950, "max_tokens": 1, "return_progress": True})
    frames = [e["prompt_progress"] for e in events if "prompt_progress" in e]
    assert frames and all(f["cache"] == 256 and f["total"] == 1950 for f in frames)


def network_chunks(server, body, path="/v1/completions", slow=False):
    """A stream as a client's library hands it on: the chunks of HTTP, in order."""
    with socket.socket() as k:
        if slow:
            k.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        k.settimeout(60 * SLOW)
        k.connect(("127.0.0.1", server.port))
        data = json.dumps({**body, "stream": True}).encode()
        k.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
        raw = b""
        while not raw.endswith(b"\r\n0\r\n\r\n"):
            more = k.recv(500 if slow else 65536)
            assert more, raw
            raw += more
    head, raw = raw.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 ") and b"chunked" in head
    chunks = []
    while True:
        size, raw = raw.split(b"\r\n", 1)
        if int(size, 16) == 0:
            return chunks
        chunks.append(raw[:int(size, 16)])
        assert raw[len(chunks[-1]):][:2] == b"\r\n"
        raw = raw[len(chunks[-1]) + 2:]


def vllm_bench(chunks):
    """What `vllm bench serve` makes of network chunks: each is stripped, then joined to what is left; a rest that reads as a
    whole event counts as one. The text and the tokens of the usage frame."""
    rest, text, tokens, done = "", "", None, False
    for chunk in chunks:
        chunk = chunk.strip()
        if not chunk:
            continue
        *events, rest = (rest + chunk.decode()).split("\n\n")
        try:
            if rest.startswith("data: ") and (rest == "data: [DONE]" or json.loads(rest[6:])):
                events.append(rest)
                rest = ""
        except json.JSONDecodeError:
            pass
        for event in (e.strip() for e in events):
            if not event or event.startswith(":"):
                continue
            payload = event.removeprefix("data: ")
            done |= payload == "[DONE]"
            frame = {} if payload == "[DONE]" else json.loads(payload)
            if frame.get("choices"):
                text += frame["choices"][0].get("text") or frame["choices"][0].get("delta", {}).get("content") or ""
            elif frame.get("usage"):
                tokens = frame["usage"]["completion_tokens"]
    return text, tokens, done


BENCH = {"max_tokens": 4, "ignore_eos": True, "stream_options": {"include_usage": True}, "logit_bias": TEXT}


@pytest.mark.parametrize("path, body", [("/v1/completions", {"prompt": "x", **BENCH}),
                                        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **BENCH})])
def test_vllm_bench_reads_a_stream_that_is_cut_anywhere(server, path, body):
    """It strips, so a cut beside a blank loses that blank whoever serves: the only blanks are those behind `data:`."""
    stream = b"".join(network_chunks(server, body, path))
    whole = vllm_bench([stream])
    assert whole == ("aaaa", 4, True)
    blank = {i for i in range(len(stream)) if stream[i:i + 1] == b" "}
    assert blank == {i + 5 for i in range(len(stream)) if stream[i:i + 6] == b"data: "}, "blanks beside those of the framing"
    for cut in range(len(stream) + 1):
        if cut not in blank and cut - 1 not in blank:
            assert vllm_bench([stream[:cut], stream[cut:]]) == whole, (cut, stream[:cut][-40:], stream[cut:][:40])


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("more", [{}, {"n": 3}, {"logprobs": 20}, {"return_progress": True, "prompt": "long " * 300}])
def test_a_network_chunk_is_whole_events(server, more, slow):
    """So that clients that look at chunks alone (vllm bench, and worse) see events; but for one that is too long for a chunk."""
    body = {"prompt": "x", "max_tokens": 300, "ignore_eos": True, "seed": 4, "temperature": 2, **more}
    chunks = network_chunks(server, body, slow=slow)
    stream, at, cut = b"".join(chunks), 0, 0
    for chunk in chunks[:-1]:
        at += len(chunk)
        if not (stream[:at].endswith(b"\n\n") and stream[at:].startswith(b"data: ")):
            event = stream[stream.rindex(b"\n\n", 0, at):stream.index(b"\n\n", at)]
            assert len(event) > 3900, event
            cut += 1
    assert len(chunks) > 1 and cut < len(chunks) / 2
    assert all(e.startswith(b"data: ") and b"\n" not in e for e in stream[:-2].split(b"\n\n"))
    assert vllm_bench(chunks) == vllm_bench([stream]) and vllm_bench(chunks)[2]


@pytest.mark.parametrize("body", [{"max_tokens": 3}, {"max_tokens": 3, "n": 2}])
def test_small_parsers_of_load_tools_survive(server, body):
    """vllm bench strips each network chunk; llmperf takes choices[0] of every line."""
    r, raw = server.request("POST", "/v1/completions", {"prompt": "x", "stream": True, "logit_bias": TEXT, **body})
    tokens = 0
    for line in raw.split(b"\n"):
        if not line:
            continue
        assert line.startswith(b"data: ")
        if line == b"data: [DONE]":
            continue
        tokens += bool(json.loads(line[6:])["choices"][0]["text"])
    assert tokens == 3 * body.get("n", 1)


def test_usage_counts_the_prompt_once_whatever_n_is(server):
    r = server.complete(prompt="12345", max_tokens=4, n=3, logit_bias=TEXT)
    assert (r["usage"]["prompt_tokens"], r["usage"]["completion_tokens"], r["usage"]["total_tokens"]) == (5, 12, 17)
    events = server.events("/v1/completions", {"prompt": ["12345", "67"], "max_tokens": 4, "n": 3, "logit_bias": TEXT,
                                               "stream_options": {"include_usage": True}})
    assert events[-1]["usage"]["prompt_tokens"] == 7 and events[-1]["usage"]["completion_tokens"] == 24


def test_a_stop_string_ends_the_work_too(server):
    before = server.metrics()["hearth_generated_tokens_total"]
    for stream in (False, True):
        body = {"prompt": "until", "max_tokens": 1900, "logit_bias": TEXT, "stop": "aaa"}
        if stream:
            server.events("/v1/completions", body)
        else:
            assert server.complete(**body)["usage"]["completion_tokens"] == 3
    server.metric_until("hearth_requests_running", lambda v: v == 0)
    assert server.metrics()["hearth_generated_tokens_total"] - before < 1900


def test_offsets_of_log_probabilities_count_characters(server):
    body = {"prompt": "xyz", "max_tokens": 60, "logit_bias": {"195": 50, "169": 50}, "seed": 11, "frequency_penalty": 1, "logprobs": 0}
    c = server.complete(**body)["choices"][0]
    assert "\u00e9" in c["text"]
    # a character belongs to the token that ends it, so it begins where that token's text does
    offsets, text = c["logprobs"]["text_offset"], c["text"]
    assert offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] <= len(text) < len(text.encode())
    ends = [i for i, t in enumerate(c["logprobs"]["tokens"]) if t == "bytes:\\xa9" and i and c["logprobs"]["tokens"][i - 1] == "bytes:\\xc3"]
    assert ends and all(text[offsets[i]] == "\u00e9" for i in ends)


def test_the_end_of_a_text_shows_that_a_character_was_cut(server):
    body = {"prompt": "xyz", "max_tokens": 3, "logit_bias": {"97": 100}}
    assert server.complete(**body)["choices"][0]["text"] == "aaa"
    body["logit_bias"] = {"195": 100}
    for n in (1, 2):
        body["max_tokens"] = n
        whole = server.complete(**body)["choices"][0]["text"]
        assert whole == "\ufffd" * n == "".join(e["choices"][0]["text"] for e in server.events("/v1/completions", body))


def test_without_a_seed_no_answer_is_like_another(server):
    texts = {server.complete(prompt="dice", max_tokens=30, ignore_eos=True)["choices"][0]["text"] for _ in range(4)}
    assert len(texts) == 4


def test_each_prompt_of_a_list_has_its_own_choices(server):
    body = {"prompt": ["one ", "two ", "three "], "max_tokens": 6, "n": 2, "echo": True, "temperature": 0, "ignore_eos": True}
    alone = [server.complete(**{**body, "prompt": p})["choices"][0]["text"] for p in body["prompt"]]
    whole = server.complete(**body)["choices"]
    assert [c["index"] for c in whole] == [0, 1, 2, 3, 4, 5]
    assert [c["text"] for c in whole] == [text for text in alone for _ in range(2)]
    texts = [""] * 6
    for e in server.events("/v1/completions", body):
        texts[e["choices"][0]["index"]] += e["choices"][0]["text"]
    assert texts == [c["text"] for c in whole]
    status, r = server.post("/v1/completions", {"prompt": ["x"] * 257, "max_tokens": 1})
    assert status == 400 and r["error"]["param"] == "prompt" and "256" in r["error"]["message"]
