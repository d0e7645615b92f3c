/* fmt_kv8 - KV rows in 8 bits: e4m3 (sign, 4 bits of exponent, 3 of mantissa) of x / scale. Row: dim x 1 byte.
 *
 * The scale is that of the layer, the kv head and K or V (kv_view.scale). What is beyond 448 scales becomes 448; NaN
 * stays NaN. With a power of 2 as scale what is read is exact in bfloat16 and half, too. C17 and C++17.
 * Micikevicius et al. 2022, "FP8 formats for deep learning", table 1.
 */
#ifndef HEARTH_KV_FMT_KV8_H
#define HEARTH_KV_FMT_KV8_H

#include "engine/base/f16.h"

#include <stdint.h>

#define KV8_MAX 448.0f

/* Nearest, ties to even. */
DEVICE_TOO uint8_t e4m3_from_f32(float f)
{
    uint32_t u = f32_bits(f), sign = u >> 24 & 0x80u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (mag >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (mag < 0x3c800000u) { /* below 2^-6: adding 2^14 makes the float unit round at 2^-9 */
        float r = f32_from_bits(mag) + 16384.0f;
        return (uint8_t)(sign | (f32_bits(r) - 0x46800000u));
    }
    return (uint8_t)(sign | ((mag - 0x3c000000u + 0x7ffffu + (mag >> 20 & 1u)) >> 20));
}

DEVICE_TOO float e4m3_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, exp = b >> 3 & 15u, man = b & 7u;
    if ((b & 0x7fu) == 0x7fu)
        return f32_from_bits(sign | 0x7fc00000u);
    if (exp)
        return f32_from_bits(sign | (exp + 120u) << 23 | man << 20);
    return f32_from_bits(f32_bits((float)man * 0.001953125f) | sign); /* subnormal: man x 2^-9 */
}

DEVICE_TOO uint64_t kv8_row_bytes(uint32_t dim)
{
    return dim;
}

DEVICE_TOO void kv8_put(void *row, const float *x, uint32_t dim, float scale)
{
    uint8_t *r = (uint8_t *)row;
    for (uint32_t i = 0; i < dim; i++)
        r[i] = e4m3_from_f32(x[i] / scale);
}

DEVICE_TOO void kv8_get(float *out, const void *row, uint32_t dim, float scale)
{
    const uint8_t *r = (const uint8_t *)row;
    for (uint32_t i = 0; i < dim; i++)
        out[i] = e4m3_to_f32(r[i]) * scale;
}

#endif
