"""hearthd on a GPU: many streams at once. Without a GPU these skip."""
import asyncio
import pathlib
import random

import pytest

STREAMS, ANSWER = 256, 120
A = {"97": 100}  # "a", whatever the weights say
pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/driver/nvidia/version").exists(), reason="no GPU")


@pytest.fixture
def llama_8b(start):
    return start("--backend", "cuda", "--set", "model.random=llama-8b", "--set", f"sched.max_seqs={STREAMS}", "--set",
                 "sched.max_batch_tokens=2048", "--set", "http.max_connections=1024")


def prompt(i):
    """20 to 275 tokens that no other i has."""
    return random.Random(i).choices(range(32, 512), k=20 + i)


async def one_stream(client, i):
    """(prompt tokens, completion tokens, finish reason, text) of a stream to its end."""
    usage, finish, text = None, None, ""
    async for chunk in await client.completions.create(model="llama-8b", prompt=prompt(i), max_tokens=ANSWER, temperature=0, stream=True,
                                                       stream_options={"include_usage": True}, logit_bias=A):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            text += choice.text
    return usage.prompt_tokens, usage.completion_tokens, finish, text


async def all_streams(server):
    """Results of the streams, and the most requests that ran at once."""
    client, most = server.async_client(), 0
    streams = asyncio.gather(*(one_stream(client, i) for i in range(STREAMS)))
    while not streams.done():
        await asyncio.wait([streams], timeout=0.1)
        most = max(most, (await asyncio.to_thread(server.metrics))["hearth_requests_running"])
    return streams.result(), most


def test_256_streams_of_llama_8b_at_once_on_cuda(llama_8b):
    results, most = asyncio.run(all_streams(llama_8b))
    assert results == [(20 + i, ANSWER, "length", "a" * ANSWER) for i in range(STREAMS)]
    assert most > STREAMS // 2, f"only {most} ran at once"
    m = llama_8b.metrics()
    assert m['hearth_requests_finished_total{reason="length"}'] == STREAMS
    assert m['hearth_http_requests_total{code="4xx"}'] == m['hearth_http_requests_total{code="5xx"}'] == 0
    assert m["hearth_requests_running"] == m["hearth_requests_waiting"] == 0 and m['hearth_kv_blocks{state="used"}'] == 0
