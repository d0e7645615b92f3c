"""peer_attention - causal attention of cuDNN through PyTorch on contiguous bf16 K and V: A of the attention figures.

usage: peer_attention.py [D:HEADS/KV_HEADS:TOKENS ...]     one JSON object a line; needs PyTorch with a GPU
"""
import json
import re
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

USUAL = ["128:32/8:2048", "128:32/8:8192", "128:32/8:32768", "64:32/8:8192", "64:32/8:32768", "256:16/4:8192",
         "256:16/4:32768"]
SECONDS = 0.6  # as bench_prefill: the first third uncounted


def median_ms(call):
    def batch(n):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(n):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / n

    batch(1)
    calls = max(1, int(20 / batch(1)))
    spent, samples = 0, []
    while len(samples) < 3 or spent < SECONDS:
        ms = batch(calls)
        if spent >= SECONDS / 3:
            samples.append(ms)
        spent += ms * calls / 1000
    return sorted(samples)[len(samples) // 2]


for text in sys.argv[1:] or USUAL:
    d, heads, kv_heads, tokens = map(int, re.fullmatch(r"(\d+):(\d+)/(\d+):(\d+)", text).groups())
    q = torch.randn(1, heads, tokens, d, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, kv_heads, tokens, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        ms = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    print(json.dumps({"what": "A", "device": torch.cuda.get_device_name(), "head_dim": d, "heads": heads,
                      "kv_heads": kv_heads, "rows": tokens, "ms": round(ms, 4),
                      "TFLOPs": round(2 * heads * d * tokens**2 / ms * 1e-9, 1)}), flush=True)
