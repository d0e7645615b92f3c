"""What a model file asks for beyond its weights: a first token, ends, a template. Small files, written here."""
import struct

import pytest

WIDTH, HEADS, KV_HEADS, CONTEXT = 32, 2, 1, 256
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def field(key, kind, value):
    if kind == STRING:
        return text(key) + struct.pack("<I", kind) + text(value)
    if kind == ARRAY:  # of strings or u32
        of = STRING if not value or isinstance(value[0], str) else U32
        items = b"".join(text(v) if of == STRING else struct.pack("<I", v) for v in value)
        return text(key) + struct.pack("<IIQ", kind, of, len(value)) + items
    return text(key) + struct.pack("<I", kind) + struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)


def byte_characters():
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def write_model(path, **more):
    """A llama whose weights are all 0, with bytes as tokens, then <s> (256), </s> (257), <call> (258); more: fields, 'a.b' as a__b."""
    tokens = [*byte_characters(), "<s>", "</s>", "<call>"]
    sizes = {"block_count": 1, "embedding_length": WIDTH, "feed_forward_length": WIDTH, "attention.head_count": HEADS,
             "attention.head_count_kv": KV_HEADS, "context_length": CONTEXT}
    fields = [field("general.architecture", STRING, "llama"), *(field("llama." + k, U32, v) for k, v in sizes.items()),
              field("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
              field("tokenizer.ggml.model", STRING, "gpt2"), field("tokenizer.ggml.pre", STRING, "gpt-2"),
              field("tokenizer.ggml.tokens", ARRAY, tokens), field("tokenizer.ggml.token_type", ARRAY, [1] * 256 + [3, 3, 3]),
              field("tokenizer.ggml.merges", ARRAY, []), field("tokenizer.ggml.bos_token_id", U32, 256),
              field("tokenizer.ggml.eos_token_id", U32, 257)]
    kinds = {bool: BOOL, int: U32, str: STRING}
    fields += [field(k.replace("__", "."), kinds[type(v)], v) for k, v in more.items()]
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (WIDTH, len(tokens)), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
              "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH, kv), "blk.0.attn_v": (WIDTH, kv), "blk.0.attn_output": (WIDTH, WIDTH),
              "blk.0.ffn_gate": (WIDTH, WIDTH), "blk.0.ffn_up": (WIDTH, WIDTH), "blk.0.ffn_down": (WIDTH, WIDTH)}
    directory, at = b"", 0
    for name, dims in shapes.items():
        directory += text(name + ".weight") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, at)
        at += 4 * dims[0] * (dims[1] if len(dims) > 1 else 1)  # a multiple of 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(fields)) + b"".join(fields) + directory
    path.write_bytes(head + bytes(-len(head) % 32 + at))
    return str(path)


@pytest.fixture
def serve(start, tmp_path):
    return lambda **more: start("--model", write_model(tmp_path / "small.gguf", **more), "--set", "kv.bytes=1MiB")


def test_a_model_that_wants_a_first_token_gets_it_once(serve):
    s = serve(tokenizer__ggml__add_bos_token=True, tokenizer__chat_template="{{ bos_token }}{{ messages[0].content }}")
    r = s.complete(prompt="hi", max_tokens=1, return_token_ids=True)
    assert r["prompt_token_ids"] == [256, 104, 105] and r["usage"]["prompt_tokens"] == 3
    assert s.complete(prompt=[104, 105], max_tokens=1, return_token_ids=True)["prompt_token_ids"] == [104, 105]  # ids are final
    assert s.complete(prompt="", max_tokens=1, return_token_ids=True)["prompt_token_ids"] == [256]
    assert s.post("/tokenize", {"prompt": "hi"})[1]["tokens"] == [256, 104, 105]
    assert s.post("/tokenize", {"prompt": "hi", "add_special_tokens": False})[1]["tokens"] == [104, 105]
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "return_token_ids": True}
    assert s.post("/v1/chat/completions", chat)[1]["prompt_token_ids"] == [256, 104, 105]  # the template's own, no other


def test_a_model_that_wants_none_gets_none(serve):
    s = serve()
    assert s.complete(prompt="hi", max_tokens=1, return_token_ids=True)["prompt_token_ids"] == [104, 105]
    assert s.post("/tokenize", {"prompt": "hi"})[1]["tokens"] == [104, 105]
    status, r = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert status == 400 and r["error"]["code"] == "no_chat_template"


def test_every_end_that_the_file_names_ends_an_answer(serve):
    s = serve(tokenizer__ggml__eot_token_id=258)
    for end in (257, 258):
        r = s.complete(prompt="x", max_tokens=5, logit_bias={str(end): 100})
        assert r["choices"][0]["finish_reason"] == "stop" and r["usage"]["completion_tokens"] == 0
    assert s.complete(prompt="x", max_tokens=5, logit_bias={"256": 100})["usage"]["completion_tokens"] == 5


def test_a_file_may_bring_its_own_sampling(serve):
    s = serve(general__sampling__top_k=1)
    assert s.complete(prompt="x", max_tokens=8)["choices"][0]["text"] == "\0" * 8  # all logits are equal: greedy takes the first
    assert s.complete(prompt="x", max_tokens=8, top_k=0, seed=1)["choices"][0]["text"] != "\0" * 8
