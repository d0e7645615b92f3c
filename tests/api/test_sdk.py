"""The real openai SDK against the real model: chat, streams, errors, timeouts, cancels, concurrency."""
import asyncio
import signal
import time

import openai
import pytest

ASK = [{"role": "user", "content": "Name three colours."}]


def test_chat(real):
    r = real.client().chat.completions.create(model="smollm2", messages=ASK, max_tokens=24, temperature=0)
    assert r.object == "chat.completion" and r.model == "smollm2" and r.choices[0].message.role == "assistant"
    assert len(r.choices[0].message.content) > 10
    assert r.usage.prompt_tokens > 20 and r.usage.completion_tokens <= 24
    assert r._request_id


def test_stream_equals_whole_and_role_comes_with_the_first_text(real):
    c = real.client()
    whole = c.chat.completions.create(model="smollm2", messages=ASK, max_tokens=24, temperature=0)
    chunks = list(c.chat.completions.create(model="smollm2", messages=ASK, max_tokens=24, temperature=0, stream=True,
                                            stream_options={"include_usage": True}))
    text = "".join(x.choices[0].delta.content or "" for x in chunks if x.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content
    assert all(x.choices[0].delta.role is None for x in chunks[1:-1])
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_stop_strings_begin_and_end_in_the_middle_of_tokens(real):
    c = real.client()

    def ask(**kw):
        return c.completions.create(model="smollm2", prompt="The sky is", max_tokens=24, temperature=0, **kw)
    text = ask().choices[0].text
    for at in range(1, len(text) - 8, 5):
        stop = text[at:at + 7]
        want = text[:text.index(stop)]
        r = ask(stop=["never there", stop])
        assert r.choices[0].text == want and r.choices[0].finish_reason == "stop"
        assert "".join(x.choices[0].text for x in ask(stop=stop, stream=True) if x.choices) == want


def test_text_of_any_script_comes_back_unbroken(real):
    prompt = "caf\u00e9 \u65e5\u672c\u8a9e \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0645\u0631\u062d\u0628\u0627 "
    whole = real.complete(prompt=prompt, echo=True, max_tokens=8, temperature=0)["choices"][0]["text"]
    events = real.events("/v1/completions", {"prompt": prompt, "echo": True, "max_tokens": 8, "temperature": 0})
    assert whole.startswith(prompt) and "".join(e["choices"][0]["text"] for e in events) == whole
    ids = real.post("/tokenize", {"prompt": prompt})[1]["tokens"]
    assert len(ids) > 20 and real.post("/detokenize", {"tokens": ids})[1]["prompt"] == prompt


def test_second_turn_is_cached(real):
    c, messages = real.client(), [{"role": "user", "content": "Tell me a story of a fox. " + "Please. " * 60}]
    first = c.chat.completions.create(model="smollm2", messages=messages, max_tokens=70, temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Go on."}]
    second = c.chat.completions.create(model="smollm2", messages=messages, max_tokens=8, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens // 64 * 64 >= 64
    said = second.usage.hearth  # the SDK keeps what it does not know
    assert said["cached_tokens"]["hbm"] == second.usage.prompt_tokens_details.cached_tokens
    assert sum(said["missed_tokens"].values()) == second.usage.prompt_tokens - second.usage.prompt_tokens_details.cached_tokens


def test_two_concurrent_streams_equal_their_solo_runs(real):
    async def one(c, text):
        s = await c.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": text}], max_tokens=40,
                                            temperature=0, stream=True)
        return "".join([x.choices[0].delta.content or "" async for x in s if x.choices])

    async def both():
        c = real.async_client()
        return await asyncio.gather(one(c, "What is the sea?"), one(c, "Count to ten."))

    c = real.client()
    alone = [c.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": t}], max_tokens=40, temperature=0)
             .choices[0].message.content for t in ("What is the sea?", "Count to ten.")]
    assert asyncio.run(both()) == alone


def test_logprobs(server):
    five = {"model": "tiny", "messages": ASK, "max_tokens": 5, "logprobs": True, "seed": 1, "extra_body": {"ignore_eos": True}}
    r = server.client().chat.completions.create(**five, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == 5
    for t in content:
        assert len(t.top_logprobs) == 3 and t.logprob <= 0 and t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob
    chunks = list(server.client().chat.completions.create(**five, stream=True))
    assert sum(len(x.choices[0].logprobs.content) for x in chunks if x.choices and x.choices[0].logprobs) == 5


def test_n_and_completions(server):
    r = server.client().chat.completions.create(model="tiny", messages=ASK, max_tokens=4, n=3)
    assert [c.index for c in r.choices] == [0, 1, 2] and r.usage.completion_tokens <= 12
    r = server.client().completions.create(model="tiny", prompt="hi", max_tokens=4)
    assert r.object == "text_completion"
    assert [m.id for m in server.client().models.list()] == ["tiny"]
    assert server.client().models.retrieve("tiny").id == "tiny"


def test_errors_are_the_sdks_classes(server):
    c = server.client()
    with pytest.raises(openai.NotFoundError) as e:
        c.chat.completions.create(model="gpt-5", messages=ASK)
    assert e.value.code == "model_not_found" and "tiny" in e.value.message and e.value.request_id
    with pytest.raises(openai.BadRequestError) as e:
        c.chat.completions.create(model="tiny", messages=ASK, temperature=9)
    assert e.value.param == "temperature" and "9" in e.value.message and "from 0 to 2" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        c.completions.create(model="tiny", prompt="a" * 5000)
    assert e.value.code == "context_length_exceeded" and "2048" in e.value.message and "5000" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        c.chat.completions.create(model="tiny", messages=ASK, tools=[{"type": "function", "function": {"name": "f"}}])
    assert e.value.param == "tools"


def test_a_client_that_times_out_or_leaves_is_cancelled(server):
    slow = {"prompt": "go", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    before = server.metrics()['hearth_requests_finished_total{reason="cancelled"}']
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=0.05).completions.create(model="tiny", **slow)
    stream = server.client().completions.create(model="tiny", stream=True, **slow)
    next(iter(stream))
    stream.close()
    server.metric_until("hearth_requests_running", lambda v: v == 0)
    server.metric_until('hearth_kv_blocks{state="used"}', lambda v: v == 0)
    assert server.metrics()['hearth_requests_finished_total{reason="cancelled"}'] >= before + 1


TEXT = {"97": 100}  # "a", whatever the weights say


def test_sampling_fields_reach_the_engine(server):
    c = server.client()

    def text(**kw):
        extra = {k: kw.pop(k) for k in ("min_tokens", "ignore_eos", "stop_token_ids", "top_k", "repetition_penalty") if k in kw}
        r = c.chat.completions.create(model="tiny", messages=ASK, max_tokens=16, extra_body=extra, **kw)
        return r.choices[0].message.content, r.choices[0].finish_reason, r.usage.completion_tokens
    assert text(logit_bias=TEXT) == ("a" * 16, "length", 16)
    assert text(seed=7, ignore_eos=True) == text(seed=7, ignore_eos=True) != text(seed=8, ignore_eos=True)
    assert text(temperature=0) == text(top_k=1, temperature=0.5)
    assert text(logit_bias=TEXT, stop="aaa") == ("", "stop", 3) and text(logit_bias=TEXT, stop=["b", "aaaa"]) == ("", "stop", 4)
    assert text(logit_bias=TEXT, stop_token_ids=[97]) == ("", "stop", 0)
    assert text(logit_bias={"256": 100}) == ("", "stop", 0)
    assert text(logit_bias={"256": 100}, min_tokens=5, seed=1)[2] == 5
    assert text(logit_bias={"256": 100}, ignore_eos=True)[1:] == ("length", 16)
    assert text(logit_bias={"97": 10}, temperature=0, frequency_penalty=2)[0] != "a" * 16
    assert text(logit_bias={"97": 10}, temperature=0, presence_penalty=2)[1:] == text(logit_bias={"97": 10}, temperature=0)[1:]


def test_both_names_of_the_length_are_taken_and_the_smaller_wins(server):
    c = server.client()
    for body in ({"max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 9}):
        r = c.chat.completions.create(model="tiny", messages=ASK, logit_bias=TEXT, extra_body={"ignore_eos": True}, **body)
        assert r.usage.completion_tokens == 5 and r.choices[0].message.content == "aaaaa"


def test_stream_shape_of_chat(server):
    """The role comes once, with the first text of its choice; usage when asked, null until then; one id; [DONE] (events checks)."""
    for n in (1, 3):
        body = {"messages": ASK, "max_tokens": 4, "logit_bias": TEXT, "n": n, "stream_options": {"include_usage": True}}
        events = server.events("/v1/chat/completions", body)
        assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 4 * n
        assert all(e["usage"] is None and e["object"] == "chat.completion.chunk" for e in events[:-1])
        assert len({(e["id"], e["created"], e["model"]) for e in events}) == 1
        for i in range(n):
            mine = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == i]
            assert mine[0]["delta"] == {"role": "assistant", "content": "a"}
            assert [m["delta"] for m in mine[1:]] == [{"content": "a"}] * 3 + [{}]
            assert [m["finish_reason"] for m in mine] == [None] * 4 + ["length"] and all(m["logprobs"] is None for m in mine)
    assert all("usage" not in e for e in server.events("/v1/chat/completions", {"messages": ASK, "max_tokens": 2}))
    empty = server.events("/v1/chat/completions", {"messages": ASK, "max_tokens": 2, "logit_bias": {"256": 100}})
    assert [e["choices"][0]["delta"].get("role") for e in empty] == ["assistant"] and empty[0]["choices"][0]["finish_reason"] == "stop"


def test_whole_shape_of_chat(server):
    status, r = server.post("/v1/chat/completions", {"messages": ASK, "max_tokens": 2, "logit_bias": TEXT})
    assert status == 200 and r["id"].startswith("chatcmpl-") and r["object"] == "chat.completion" and r["system_fingerprint"]
    choice = r["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "aa", "refusal": None}
    assert choice["logprobs"] is None and choice["finish_reason"] == "length" and choice["index"] == 0
    assert r["usage"]["total_tokens"] == r["usage"]["prompt_tokens"] + 2
    assert r["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0


def test_log_probabilities_of_both_dialects_agree(server):
    ids = server.post("/v1/chat/completions", {"messages": ASK, "max_tokens": 1, "return_token_ids": True})[1]["prompt_token_ids"]
    c = server.client()
    kw = {"model": "tiny", "max_tokens": 6, "temperature": 0, "extra_body": {"ignore_eos": True}}
    chat = c.chat.completions.create(messages=ASK, logprobs=True, top_logprobs=4, **kw).choices[0].logprobs.content
    text = c.completions.create(prompt=ids, logprobs=4, **kw).choices[0].logprobs
    assert [t.token for t in chat] == text.tokens and [t.logprob for t in chat] == text.token_logprobs
    assert [{x.token: x.logprob for x in t.top_logprobs} for t in chat] == text.top_logprobs
    for t in chat:
        assert t.logprob == t.top_logprobs[0].logprob == max(x.logprob for x in t.top_logprobs)  # greedy
        if t.token.startswith("bytes:"):  # half a character
            assert t.token == "bytes:" + "".join(f"\\x{b:02x}" for b in t.bytes)
        elif t.token.startswith("token_id:"):
            assert t.bytes == []
        else:
            assert bytes(t.bytes).decode() == t.token


def test_a_full_queue_and_a_draining_server_are_the_sdks_classes(start):
    s = start("--set", "model.random=tiny", "--set", "kv.bytes=1MiB", "--set", "sched.max_seqs=1", "--set", "sched.max_queued=1")
    c = s.client()
    slow = {"model": "tiny", "prompt": "go", "max_tokens": 1900, "stream": True, "extra_body": {"ignore_eos": True, "logprobs": 20}}
    streams = [c.completions.create(**slow), c.completions.create(**slow)]  # not read: with log probabilities they wait for ever
    s.metric_until("hearth_requests_waiting", lambda v: v == 1)
    with pytest.raises(openai.RateLimitError) as e:
        c.completions.create(model="tiny", prompt="x")
    assert e.value.code == "queue_full" and e.value.type == "rate_limit_error" and int(e.value.response.headers["retry-after-ms"]) > 0
    begin = time.monotonic()
    with pytest.raises(openai.RateLimitError):
        s.client(max_retries=1).completions.create(model="tiny", prompt="x")
    assert time.monotonic() - begin >= 0.9  # it waited as it was told
    s.proc.send_signal(signal.SIGTERM)
    s.until(lambda: s.request("GET", "/ready")[0].status == 503)
    with pytest.raises(openai.InternalServerError) as e:
        c.chat.completions.create(model="tiny", messages=ASK)
    assert e.value.status_code == 503 and e.value.code == "draining"
    for stream in streams:
        stream.close()
    assert s.proc.wait(20) == 0


def test_an_async_client_that_is_cancelled_frees_its_blocks(server):
    async def go():
        c = server.async_client()
        slow = {"model": "tiny", "messages": ASK, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
        whole = asyncio.create_task(c.chat.completions.create(**slow))
        stream = await c.chat.completions.create(stream=True, **slow)
        async for _ in stream:
            break
        await stream.close()
        whole.cancel()
        with pytest.raises(asyncio.CancelledError):
            await whole

    asyncio.run(go())
    server.metric_until("hearth_requests_running", lambda v: v == 0)
    server.metric_until('hearth_kv_blocks{state="used"}', lambda v: v == 0)


def test_async_streams_at_once(server):
    async def one(c, i):
        s = await c.completions.create(model="tiny", prompt=f"prompt {i} " * 5, max_tokens=30, temperature=0, stream=True)
        return "".join([x.choices[0].text async for x in s])

    async def all_():
        c = server.async_client()
        return await asyncio.gather(*[one(c, i) for i in range(24)])

    start = time.monotonic()
    together = asyncio.run(all_())
    alone = [server.complete(prompt=f"prompt {i} " * 5, max_tokens=30, temperature=0)["choices"][0]["text"] for i in range(24)]
    assert together == alone and time.monotonic() - start < 120
