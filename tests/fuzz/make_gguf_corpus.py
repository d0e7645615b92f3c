#!/usr/bin/env python3
"""make_gguf_corpus - the seeds of fuzz_gguf: small GGUF files, good ones and nearly good ones (corpus/gguf/)."""
import os
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODE = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
BLOCK = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 30: (1, 2)}  # type: elements, bytes


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return text(v)
    if kind == ARRAY:
        elem, items = v
        return struct.pack("<IQ", elem, len(items)) + b"".join(value(elem, i) for i in items)
    return struct.pack("<" + CODE[kind], v)


def gguf(metadata, tensors, version=3, align=32):
    pad = lambda b: b + b"\0" * (-len(b) % align)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, v in metadata:
        head += text(key) + struct.pack("<I", kind) + value(kind, v)
    data = b""
    for name, dims, dtype in tensors:
        head += text(name) + struct.pack("<I", len(dims))
        head += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", dtype, len(data))
        n, (block, size) = 1, BLOCK[dtype]
        for d in dims:
            n *= d
        floats = struct.pack(f"<{n}f", *range(1, n + 1))
        data = pad(data + (floats if dtype == 0 else bytes(i & 0xFF for i in range(n // block * size))))
    return pad(head) + data if tensors else head


LLAMA = [
    ("general.architecture", STRING, "llama"),
    ("general.name", STRING, "seed"),
    ("llama.block_count", U32, 1),
    ("llama.context_length", U32, 64),
    ("llama.embedding_length", U32, 32),
    ("llama.feed_forward_length", U32, 64),
    ("llama.attention.head_count", U32, 4),
    ("llama.attention.head_count_kv", U32, 2),
    ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
    ("llama.rope.freq_base", F32, 1e4),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b"])),
]
EMBED = ("token_embd.weight", [32, 2], 8)

SEEDS = {
    "empty": gguf([], []),
    "kinds": gguf([("k" * (i + 1), k, 1) for i, k in enumerate(CODE)] + [("text", STRING, "hello")], []),
    "arrays": gguf([("k", ARRAY, (STRING, ["a", "", "bc"])), ("n", ARRAY, (U32, [1, 2, 3])),
                    ("none", ARRAY, (U8, [])), ("tokenizer.ggml.scores", ARRAY, (F32, [0.5, -1]))], []),
    "types": gguf([("k", U32, 1)], [("a", [3], 0), ("b", [3, 2], 1), ("c", [32, 2], 2), ("d", [64, 1, 2], 3),
                                    ("e", [32, 1, 1, 2], 8), ("f", [5], 30)]),
    "version2": gguf([("k", U64, 1 << 63)], [("t", [4], 0)], version=2),
    "align": gguf([("general.alignment", U32, 64)], [("a", [1], 0), ("b", [1], 0)], align=64),
    "bad_align": gguf([("general.alignment", U32, 3)], [("a", [1], 0)]),
    "split": gguf([("split.count", U16, 2), ("split.no", U16, 0)], [("a", [1], 0)]),
    "twice": gguf([("k", U8, 1), ("k", U8, 1)], []),
    "llama": gguf(LLAMA, [EMBED]),
    "llama_tied_not": gguf(LLAMA, [EMBED, ("output.weight", [32, 2], 30)]),
    "llama3": gguf(LLAMA + [("llama.rope.scaling.type", STRING, "llama3"), ("llama.rope.scaling.factor", F32, 8)],
                   [EMBED]),
    "linear": gguf(LLAMA + [("llama.rope.scaling.type", STRING, "linear"), ("llama.rope.scaling.factor", F32, 4)],
                   [EMBED]),
    "rope_freqs": gguf(LLAMA, [EMBED, ("rope_freqs.weight", [4], 0)]),
    "experts": gguf(LLAMA + [("llama.expert_count", U32, 8)], [EMBED]),
    "cut": gguf(LLAMA, [EMBED])[:-40],
}

if __name__ == "__main__":
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "gguf")
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
