/* fmt_kv16 - KV rows as bfloat16, round to nearest even. Row: dim x 2 bytes. C17 and C++17. */
#ifndef HEARTH_KV_FMT_KV16_H
#define HEARTH_KV_FMT_KV16_H

#include "engine/base/f16.h"

#include <stdint.h>

DEVICE_TOO uint64_t kv16_row_bytes(uint32_t dim)
{
    return (uint64_t)dim * 2;
}

DEVICE_TOO void kv16_put(void *row, const float *x, uint32_t dim)
{
    uint16_t *r = (uint16_t *)row;
    for (uint32_t i = 0; i < dim; i++)
        r[i] = bf16_from_f32(x[i]);
}

DEVICE_TOO void kv16_get(float *out, const void *row, uint32_t dim)
{
    const uint16_t *r = (const uint16_t *)row;
    for (uint32_t i = 0; i < dim; i++)
        out[i] = bf16_to_f32(r[i]);
}

#endif
