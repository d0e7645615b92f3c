"""The real openai SDK against the real model: chat, streams, errors, timeouts, cancels, concurrency."""
import asyncio
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


def test_second_turn_is_cached(real):
    c, messages = real.client(), [{"role": "user", "content": "Tell me a story of a fox. " + "Please. " * 60}]
    first = c.chat.completions.create(model="smollm2", messages=messages, max_tokens=70, temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Go on."}]
    second = c.chat.completions.create(model="smollm2", messages=messages, max_tokens=8, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens // 64 * 64 >= 64


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
    r = server.client().chat.completions.create(model="tiny", messages=ASK, max_tokens=5, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == 5
    for t in content:
        assert len(t.top_logprobs) == 3 and t.logprob <= 0 and t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob
    chunks = list(server.client().chat.completions.create(model="tiny", messages=ASK, max_tokens=5, logprobs=True, stream=True,
                                                          seed=1))
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
