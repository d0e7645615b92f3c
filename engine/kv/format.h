/* format - what the bytes of a KV block mean, and where attention finds a row. Leaf header: C17 and C++17, base/ only.
 *
 * A format is one header fmt_NAME.h with put (float -> bytes) and get (bytes -> float), compiled by cc and by nvcc, so
 * that CPU and GPU read the same bytes. Adding one: a row in enum kv_format, its header, a case in kv_put/kv_get users.
 */
#ifndef HEARTH_KV_FORMAT_H
#define HEARTH_KV_FORMAT_H

#include "engine/base/device.h"

#include <stdint.h>

enum kv_format {
    KV_FORMAT_KV32 = 1, /* float32, 4 bytes an element */
    KV_FORMAT_KV16 = 2, /* bfloat16, 2 bytes an element */
    KV_FORMAT_KV8 = 3,  /* e4m3 with a scale a layer, kv head and K or V, 1 byte an element */
    KV_FORMATS
};

/* One layer of the block pool, as kernels see it. Order in a block: [layer][kv head][K | V][token][dim].
 * Made by kv/layout; kernels never compute a layer or block stride by themselves. All strides in bytes. */
struct kv_view {
    void *base;            /* start of block 0 of the pool, backend memory */
    uint64_t block_stride; /* from block to block */
    uint64_t layer_offset; /* of this layer in a block */
    uint64_t head_stride;  /* from kv head to kv head (local heads) */
    uint64_t v_offset;     /* from K of a head to V of the same head */
    uint64_t row_stride;   /* from token to token */
    uint32_t block_tokens; /* 16, 32, 64 or 128 */
    uint32_t format;       /* enum kv_format */
    uint32_t head_dim;
    uint32_t n_kv_heads;
    const float *scale; /* kv8: [n_kv_heads][K, V] of this layer, backend memory; NULL = 1. See kv_scale */
};

/* Address of the K (v = 0) or V (v = 1) row of `token` (0 .. block_tokens-1) in `block`. */
DEVICE_TOO void *kv_row(const struct kv_view *kv, int32_t block, uint32_t head, int v, uint32_t token)
{
    return (uint8_t *)kv->base + (uint64_t)block * kv->block_stride + kv->layer_offset + head * kv->head_stride +
           (v ? kv->v_offset : 0) + (uint64_t)token * kv->row_stride;
}

/* What elements of the K (v = 0) or V (v = 1) rows of a kv head are multiplied by. */
DEVICE_TOO float kv_scale(const struct kv_view *kv, uint32_t head, int v)
{
    return kv->scale ? kv->scale[2 * head + (uint32_t)v] : 1.0f;
}

#endif
