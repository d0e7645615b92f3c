/* kv - elements of KV rows in a kernel, through the formats' own headers: the CPU and the card read the same bytes. */
#ifndef HEARTH_CUDA_KV_CUH
#define HEARTH_CUDA_KV_CUH

#include "cuda/cuda.cuh"
#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv32.h"
#include "engine/kv/fmt_kv8.h"

/* Row of position pos of the sequence whose blocks begin at `table`. */
static __device__ inline uint8_t *kv_at(const struct kv_view &kv, const int32_t *table, int32_t pos, int32_t g, int v)
{
    uint32_t slot = (uint32_t)pos / kv.block_tokens, token = (uint32_t)pos % kv.block_tokens;
    return (uint8_t *)kv_row(&kv, table[slot], (uint32_t)g, v, token);
}

/* scale: kv_scale of the row's head and side. */
static __device__ inline void kv_put(const struct kv_view &kv, uint8_t *row, int32_t i, float x, float scale)
{
    if (kv.format == KV_FORMAT_KV32)
        kv32_put(row + kv32_row_bytes((uint32_t)i), &x, 1);
    else if (kv.format == KV_FORMAT_KV16)
        kv16_put(row + kv16_row_bytes((uint32_t)i), &x, 1);
    else
        kv8_put(row + kv8_row_bytes((uint32_t)i), &x, 1, scale);
}

/* Elements 2i and 2i + 1 with one load: head_dim is even, so a pair is aligned to its size. kv8: without its scale. */
template <uint32_t format> static __device__ inline float2 kv_get_pair(const uint8_t *row, int32_t i)
{
    float2 f;
    if (format == KV_FORMAT_KV32)
        return *(const float2 *)(row + kv32_row_bytes(2 * (uint32_t)i));
    if (format == KV_FORMAT_KV8) {
        uint16_t two = *(const uint16_t *)(row + kv8_row_bytes(2 * (uint32_t)i));
        kv8_get(&f.x, &two, 2, 1);
        return f;
    }
    uint32_t raw = *(const uint32_t *)(row + kv16_row_bytes(2 * (uint32_t)i));
    kv16_get(&f.x, &raw, 2);
    return f;
}

#endif
